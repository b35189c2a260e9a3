"""The rules of our CRDs, evaluated in process: the part of CEL that they are written in. Called by `kinds`.

Not all of CEL: literals, members, indexes, `! == != < <= > >= in && || ?:`, and the functions below. A rule that needs
more is refused when its kind is registered, so a rule of a CRD is never silently left out. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import SchemaValidator, core_schema

from agentmetal.core.quantity import seconds

Scope = Mapping[str, Any]
Expression = Callable[[Scope], Any]

_TOKEN = re.compile(
    r"""\s*(?:(?P<raw>r'[^']*'|r"[^"]*")|(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<number>[0-9]+)"""
    r"""|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>&&|\|\||[=!<>]=|[!<>?:.,()\[\]]))"""
)
_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": lambda one, other: one == other,
    "!=": lambda one, other: one != other,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
    "in": lambda one, other: one in other,
}
_CONSTANTS = {"true": True, "false": False, "null": None}


class NotUnderstood(ValueError):
    """A rule says something that this part of CEL does not know."""


class NoSuchKey(Exception):
    """A rule reads a field that is not there: the server answers with an error, which refuses, too."""


def understood(rule: str) -> Expression:
    """The rule as a function of what its names stand for. Raises NotUnderstood."""
    parser = _Parser(rule)
    expression = parser.ternary()
    if parser.more():
        raise NotUnderstood(f"rule {rule!r}: {parser.peek()!r} is not understood here")
    return expression


def matches(text: str, pattern: str) -> bool:
    """As RE2 does it, where `$` is the end of the text: by the expressions of Rust, which are the same for us."""
    try:
        SchemaValidator(core_schema.str_schema(pattern=pattern)).validate_python(text)
    except ValidationError:
        return False
    return True


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        raise NoSuchKey(f"no such key: {name}")
    return value[name]


_METHODS: Mapping[str, Callable[..., Any]] = {
    "size": len,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": str.__contains__,
    "matches": matches,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {"size": len, "duration": seconds}
_MACROS: Mapping[str, Callable[[Any], bool]] = {"exists": any, "all": all}


class _Parser:
    """Recursive descent, one method for each level of binding."""

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._tokens = self._split(rule)
        self._at = 0

    @staticmethod
    def _split(rule: str) -> list[tuple[str, str]]:
        tokens, at = [], 0
        while rule[at:].strip():
            found = _TOKEN.match(rule, at)
            if found is None or found.lastgroup is None:
                raise NotUnderstood(f"rule {rule!r}: {rule[at : at + 20]!r} is not understood here")
            tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()
        return tokens

    def more(self) -> bool:
        """Is something left?"""
        return self._at < len(self._tokens)

    def peek(self) -> str:
        """The next token as it is written; empty at the end. A text never looks like a sign."""
        return self._tokens[self._at][1] if self.more() else ""

    def _take(self, wanted: str = "") -> tuple[str, str]:
        if not self.more() or (wanted and self.peek() != wanted):
            raise NotUnderstood(f"rule {self._rule!r}: {self.peek()!r} instead of {wanted or 'a value'!r}")
        self._at += 1
        return self._tokens[self._at - 1]

    def _took(self, *signs: str) -> str:
        """The next token, taken, if it is one of these."""
        return self._take()[1] if self.peek() in signs else ""

    def ternary(self) -> Expression:
        """`condition ? one : other`, or less."""
        condition = self._either()
        if not self._took("?"):
            return condition
        one = self._either()
        self._take(":")
        other = self.ternary()
        return lambda scope: one(scope) if condition(scope) else other(scope)

    def _either(self) -> Expression:
        parts = [self._both()]
        while self._took("||"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else lambda scope: any(part(scope) for part in parts)

    def _both(self) -> Expression:
        parts = [self._compared()]
        while self._took("&&"):
            parts.append(self._compared())
        return parts[0] if len(parts) == 1 else lambda scope: all(part(scope) for part in parts)

    def _compared(self) -> Expression:
        one = self._negated()
        if not (sign := self._took(*_COMPARISONS)):
            return one
        other, compare = self._negated(), _COMPARISONS[sign]
        return lambda scope: compare(one(scope), other(scope))

    def _negated(self) -> Expression:
        if self._took("!"):
            positive = self._negated()
            return lambda scope: not positive(scope)
        return self._selected()

    def _selected(self) -> Expression:
        """A value and what is read of it: `self.hosts.exists(h, ...)`."""
        value = self._value()
        while sign := self._took(".", "["):
            if sign == "[":
                value = self._indexed(value)
                continue
            _, name = self._take()
            value = self._called(value, name) if self._took("(") else self._read(value, name)
        return value

    def _indexed(self, value: Expression) -> Expression:
        index = self.ternary()
        self._take("]")
        return lambda scope: value(scope)[index(scope)]

    @staticmethod
    def _read(value: Expression, name: str) -> Expression:
        return lambda scope: _member(value(scope), name)

    def _called(self, value: Expression, name: str) -> Expression:
        if name in _MACROS:
            _, variable = self._take()
            self._take(",")
            each, holds = _MACROS[name], self._closed()
            return lambda scope: each(holds({**scope, variable: item}) for item in value(scope))
        if name not in _METHODS:
            raise NotUnderstood(f"rule {self._rule!r}: the function {name!r} is not understood here")
        method, arguments = _METHODS[name], self._arguments()
        return lambda scope: method(value(scope), *(argument(scope) for argument in arguments))

    def _arguments(self) -> list[Expression]:
        found: list[Expression] = []
        while not self._took(")"):
            found.append(self.ternary())
            if self.peek() != ")":
                self._take(",")
        return found

    def _closed(self) -> Expression:
        expression = self.ternary()
        self._take(")")
        return expression

    def _value(self) -> Expression:
        kind, text = self._take()
        if kind in ("raw", "text", "number"):
            literal = _literal(kind, text)
            return lambda scope: literal
        if text == "(":
            return self._closed()
        if kind != "name":
            raise NotUnderstood(f"rule {self._rule!r}: {text!r} instead of a value")
        if self._took("("):
            return self._function(text)
        if text in _CONSTANTS:
            return lambda scope: _CONSTANTS[text]
        return lambda scope: scope[text]

    def _function(self, name: str) -> Expression:
        if name == "has":
            return self._has()
        if name not in _FUNCTIONS:
            raise NotUnderstood(f"rule {self._rule!r}: the function {name!r} is not understood here")
        function, arguments = _FUNCTIONS[name], self._arguments()
        return lambda scope: function(*(argument(scope) for argument in arguments))

    def _has(self) -> Expression:
        _, first = self._take()
        names = []
        while self._took("."):
            names.append(self._take()[1])
        self._take(")")
        *before, last = names

        def there(scope: Scope) -> bool:
            value = scope[first]
            for name in before:
                value = _member(value, name)
            return last in value

        return there


def _literal(kind: str, text: str) -> Any:
    if kind == "number":
        return int(text)
    return text[2:-1] if kind == "raw" else re.sub(r"\\(.)", r"\1", text[1:-1])
