"""What many cached objects have in common is kept once: two thirds of their memory. Used by `kube.cache` alone.

pydantic gives every model a set of its own with the names of the fields that were given (700 bytes for six names), and
a parsed answer has a string of its own for every `AsSpecified`. Models here are frozen, so nobody changes what is
shared; a copy of a model gets its own set again.
"""

from __future__ import annotations

import sys
from typing import TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

_FIELDS: dict[frozenset[str], set[str]] = {}
"""One for each combination of given fields: a few dozen."""


def lean(model: M) -> M:
    """The same model, sharing what it can, all the way down."""
    _share(model)
    return model


def _share(value: object) -> object:
    """The value to keep in its place."""
    if isinstance(value, BaseModel):
        given = value.model_fields_set
        object.__setattr__(value, "__pydantic_fields_set__", _FIELDS.setdefault(frozenset(given), given))
        for name, part in value.__dict__.items():
            value.__dict__[name] = _share(part)
    elif isinstance(value, tuple):
        return tuple(_share(part) for part in value) if value else value
    elif type(value) is str:  # never an enum's
        return sys.intern(value)
    return value
