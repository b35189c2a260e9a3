"""The SQL of the PostgreSQL store, from the files beside it: numbered migrations, and statements by name."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_MIGRATION = re.compile(r"(\d{4})_\w+\.sql")


@cache
def statements() -> dict[str, bytes]:
    """What `sql/queries.sql` holds, by name; without its comments."""
    _, *parts = _NAME.split(_directory().joinpath("queries.sql").read_text(encoding="utf-8"))
    return {name: _bare(text).encode() for name, text in zip(parts[::2], parts[1::2], strict=True)}


@cache
def migrations() -> dict[int, bytes]:
    """The files `sql/<number>_<what>.sql` by number. Each is added to the ones before, never changed."""
    found = sorted((path for path in _directory().iterdir() if _MIGRATION.fullmatch(path.name)), key=lambda p: p.name)
    return {int(path.name[:4]): path.read_bytes() for path in found}


def _directory() -> resources.abc.Traversable:
    return resources.files("agentmetal.store").joinpath("sql")


def _bare(text: str) -> str:
    lines = (line for line in text.splitlines() if not line.startswith("--"))
    return "\n".join(lines).strip().removesuffix(";")
