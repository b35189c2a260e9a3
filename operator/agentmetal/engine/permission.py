"""May a step begin, go on, act? Asked anew before each of them. Called by the executor and by the attempts.

The gate answers one question once; this asks it again as long as there is no answer or it says hold, and knows how
young its last word is. It reads nothing and judges nothing by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from agentmetal.core.condition import Reason
from agentmetal.core.errors import Forbidden, Transient
from agentmetal.core.risk import Risk
from agentmetal.core.tool import AnyTool
from agentmetal.engine.gate import Answer, Gate, Go, Stop
from agentmetal.engine.run import Draining, Run

GO_LASTS = 1.0
"""Seconds: what the gate said longer ago is asked once more, right before a step acts."""
HOLD_LOOK = 30.0
"""Seconds between looks while a plan is held; news come at once by `nudge`."""


class Permission:
    """The gate's word, for steps. One per executor; before the process ends nothing is permitted any more."""

    def __init__(self, gate: Gate, tools: Mapping[str, AnyTool]) -> None:
        self._gate = gate
        self._tools = tools
        self.draining = False

    async def may_begin(self, run: Run, index: int, *, quorum: bool) -> Stop | None:
        """Ask the gate until it says go or stop, anew for each step. A critical section only asks who leads.

        Without `quorum` the cache may say go; anything else it says of a step above Safe is looked into.
        """
        critical = self._critical(run, index)
        above_safe = run.operation.spec.steps[index].risk.exceeds(Risk.SAFE)
        delay, run.allowed_at = 0.2, float("-inf")
        while True:
            if self.draining:
                raise Draining
            run.nudge.clear()
            if run.stop_request and not critical:
                return Stop(message=run.stop_request)
            try:
                answer, resource = await self._gate.ask(run.operation, run.key, quorum=quorum)
            except (Transient, Forbidden) as error:  # a young API server does not know our roles yet
                run.trouble(f"no step without an answer of the API server: {error.message}")
                await run.pause(delay)
                delay = min(delay * 2, 5.0)
                continue
            run.resource = resource or run.resource
            if critical or isinstance(answer, Go):
                if run.holding and run.holding.reason is not Reason.AUDIT_UNAVAILABLE:
                    run.relieve()
                if quorum or not above_safe:
                    run.allowed_at = asyncio.get_running_loop().time()
                return None
            if above_safe and not quorum:
                quorum = True
                continue
            if isinstance(answer, Stop):
                return answer
            run.hold(answer)
            await run.pause(HOLD_LOOK)

    async def goes(self, run: Run, index: int) -> bool:
        """Ask the gate with the locks held: the line for them may be minutes long. False: ask as `may_begin` does."""
        if self._told_to_stop(run, index):
            return False
        if _lasts(run):
            return True
        try:
            answer, resource = await self._gate.ask(run.operation, run.key, quorum=True)
        except (Transient, Forbidden):
            return False
        run.resource = resource or run.resource
        return self._agreed(run, answer, critical=self._critical(run, index))

    async def still_goes(self, run: Run, index: int) -> bool:
        """Facts and intent may have taken minutes on a bad day of the API: somebody may have said stop since.

        The journal is not read: that the intent could be written says that it is open and ours.
        """
        if self._told_to_stop(run, index):
            return False
        if self._critical(run, index) or _lasts(run):
            return True
        try:
            answer = await self._gate.ask_object(run.operation, run.key)
        except (Transient, Forbidden):
            return False
        return self._agreed(run, answer, critical=False)

    def _told_to_stop(self, run: Run, index: int) -> bool:
        """However young the gate's last word is: the process ends, or somebody has said stop to us."""
        return self.draining or bool(run.stop_request and not self._critical(run, index))

    def _agreed(self, run: Run, answer: Answer, *, critical: bool) -> bool:
        go = critical or (isinstance(answer, Go) and not run.stop_request)
        if not go or self.draining:
            return False
        run.allowed_at = asyncio.get_running_loop().time()
        return True

    def _critical(self, run: Run, index: int) -> bool:
        """May the plan not be left before this step?"""
        return index > 0 and not self._tools[run.operation.spec.steps[index - 1].tool].leave_after


def _lasts(run: Run) -> bool:
    """Is what the gate said last young enough to act on?"""
    return asyncio.get_running_loop().time() - run.allowed_at <= GO_LASTS
