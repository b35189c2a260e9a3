"""How long a step may say "not yet": from its first answer on, however long the line before it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from tests.support.operations import instance, operation

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.core.operation import OperationStatus, StepStatus
from agentmetal.core.tool import NotYet, Result, StepEnd
from agentmetal.engine.attempts import Attempts
from agentmetal.engine.executor import Executor
from agentmetal.engine.run import Run, StepFailed
from agentmetal_tools.instance import wait_for_ready

pytestmark = pytest.mark.looptime


class Line:
    """An executor and its permission, with a line before its places; the first turns are told "not yet"."""

    def __init__(self, *, wait: float, not_yet: int) -> None:
        self.permission = self
        self._wait = wait
        self._answers: list[StepEnd] = [*[NotYet(again_in=10.0, message="it boots")] * not_yet, Result(message="done")]

    async def may_begin(self, *_: object, **__: object) -> None:
        """Always."""

    async def goes(self, *_: object) -> bool:
        return True

    @asynccontextmanager
    async def held(self, *_: object) -> AsyncIterator[None]:
        await asyncio.sleep(self._wait)
        self._wait = 0.0
        yield

    async def call(self, *_: object, **__: object) -> StepEnd:
        return self._answers.pop(0)


async def ended(line: Line) -> Any:
    """How the step ends."""
    resource, planned = instance(), operation()
    begun = planned.model_copy(update={"status": OperationStatus(steps=(StepStatus(),))})
    run = Run(
        key=resource.key,
        agent=cast(InstanceAgent, None),
        resource=resource,
        operation=begun,
        observed=None,
        wake=lambda _key, _delay: None,
    )
    params = cast(Any, None)  # nothing here looks at it
    return await Attempts(cast(Executor, line), run, 0, wait_for_ready, params, begun=False).until_ended()


async def test_the_line_before_the_first_call_uses_up_no_patience() -> None:
    assert isinstance(await ended(Line(wait=2 * wait_for_ready.patience, not_yet=3)), Result)


async def test_patience_ends_however_short_the_line_was() -> None:
    failed = await ended(Line(wait=0.0, not_yet=1000))
    assert isinstance(failed, StepFailed)
    assert f"not done within {wait_for_ready.patience:g} s: it boots" in failed.message
