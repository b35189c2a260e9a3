"""The key pairs in a Provider's Secret, and how far a rotation is: pure. Used by the tools and by `agents.provider`.

    steady      ssh-privatekey, ssh-publickey; `rotation` names the last one that was asked for and done
    spreading   beside it next-privatekey, next-publickey, next-since: hosts are told of the next key
    revoking    the next one is current; previous-* is what it was, until no host accepts that any more

The previous private key is kept just as long: a host that turns up late is opened with it and given the new one. So
at no moment is a host that we could log in to without a key in this Secret that opens it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from agentmetal.core.canonical import sha256_hex
from agentmetal.core.operation import moment
from agentmetal_tools.hosts import CLIENT_PRIVATE, CLIENT_PUBLIC

NEXT_PRIVATE = "next-privatekey"
NEXT_PUBLIC = "next-publickey"
NEXT_SINCE = "next-since"
PREVIOUS_PRIVATE = "previous-privatekey"
PREVIOUS_PUBLIC = "previous-publickey"
ROTATION = "rotation"
MAX_ROTATION = 64


class Stage(StrEnum):
    """How far a rotation is."""

    NONE = "there is no client key"
    STEADY = "there is one client key"
    SPREADING = "a next client key is being spread"
    REVOKING = "the previous client key is being revoked"


def stage_of(held: Mapping[str, bytes]) -> Stage:
    """How far it is, by what the Secret holds."""
    if not held.get(CLIENT_PRIVATE) or not held.get(CLIENT_PUBLIC):
        return Stage.NONE
    if PREVIOUS_PUBLIC in held:
        return Stage.REVOKING
    return Stage.SPREADING if NEXT_PUBLIC in held else Stage.STEADY


def rotation_named(annotation: str) -> str:
    """What a value of agentmetal.io/rotate is called in the Secret and in plans: itself, unless it is long or odd."""
    annotation = annotation.strip()  # as `text` reads it back: else a blank at its end would ask for ever
    plain = len(annotation) <= MAX_ROTATION and annotation.isascii() and annotation.isprintable()
    return annotation if plain else sha256_hex(annotation)


def rotation_done(held: Mapping[str, bytes]) -> str:
    """The last rotation that was asked for and switched to."""
    return text(held, ROTATION)


def switched(held: Mapping[str, bytes], rotation: str) -> dict[str, bytes | None]:
    """What makes the next key the current one, in one write."""
    return {
        CLIENT_PRIVATE: held[NEXT_PRIVATE],
        CLIENT_PUBLIC: held[NEXT_PUBLIC],
        PREVIOUS_PRIVATE: held[CLIENT_PRIVATE],
        PREVIOUS_PUBLIC: held[CLIENT_PUBLIC],
        ROTATION: rotation.encode() or held.get(ROTATION),
    }


OVER: Mapping[str, bytes | None] = dict.fromkeys(
    (NEXT_PRIVATE, NEXT_PUBLIC, NEXT_SINCE, PREVIOUS_PRIVATE, PREVIOUS_PUBLIC)
)
"""What is taken out when no host accepts the previous key any more."""


def public_keys(held: Mapping[str, bytes]) -> tuple[str, ...]:
    """The public keys that a new server must accept, the current one first."""
    return tuple(dict.fromkeys(key for name in (CLIENT_PUBLIC, NEXT_PUBLIC) if (key := text(held, name))))


def next_since(held: Mapping[str, bytes]) -> datetime | None:
    """Since when new servers get the next key."""
    return moment(text(held, NEXT_SINCE))


def text(held: Mapping[str, bytes], name: str) -> str:
    """A value as text without blanks around it."""
    return held.get(name, b"").decode("ascii", "replace").strip()
