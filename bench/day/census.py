"""What an operator process keeps: how many entries stand in each container of each of its parts. Used by `story`.

It walks from the core through everything that is ours, so a container that is added tomorrow is counted tomorrow.
Not counted: worlds (clouds, hosts, API servers and stores in memory), resources and other values, closures.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentmetal.app import Core
from agentmetal.engine.metrics import Metrics

OURS = ("agentmetal", "agentmetal_tools")
WORLDS = ("agentmetal.kube.memory", "agentmetal.providers.fake", "agentmetal.store.memory")
SEVERAL = (dict, list, set, tuple, deque)


def census(core: Core) -> Counter[str]:
    """Entries by `Class.attribute`, and the series of metrics that name an object."""
    counted: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: list[Any] = [core]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        for name, value in vars(part).items():
            if isinstance(value, SEVERAL):
                counted[f"{type(part).__name__}.{name}"] += _entries(value)
            waiting.extend(one for one in _flat(value) if _is_part(one))
    counted["series of metrics about objects"] = _series(core.metrics)
    return counted


def kept_objects() -> Counter[str]:
    """Living Python objects of our own classes, by class: what is neither in use nor garbage."""
    gc.collect()
    found = Counter(type(one) for one in gc.get_objects())
    named: Counter[str] = Counter()
    for kind, count in found.items():
        module = getattr(kind, "__module__", None)
        if isinstance(module, str) and module.split(".")[0] in OURS and not module.startswith(WORLDS):
            named[f"{module}.{kind.__name__}"] += count
    return named


def tasks() -> int:
    """Tasks of this loop that have not ended."""
    return len(asyncio.all_tasks())


def open_files() -> int:
    """File descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def _entries(value: Any) -> int:
    """Of it and of the containers in it."""
    inside = value.values() if isinstance(value, Mapping) else value
    return len(value) + sum(_entries(one) for one in inside if isinstance(one, SEVERAL))


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, SEVERAL):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _flat(one)
    else:
        yield value


def _is_part(value: Any) -> bool:
    module = type(value).__module__
    ours = module.split(".")[0] in OURS and not module.startswith(WORLDS)
    return ours and not isinstance(value, BaseModel) and hasattr(value, "__dict__")


def _series(metrics: Metrics) -> int:
    return sum("namespace" in sample.labels for family in metrics.registry.collect() for sample in family.samples)
