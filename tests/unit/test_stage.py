"""What a process says of itself: ready is who leads or stands by, leading is who acts."""

from __future__ import annotations

import pytest

from agentmetal.stage import Stage, Standing


@pytest.mark.parametrize(
    ("stage", "leader", "ready", "leading", "told"),
    [
        (Stage.STARTING, None, False, False, "starting"),
        (Stage.STANDING_BY, None, False, False, "starting: the lease was not seen yet"),
        (Stage.STANDING_BY, "a", True, False, "standing by: 'a' leads"),
        (Stage.STANDING_BY, "", True, False, "standing by: nobody leads"),
        (Stage.TAKING_OVER, "b", True, False, "taking over"),
        (Stage.LEADING, "b", True, True, "leading"),
        (Stage.ENDING, "b", False, False, "ending"),
    ],
)
def test_both_replicas_are_ready_and_one_leads(
    stage: Stage, leader: str | None, ready: bool, leading: bool, told: str
) -> None:
    standing = Standing(leader=lambda: leader, held=lambda: True, stage=stage)
    assert standing.ready() == (ready, told)
    assert standing.leading()[0] is leading
    assert standing.healthy() == (True, "ok")


def test_whoever_cannot_renew_does_not_say_that_it_leads() -> None:
    standing = Standing(leader=lambda: "a", held=lambda: False, stage=Stage.LEADING)
    assert standing.leading() == (False, "it holds the lease no longer")
    assert standing.ready() == (True, "leading")
