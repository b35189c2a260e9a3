"""The figures of a run so far, on disk after each part: an interruption loses nothing. Filled by `__main__`, `scale`.

Knows parts by name and keeps them in the order of their first mention; decides nothing about figures.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import report
from bench.attempts import attempt
from bench.figures import Figure


@dataclass(kw_only=True)
class Sheet:
    """One run."""

    path: Path
    at: datetime
    objects: int
    say: Callable[[str], None]
    _parts: dict[str, list[Figure]] = field(default_factory=dict)

    def expect(self, *parts: str) -> None:
        """Their place in the table, whenever they come."""
        for part in parts:
            self._parts.setdefault(part, [])

    def add(self, part: str, figures: Iterable[Figure]) -> None:
        """What a part has measured; on disk when this returns."""
        self._parts.setdefault(part, []).extend(figures)
        report.save(self.path, self.document())

    async def attempt(self, part: str, measuring: Awaitable[Iterable[Figure]], *, what: str = "") -> None:
        """What a part (or `what` of it) measures; or one figure that is missed and says why."""
        self.add(part, await attempt(self.say, what or part, measuring))

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All of them."""
        return tuple(figure for figures in self._parts.values() for figure in figures)

    def document(self) -> dict[str, Any]:
        """The run as it is kept."""
        return report.document(self.figures, at=self.at, objects=self.objects)
