"""Alive means: heard of lately, and moving."""

import pytest

from agentmetal.kube.health import healthy_when


@pytest.mark.parametrize(
    ("heard", "queue", "healthy", "sentence"),
    [
        pytest.param({}, (0, 0.0), True, "ok", id="nothing watched yet"),
        pytest.param({"Instance": 911.0, "Provider": 1000.0}, (0, 0.0), True, "ok", id="heard of lately"),
        pytest.param({"Instance": 910.0}, (0, 0.0), False, "the watch of Instance is silent for 90 s", id="silent"),
        pytest.param({"Instance": 999.0}, (0, 100.0), True, "ok", id="an empty queue need not move"),
        pytest.param({"Instance": 999.0}, (7, 950.0), True, "ok", id="a queue that moves"),
        pytest.param(
            {"Instance": 999.0}, (7, 900.0), False, "the queue holds 7 and has not moved for 100 s", id="a stuck queue"
        ),
        pytest.param(
            {"Provider": 800.0, "Instance": 700.0},
            (1, 0.0),
            False,
            "the watch of Instance is silent for 300 s; the watch of Provider is silent for 200 s;"
            " the queue holds 1 and has not moved for 1000 s",
            id="all at once",
        ),
    ],
)
def test_health_says_what_does_not_live(
    heard: dict[str, float], queue: tuple[int, float], healthy: bool, sentence: str
) -> None:
    assert healthy_when(lambda: 1000.0, lambda: heard, lambda: queue)() == (healthy, sentence)
