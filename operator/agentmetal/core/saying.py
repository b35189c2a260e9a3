"""Sentences for text that must have a form. Used in the models of specs; the CRD generator insists on it.

A regular expression alone tells its author what is wrong, and nobody else. Beside the pattern the CRD carries a rule
with the sentence, so whoever applies something else is told what to write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema


@dataclass(frozen=True)
class Says:
    """Behind `Field(pattern=...)` in an `Annotated`: what to write instead."""

    sentence: str

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core)
        pattern = schema.get("pattern")
        if not pattern or "'" in pattern:
            raise TypeError(f"{self.sentence!r} is about text with a pattern that holds no quote, not {schema!r}")
        return {
            **schema,
            "x-kubernetes-validations": [{"rule": f"self.matches(r'{pattern}')", "message": self.sentence}],
        }
