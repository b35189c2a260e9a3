"""Stories about one changed field: the change on a living object, its undoing, and the same spec from the beginning."""

from __future__ import annotations

from dataclasses import replace

from tests.faults.mutation.living import Living, Subject
from tests.faults.mutation.values import Mutation

from agentmetal.core.errors import Forbidden, Invalid

FRESH = ("Instance/web-1", "Provider/lab", "ApprovalPolicy/careful")
"""Subjects of which a second one is made from the beginning with the changed spec."""


async def there_and_back(world: Living, subject: Subject, mutation: Mutation) -> bool:
    """Change the spec, see that it settles, change it back, see that all is as before. False: the API refused it."""
    before, original = world.fingerprint(), world.spec(subject)
    story = f"{subject} {mutation}"
    if not await _accepted(world, subject, mutation, story):
        assert world.spec(subject) == original, f"{story} was refused, and has changed something"
        return False
    await world.settle(story)
    await world.judge(story)
    try:
        await world.write(subject, original)
    except Invalid as error:
        assert "cannot be changed" in error.message, f"{story} cannot be undone: {error}"
        raise
    await world.settle(f"undoing {story}")
    await world.judge(f"undoing {story}")
    after = world.fingerprint()
    assert after == before, f"undoing {story} does not lead back: {_difference(before, after)}"
    return True


async def from_the_beginning(world: Living, subject: Subject, mutation: Mutation) -> bool:
    """Create another object with that spec, see that it settles, and that deleting it leaves nothing behind."""
    before, other = world.fingerprint(), replace(subject, name="another")
    story = f"a new {subject.kind} with {mutation}"
    try:
        await world.create(other, mutation.spec)
    except (Invalid, Forbidden) as error:
        _understandable(error, story)
        return False
    await world.settle(story)
    await world.judge(story)
    releases = world.releases(other)
    await world.remove(other)
    await world.settle(f"deleting {story}")
    assert not world.exists(other), f"deleting {story} never ends: {world.told()}"
    await world.judge(f"deleting {story}", deletes=True)
    after = world.fingerprint()
    if not releases:
        assert after == before, f"deleting {story} left something behind: {_difference(before, after)}"
    return True


async def _accepted(world: Living, subject: Subject, mutation: Mutation, story: str) -> bool:
    try:
        await world.write(subject, mutation.spec)
    except (Invalid, Forbidden) as error:
        _understandable(error, story)
        return False
    return True


def _understandable(error: Invalid | Forbidden, story: str) -> None:
    """A rule of a CRD or of admission refused it, in words."""
    words = error.message.split()
    assert len(words) > 5, f"{story} is refused with {error.message!r}"
    assert "should match" not in error.message, f"{story} is refused by a bare pattern: {error.message!r}"


def _difference(before: object, after: object, path: str = "") -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        parts = [_difference(before.get(k), after.get(k), f"{path}/{k}") for k in keys]
        return "; ".join(part for part in parts if part)
    return "" if before == after else f"{path}: {before!r} became {after!r}"
