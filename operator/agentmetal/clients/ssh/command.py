"""The one place where an argument vector becomes the command line that SSH wants. Called by `host.py`; pure.

SSH has no argument vectors: the host's login shell (any POSIX shell) takes the line apart again.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from agentmetal.core.errors import Invalid


def command_line(argv: Sequence[str]) -> str:
    """The line that a POSIX shell takes apart into exactly these arguments. Raises Invalid for what no line can say."""
    if not argv or not argv[0]:
        raise Invalid(f"{list(argv)!r} names no command: the first argument is the program")
    if any("\0" in argument for argument in argv):
        raise Invalid(f"an argument of {argv[0]!r} holds a NUL: no program can be given that")
    # shlex leaves `if` and `A=b` as they are; in first place a shell would read a keyword and an assignment.
    program = "'" + argv[0].replace("'", "'\"'\"'") + "'"
    line = " ".join([program, *map(shlex.quote, argv[1:])])
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"an argument of {argv[0]!r} is not valid Unicode text") from error
    return line
