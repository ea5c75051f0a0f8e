"""The little language of searches: `metrics.return >= 200 and tags.stage = 'candidate'`.

filter    = [condition {"and" condition}]
condition = field op value | field "exists" | field "missing"
field     = name | name "." (name | text)
op        = "=" | "==" | "!=" | ">" | ">=" | "<" | "<="
value     = number | text | "true" | "false"
text      = '...' or "...", where a doubled quote stands for one
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

from broadcaster.protocol.condition import EXISTS, OPS, Condition
from broadcaster.protocol.errors import Fact, InvalidRequest

Where = str | Iterable[Condition | tuple[str, str, Fact]]
"""A filter as text, or its conditions: a field, how it is compared, and with what."""

_TOKENS = re.compile(
    r"""\s*(?:
        (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.-])|[+-]?inf\b)
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<name>[A-Za-z_][\w/-]*(?:\.[\w/-]+)*\.?)
      | (?P<op>==|!=|>=|<=|=|>|<)
      | (?P<end>$)
    )""",
    re.VERBOSE,
)


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def conditions_of(where: Where | None) -> tuple[Condition, ...]:
    """What a search is to hold to. Raises InvalidRequest that names the place in the text, and what was expected there."""
    if where is None or isinstance(where, str):
        return _Parser(where or "").conditions()
    return tuple(one if isinstance(one, Condition) else _condition(one) for one in where)


def _condition(given: tuple[str, str, Fact]) -> Condition:
    match given:
        case (str(field), str(op), None | str() | int() | float() as value) if op in OPS:
            return Condition(field=field, op=op, value=value)
    raise InvalidRequest(field="where", reason=f"{given!r} is not a field, one of {' '.join(OPS)}, and a plain value")


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._token = self._next()

    def conditions(self) -> tuple[Condition, ...]:
        found: list[Condition] = []
        while self._token.kind != "end" or found:
            found.append(self._condition())
            if self._token.kind == "end":
                break
            self._take_word("and")
        return tuple(found)

    def _condition(self) -> Condition:
        field = self._field()
        if self._token.kind == "name" and self._token.text.lower() in (EXISTS, "missing"):
            return Condition(field=field, op=EXISTS, value=self._take().text.lower() == EXISTS)
        if self._token.kind != "op":
            self._expected("=, !=, >, >=, <, <=, exists or missing")
        op = self._take().text
        return Condition(field=field, op="=" if op == "==" else op, value=self._value())

    def _field(self) -> str:
        if self._token.kind != "name":
            self._expected("a field, such as number, metrics.NAME or tags.NAME")
        name = self._take().text
        if not name.endswith("."):
            return name
        if self._token.kind != "text":
            self._expected("a name, in quotes if it is not of letters, digits, _, - and /")
        return name + _unquoted(self._take().text)

    def _value(self) -> Fact:
        token = self._token
        if token.kind == "number":
            self._take()
            return int(token.text) if re.fullmatch(r"[+-]?\d+", token.text) else float(token.text)
        if token.kind == "text":
            return _unquoted(self._take().text)
        if token.kind == "name" and token.text in ("true", "false"):
            return self._take().text == "true"
        self._expected("a number, a 'text' in quotes, true or false")

    def _take_word(self, word: str) -> None:
        if self._token.kind != "name" or self._token.text.lower() != word:
            self._expected(f"{word!r} or the end")
        self._take()

    def _take(self) -> _Token:
        token, self._token = self._token, self._next()
        return token

    def _next(self) -> _Token:
        match = _TOKENS.match(self._text, self._at)
        if match is None or match.lastgroup is None:
            at = len(self._text) - len(self._text[self._at :].lstrip())
            return _Token("unknown", self._text[at : at + 20], at)
        self._at = match.end()
        return _Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup))

    def _expected(self, what: str) -> NoReturn:
        kind, text, at = self._token
        found = "the end" if kind == "end" else repr(text[:20])
        reason = f"expected {what} at position {at + 1}, found {found}"
        raise InvalidRequest(field="where", reason=reason, position=at + 1, expected=what)


def _unquoted(text: str) -> str:
    quote = text[0]
    return text[1:-1].replace(quote * 2, quote)
