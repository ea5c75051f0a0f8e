"""Taking and giving up the term of a model: who holds it is the only one that may publish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from broadcaster.protocol.messages.rules import Reply, Request, identity, rule, text, uint


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeTerm(Request):
    """The model's next term, for this publisher; the same one again when it holds the newest already."""

    KIND: ClassVar[bytes] = b"take-term"
    model_id: str = rule(text)
    publisher: bytes = rule(identity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Term(Reply):
    """The term that the publisher holds from now on; all older ones are over."""

    KIND: ClassVar[bytes] = b"term"
    term: int = rule(uint)


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUpTerm(Request):
    """The model's term is over, if this publisher holds it; whoever holds it where `publisher` is absent."""

    KIND: ClassVar[bytes] = b"give-up-term"
    model_id: str = rule(text)
    publisher: bytes | None = rule(identity, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp(Reply):
    """Nobody holds a term by that request any more; `term` is the one that ended, absent when it held none."""

    KIND: ClassVar[bytes] = b"given-up"
    term: int | None = rule(uint, default=None)
