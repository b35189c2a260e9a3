"""python -m bench.day HOURS OBJECTS SEED: one simulated day in a process of its own, for its loop is a virtual one.

Prints the figures as JSON in one line; progress and what was found go to stderr.
"""

from __future__ import annotations

import json
import sys

from bench.day.figures import measure
from bench.figures import to_json


def main() -> None:
    """The day."""
    hours, objects, seed = map(int, sys.argv[1:])
    figures = measure(lambda line: print(line, file=sys.stderr, flush=True), hours=hours, objects=objects, seed=seed)
    print(json.dumps(to_json(figures)))


if __name__ == "__main__":
    main()
