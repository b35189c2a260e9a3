"""What a model becomes."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import ConfigDict, Field

from agentmetal.core.quantity import DURATION_PATTERN, Duration
from agentmetal.core.resource import ApiModel, Management, Ref
from agentmetal.kube.crds.schema import structural


class Colour(StrEnum):
    """A docstring about the enum that is no use to readers of one field."""

    RED = "Red"
    BLUE = "Blue"


class Timeouts(ApiModel):
    """How long to wait."""

    connect: Duration = Field(default="5s", description="To connect.")


class Paint(ApiModel):
    """What to paint."""

    colour: Colour = Field(default=Colour.RED, description="Its colour.")
    second: Colour | None = Field(default=None, description="Another colour.")
    third: Colour | None = Field(default=Colour.BLUE, description="Yet another.")
    wall_ref: Ref = Field(description="The wall.")
    ceiling_ref: Ref | None = Field(default=None, description="The ceiling.")
    timeouts: Timeouts = Field(default=Timeouts(), description="Its patience.")
    other_timeouts: Timeouts = Field(default_factory=Timeouts, description="Other patience.")
    no_timeouts: Timeouts | None = Field(default=None, description="Off unless given.")
    layers: tuple[str, ...] = Field(default=(), max_length=4, description="Layers.")
    kinds: tuple[Colour, ...] = Field(default=(Colour.RED,), max_length=2, description="Kinds.")
    parts: tuple[Timeouts, ...] = Field(default=(), max_length=4, description="Parts.")
    labels: dict[str, str] = Field(default={}, max_length=8, description="Labels.")
    format: Literal["v1"] = Field(default="v1", description="Format.")
    extra: dict[str, Any] | None = Field(
        default=None, description="Anything.", json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )


FIELDS = structural(Paint)["properties"]


def test_only_fields_without_default_are_required() -> None:
    assert structural(Paint)["required"] == ["wallRef"]


def test_enum_is_inlined_with_the_description_of_the_field() -> None:
    assert FIELDS["colour"] == {
        "description": "Its colour.",
        "type": "string",
        "default": "Red",
        "enum": ["Red", "Blue"],
    }


def test_optional_field_is_the_value_itself_neither_required_nor_nullable() -> None:
    assert FIELDS["second"] == {"description": "Another colour.", "type": "string", "enum": ["Red", "Blue"]}
    assert FIELDS["third"]["default"] == "Blue"
    assert FIELDS["ceilingRef"]["description"] == "The ceiling."
    assert FIELDS["ceilingRef"]["required"] == ["name"]


def test_sub_model_defaults_to_an_empty_object_and_its_fields_fill_themselves() -> None:
    assert FIELDS["timeouts"]["default"] == {}
    assert FIELDS["otherTimeouts"]["default"] == {}
    assert FIELDS["timeouts"]["properties"]["connect"]["default"] == "5s"


def test_sub_model_that_defaults_to_none_is_not_switched_on() -> None:
    assert "default" not in FIELDS["noTimeouts"]


def test_sequences_and_maps_have_literal_defaults_and_bounds() -> None:
    assert FIELDS["layers"] == {
        "description": "Layers.",
        "type": "array",
        "default": [],
        "maxItems": 4,
        "items": {"type": "string"},
    }
    assert FIELDS["kinds"]["default"] == ["Red"]
    assert FIELDS["parts"]["items"]["description"] == "How long to wait."
    assert FIELDS["labels"] == {
        "description": "Labels.",
        "type": "object",
        "default": {},
        "maxProperties": 8,
        "additionalProperties": {"type": "string"},
    }


def test_constant_is_an_enum_of_one() -> None:
    assert FIELDS["format"]["enum"] == ["v1"]


def test_map_of_anything_is_an_object_that_keeps_what_it_does_not_know() -> None:
    assert FIELDS["extra"] == {
        "description": "Anything.",
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }


def test_bounds_and_patterns_survive() -> None:
    retries = structural(Management)["properties"]["retries"]
    assert (retries["minimum"], retries["maximum"]) == (0, 100)
    assert FIELDS["timeouts"]["properties"]["connect"]["pattern"] == DURATION_PATTERN


def test_rules_of_a_field_and_of_its_model_are_both_kept() -> None:
    class Ruled(ApiModel):
        model_config = ConfigDict(
            json_schema_extra={"x-kubernetes-validations": [{"message": "at most 9", "rule": "self.size <= 9"}]}
        )
        size: int = Field(description="Size.")

    class Holder(ApiModel):
        ruled: Ruled = Field(
            description="Ruled.",
            json_schema_extra={"x-kubernetes-validations": [{"message": "at least 3", "rule": "self.size >= 3"}]},
        )

    rules = structural(Holder)["properties"]["ruled"]["x-kubernetes-validations"]
    assert [rule["rule"] for rule in rules] == ["self.size <= 9", "self.size >= 3"]
    assert list(rules[0]) == ["rule", "message"]
