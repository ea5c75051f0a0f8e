"""Which archived versions of a model are kept: standing rules, letting go of the others, holding one whatever the rules say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from broadcaster.protocol.errors import Fact
from broadcaster.protocol.messages.rules import Reply, Request, fact_map, flag, reference, rule, text, uint, uint_list


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRetention(Request):
    """Makes `retention` the standing policy of a model; absent: none, and all is kept. Answered with the model."""

    KIND: ClassVar[bytes] = b"set-retention"
    model_id: str = rule(text)
    retention: Mapping[str, Fact] | None = rule(fact_map, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune(Request):
    """Deletes the archived versions above `after` that a policy (else the model's own) lets go, or only says which."""

    KIND: ClassVar[bytes] = b"prune"
    model_id: str = rule(text)
    retention: Mapping[str, Fact] | None = rule(fact_map, default=None)
    dry_run: bool = rule(flag, default=False)
    force: bool = rule(flag, default=False)
    after: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned(Reply):
    """What went, or would go, ascending; `bytes` are its payloads', `kept` counts the archived versions that no rule lets go.

    `next` is the `after` of the request that goes on, absent when there is no more.
    """

    KIND: ClassVar[bytes] = b"pruned"
    numbers: tuple[int, ...] = rule(uint_list)
    kept: int = rule(uint)
    bytes: int = rule(uint)
    next: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin(Request):
    """Pins a version, or lets it go: a pinned one is deleted by force only, and does not leave memory. Answered with it."""

    KIND: ClassVar[bytes] = b"pin"
    model_id: str = rule(text)
    ref: int | str = rule(reference)
    pinned: bool = rule(flag)
