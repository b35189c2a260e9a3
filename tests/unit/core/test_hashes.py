"""What an approval is bound to. The golden values change only with plan.FORMAT, and the changelog says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentmetal.core.canonical import canonical, sha256_hex
from agentmetal.core.errors import Invalid
from agentmetal.core.plan import MAX_PARAMETER_BYTES, MAX_STEPS, Plan, Step, digest
from agentmetal.core.quantity import seconds
from agentmetal.core.resource import Key
from agentmetal.core.risk import Risk

KEY = Key("Instance", "shop", "web")
UID = "aaaabbbb-0000-4000-8000-000000000001"
STEP = Step(
    tool="rebuild_instance",
    parameters={"server": "web-aaaabbbb", "serverID": "s-1", "image": "bookworm"},
    risk=Risk.DANGEROUS,
    description="Replace the disks",
    evidence="server 's-1' is Running",
)
PLAN = Plan(steps=(STEP,), reasoning="image: a -> b", targets={"serverID": "s-1"})
GOLDEN_HASH = "e78bae9e375197ceefae0c71fb479661016eff102c62abe71068039e51f0c061"
GOLDEN_DIGEST = "sha256:366ca0756c169886ad31c44d411343d6489b86f824edec468f8428336a752615"


def test_the_hash_and_the_digest_of_a_known_plan_never_change() -> None:
    assert PLAN.hash_for(KEY, UID) == GOLDEN_HASH
    assert digest(GOLDEN_HASH, 7) == GOLDEN_DIGEST


def test_words_and_measurements_are_not_hashed() -> None:
    retold = replace(STEP, description="other words", evidence="server 's-1' is Stopped")
    assert replace(PLAN, steps=(retold,), reasoning="other").hash_for(KEY, UID) == GOLDEN_HASH


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAN, steps=(replace(STEP, parameters={**STEP.parameters, "image": "trixie"}),)),
        replace(PLAN, steps=(replace(STEP, risk=Risk.MODERATE),)),
        replace(PLAN, steps=(replace(STEP, optional=True),)),
        replace(PLAN, steps=(replace(STEP, tool="stop_instance"),)),
        replace(PLAN, steps=(STEP, STEP)),
        replace(PLAN, targets={"serverID": "s-2"}),
    ],
    ids=["parameter", "risk", "optional", "tool", "steps", "targets"],
)
def test_everything_that_acts_is_hashed(other: Plan) -> None:
    assert other.hash_for(KEY, UID) != GOLDEN_HASH


@pytest.mark.parametrize("field", ["kind", "namespace", "name"])
def test_a_plan_is_for_one_place_only(field: str) -> None:
    assert PLAN.hash_for(replace(KEY, **{field: "other"}), UID) != GOLDEN_HASH


def test_a_recreated_object_has_other_hashes() -> None:
    assert PLAN.hash_for(KEY, "another-uid") != GOLDEN_HASH


def test_the_same_plan_has_another_digest_each_time_it_is_proposed() -> None:
    assert len({digest(GOLDEN_HASH, number) for number in range(1, 100)}) == 99


def test_the_order_of_parameters_does_not_matter() -> None:
    turned = replace(STEP, parameters=dict(reversed(list(STEP.parameters.items()))))
    assert replace(PLAN, steps=(turned,)).hash_for(KEY, UID) == GOLDEN_HASH


def test_plans_are_bounded() -> None:
    with pytest.raises(Invalid, match="at most 64 steps"):
        Plan(steps=(STEP,) * (MAX_STEPS + 1))
    with pytest.raises(Invalid, match="image of step 'rebuild_instance' would be over 1024 bytes"):
        Plan(steps=(replace(STEP, parameters={"image": "x" * MAX_PARAMETER_BYTES}),))


def test_a_plan_is_as_risky_as_its_riskiest_step_and_an_empty_one_is_safe() -> None:
    assert replace(PLAN, steps=(replace(STEP, risk=Risk.SAFE), STEP)).risk is Risk.DANGEROUS
    assert Plan().risk is Risk.SAFE
    assert not Plan()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None, "x"]}, b'{"a":[true,null,"x"],"b":1}'),
        ({"\u20ac": "\u00e4"}, '{"\u20ac":"\u00e4"}'.encode()),
        ("", b'""'),
        (0, b"0"),
    ],
)
def test_canonical_json_has_one_form(value: object, text: bytes) -> None:
    assert canonical(value) == text


@pytest.mark.parametrize("value", [float("nan"), 2**53, {1: "a"}])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        canonical(value)


def test_sha256_is_over_the_canonical_form() -> None:
    assert sha256_hex({"b": 1, "a": 2}) == sha256_hex({"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("text", "value"), [("30s", 30), ("5m", 300), ("1h30m", 5400), ("24h", 86400), ("1h1m1s", 3661), ("0s", 0)]
)
def test_durations_are_read_as_people_write_them(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["5", "5 m", "1.5h", "-5s", "5s1m", "5d", "123456s", "9" * 40 + "h", "٣s"])
def test_a_wrong_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write a duration such as 30s, 5m or 1h30m"):
        seconds(text)
