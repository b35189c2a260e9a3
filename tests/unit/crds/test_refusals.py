"""What Kubernetes cannot express is refused by name, never dropped: a cluster must not accept what a model rejects."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

import pytest
from pydantic import ConfigDict, Field

from agentmetal.core.resource import ApiModel, Ref
from agentmetal.kube.crds import NotExpressible
from agentmetal.kube.crds.schema import structural

Text = Annotated[str, Field(description="Text.")]


class Sub(ApiModel):
    size: int = Field(default=3, description="Size.")


class Needy(ApiModel):
    size: int = Field(description="Size.")


class Bigger(Sub):
    size: int = Field(default=9, description="Size.")


class ExclusiveMinimum(ApiModel):
    size: int = Field(gt=0, description="Size.")


class ExclusiveMaximum(ApiModel):
    size: int = Field(lt=9, description="Size.")


class BarePattern(ApiModel):
    name: str = Field(pattern="^[a-z]+$", max_length=9, description="Name.")


class Pair(ApiModel):
    pair: tuple[int, str] = Field(description="Pair.")


class Unique(ApiModel):
    names: set[str] = Field(max_length=3, description="Names.")


class Either(ApiModel):
    port: int | str = Field(description="Port.")


class EitherOrNone(ApiModel):
    port: int | str | None = Field(default=None, description="Port.")


class RequiredNull(ApiModel):
    port: int | None = Field(description="Port.")


class NullInList(ApiModel):
    ports: tuple[int | None, ...] = Field(default=(), max_length=3, description="Ports.")


class Untyped(ApiModel):
    value: Any = Field(description="Value.")


class MapOfAnything(ApiModel):
    value: dict[str, Any] = Field(description="Value.")


class MapWithoutBound(ApiModel):
    labels: dict[str, str] = Field(description="Labels.")


class MapWithPattern(ApiModel):
    labels: dict[Annotated[str, Field(max_length=3)], str] = Field(max_length=3, description="Labels.")


class Float(ApiModel):
    ratio: float = Field(description="Ratio.")


class ListWithoutBound(ApiModel):
    names: tuple[str, ...] = Field(default=(), description="Names.")


class NoDescription(ApiModel):
    size: int = 3


class NoDescriptionBesideModel(ApiModel):
    ref: Ref


class NoDescriptionInside(ApiModel):
    parts: tuple[NoDescription, ...] = Field(default=(), max_length=3, description="Parts.")


class FactoryOfList(ApiModel):
    names: list[str] = Field(default_factory=list, max_length=3, description="Names.")


class ChangedDefault(ApiModel):
    sub: Sub = Field(default=Sub(size=4), description="Sub.")


class NeedyDefault(ApiModel):
    sub: Needy = Field(default=Needy(size=4), description="Sub.")


class ForeignDefault(ApiModel):
    sub: Sub = Field(default=Bigger(), description="Sub.")


class ListOfModelsDefault(ApiModel):
    subs: tuple[Sub, ...] = Field(default=(Sub(),), max_length=3, description="Subs.")


class GoDuration(ApiModel):
    wait: timedelta = Field(description="Wait.")


class Recursive(ApiModel):
    inner: Recursive | None = Field(default=None, description="Inner.")


class Cat(ApiModel):
    kind: Literal["Cat"] = Field(description="Kind.")


class Dog(ApiModel):
    kind: Literal["Dog"] = Field(description="Kind.")


class Discriminated(ApiModel):
    pet: Cat | Dog = Field(discriminator="kind", description="Pet.")


class Examples(ApiModel):
    size: int = Field(examples=[3], description="Size.")


class Open(ApiModel):
    model_config = ConfigDict(extra="allow")
    size: int = Field(description="Size.")


class RuleOverLongString(ApiModel):
    model_config = ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [{"rule": "self.name != ''", "message": "name it"}]}
    )
    name: Text


class RuleOverLongItems(ApiModel):
    model_config = ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [{"rule": "self.names.all(n, n != '')", "message": "name it"}]}
    )
    names: tuple[str, ...] = Field(max_length=3, description="Names.")


class RuleOnLongString(ApiModel):
    name: str = Field(
        description="Name.",
        json_schema_extra={"x-kubernetes-validations": [{"rule": "self != ''", "message": "name it"}]},
    )


class RuleWithoutSentence(ApiModel):
    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [{"rule": "self.size > 3"}]})
    size: int = Field(description="Size.")


class RuleWithTypo(ApiModel):
    model_config = ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [{"rule": "self.size > 3", "mesage": "more than 3"}]}
    )
    size: int = Field(description="Size.")


@pytest.mark.parametrize(
    ("model", "path", "says"),
    [
        (ExclusiveMinimum, "size", "use ge= instead of gt="),
        (ExclusiveMaximum, "size", "use le= instead of lt="),
        (BarePattern, "name", "Says"),
        (Pair, "pair", "small model"),
        (Unique, "names", "x-kubernetes-list-type"),
        (Either, "port", "anyOf beyond"),
        (EitherOrNone, "port", "anyOf beyond"),
        (RequiredNull, "port", "= None"),
        (NullInList, "ports[]", "not inside lists"),
        (Untyped, "value", "has no type"),
        (MapOfAnything, "value", "x-kubernetes-preserve-unknown-fields"),
        (MapWithoutBound, "labels", "no bound"),
        (MapWithPattern, "labels", "propertyNames"),
        (Float, "ratio", "integer with the unit"),
        (ListWithoutBound, "names", "no bound"),
        (NoDescription, "size", "no description"),
        (NoDescriptionBesideModel, "ref", "no description"),
        (NoDescriptionInside, "parts[].size", "no description"),
        (FactoryOfList, "names", "default_factory"),
        (ChangedDefault, "sub", "must be Sub()"),
        (NeedyDefault, "sub", "must be Needy()"),
        (ForeignDefault, "sub", "name it in the annotation"),
        (ListOfModelsDefault, "subs", "a list of models"),
        (GoDuration, "wait", "use a pattern"),
        (Recursive, "inner", "contains itself"),
        (Discriminated, "pet", "CEL rule"),
        (Examples, "size", "examples"),
        (Open, "", 'extra="allow"'),
        (RuleOverLongString, "name", "max_length"),
        (RuleOverLongItems, "names[]", "max_length"),
        (RuleOnLongString, "name", "max_length"),
        (RuleWithoutSentence, "", "needs a message"),
        (RuleWithTypo, "", "mesage"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_model_is_refused_with_its_path_and_what_to_do(model: type[ApiModel], path: str, says: str) -> None:
    with pytest.raises(NotExpressible) as refusal:
        structural(model)

    where, _, message = str(refusal.value).partition(": ")
    assert where == ".".join(part for part in (model.__name__, path) if part)
    assert says in message


def test_an_unbounded_string_that_no_rule_names_is_fine() -> None:
    class Fine(RuleWithoutSentence):
        model_config = ConfigDict(
            json_schema_extra={"x-kubernetes-validations": [{"rule": "self.size > 3", "message": "more than 3"}]}
        )
        name: Text

    assert structural(Fine)["required"] == ["size", "name"]
