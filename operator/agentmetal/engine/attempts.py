"""One step until it ended: calls, waiting, retries. Made by the executor for each step; decides nothing about plans."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agentmetal.core.condition import Reason
from agentmetal.core.errors import AgentMetalError, CommandFailed, OutcomeUnknown, StaleLeader, Transient
from agentmetal.core.operation import StepState
from agentmetal.core.quantity import seconds
from agentmetal.core.resource import ApiModel
from agentmetal.core.risk import Risk
from agentmetal.core.tool import AnyTool, InDoubt, NotYet
from agentmetal.engine.gate import Hold
from agentmetal.engine.run import AUDIT_LOOK, AskAgain, Ending, Left, Run, StepFailed
from agentmetal.engine.trail import AuditUnavailable

if TYPE_CHECKING:
    from agentmetal.engine.executor import Executor

LONGEST_BACKOFF = 30.0
WAIT_LOOK = 5.0
"""A step that only waits reads the API so often; in between the cache tells, and every nudge is looked into at once."""


class Attempts:
    """One step until it ended: calls, waiting, retries. A new attempt (a new unit) only after a known failure."""

    def __init__(
        self, executor: Executor, run: Run, index: int, tool: AnyTool, params: ApiModel, *, begun: bool
    ) -> None:
        self._executor = executor
        self._run = run
        self._index = index
        self._tool = tool
        self._params = params
        self._begun = begun
        self._attempt = max(1, run.operation.status.steps[index].attempt)
        self._failures = 0
        self._waits = False
        """The last call answered NotYet."""
        self._unanswered = False
        """The last call got no answer, nor did any before it: the next one may be the first that arrives."""
        self._asked = float("-inf")
        self._since: float | None = None
        """Of the first answer: the line before the first call may be as long as it likes."""

    async def until_ended(self) -> Ending:
        """Turn after turn; between two of them the plan may be left if nothing of ours is under way."""
        ask, unsure = True, False
        while True:
            quorum = ask and (self._quorum() or unsure)
            if ask and (stop := await self._executor.permission.may_begin(self._run, self._index, quorum=unsure)):
                return Left(stop=stop)
            async with self._executor.held(self._run, self._tool, self._params):
                # The read that counts is made here: what was read before the line for the locks is read for nothing.
                unsure = quorum and not await self._executor.permission.goes(self._run, self._index)
                if unsure:
                    continue
                ending, delay = await self._turn()
            if ending is not None:
                return ending
            await self._run.pause(delay)
            ask = self._leaves()

    def _quorum(self) -> bool:
        """Must the API be read before the next call? Before all that begin something; a mere wait asks now and then."""
        now = asyncio.get_running_loop().time()
        if not self._run.operation.spec.steps[self._index].risk.exceeds(Risk.SAFE):
            return False
        if self._waits and not self._run.nudge.is_set() and now - self._asked < WAIT_LOOK:
            return False
        self._asked = now
        return True

    async def _turn(self) -> tuple[Ending | None, float]:
        """Calls under the locks, until it ended or may wait without them."""
        while True:
            ending, delay = await self._once()
            if ending is not None or self._leaves():
                return ending, delay
            await asyncio.sleep(delay)

    def _leaves(self) -> bool:
        """Are the locks released, and the gate asked, before the next call? Not while it is known to go on."""
        return self._tool.releases_while_waiting or not self._begun or self._unanswered

    async def _once(self) -> tuple[Ending | None, float]:
        """One call, and what its ending means: an end, or how long to wait for the next call."""
        self._waits = self._unanswered = False
        try:
            ended = await self._executor.call(
                self._run, self._index, self._tool, self._params, self._attempt, begun=self._begun
            )
        except StaleLeader:
            raise
        except AuditUnavailable as error:  # no failure of the step: it was not begun
            self._run.hold(Hold(reason=Reason.AUDIT_UNAVAILABLE, message=error.message))
            return None, AUDIT_LOOK
        except CommandFailed as error:
            return self._again(error.message, known=True)
        except (Transient, OutcomeUnknown) as error:
            return self._again(error.message, known=False)
        except TimeoutError:
            return self._again(f"no answer within {self._tool.timeout:g} s", known=False)
        except AgentMetalError as error:
            return StepFailed(message=f"{error.message} ({error.who_must_act} must act)"), 0.0
        if isinstance(ended, AskAgain):
            return None, 0.0
        self._run.relieve()
        self._begun = True
        if not isinstance(ended, NotYet):
            return ended, 0.0
        self._waits = True
        self._run.note = ended.message  # not worth a status write: patience is part of the plan
        now = asyncio.get_running_loop().time()
        self._since = now if self._since is None else self._since
        if now - self._since > self._tool.patience:
            return StepFailed(message=f"not done within {self._tool.patience:g} s: {ended.message}"), 0.0
        return None, ended.again_in

    def _again(self, message: str, *, known: bool) -> tuple[Ending | None, float]:
        """Try again, within bounds. What is not known to have failed keeps its attempt, so nothing runs twice."""
        running = self._run.operation.status.steps[self._index].state is StepState.RUNNING
        if running and not known and not self._tool.idempotent:
            return InDoubt(message=f"{message}; whether it was done cannot be known"), 0.0
        management = self._run.resource.management
        self._failures += 1
        if self._failures > management.retries:
            return StepFailed(message=f"{message} (tried {self._failures} times)"), 0.0
        self._run.trouble(f"tried {self._failures} times: {message}")
        self._begun = running and not known
        self._unanswered = self._begun and self._since is None
        if running and known:
            self._attempt += 1
        delay = seconds(management.retry_backoff) * 2 ** (self._failures - 1)
        return None, min(delay, LONGEST_BACKOFF)
