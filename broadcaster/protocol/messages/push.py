"""What the push channel carries beside chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from broadcaster.protocol.messages.rules import Message, a_version, identity, rule, text, uint, uint_list, write_value
from broadcaster.protocol.version import VersionInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Message):
    """Something happened to a model: pushed at once and kept in the log. `published` has the version, perhaps a payload too."""

    KIND: ClassVar[bytes] = b"event"
    epoch: int = rule(uint)
    offset: int = rule(uint)
    previous: int = rule(uint)
    namespace: str = rule(text)
    model_id: str = rule(text)
    event: str = rule(text)
    number: int | None = rule(uint, default=None)
    version: VersionInfo | None = rule(a_version, write_value, default=None)
    evicted: tuple[int, ...] = rule(uint_list, default=())
    alias: str | None = rule(text, default=None)
    transfer: bytes | None = rule(identity, default=None)
    attempt: int | None = rule(uint, default=None)
    slot: str | None = rule(text, default=None)
    generation: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beacon(Message):
    """Nothing new, or something missed: compare `model_offset` with what is known. `ack_ms` is said where many subscribe."""

    KIND: ClassVar[bytes] = b"beacon"
    epoch: int = rule(uint)
    offset: int = rule(uint)
    model_offset: int = rule(uint)
    namespace: str = rule(text)
    model_id: str = rule(text)
    interval_ms: int = rule(uint)
    ack_ms: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandon(Message):
    """The chunks of this transfer lead to no version: let the buffer go."""

    KIND: ClassVar[bytes] = b"abandon"
    transfer: bytes = rule(identity)
    attempt: int = rule(uint)


def write_events(events: tuple[Event, ...]) -> list[dict[str, Any]]:
    return [event.write() for event in events]


def some_events(value: Any) -> tuple[Event, ...]:
    if type(value) not in (list, tuple):
        raise ValueError("must be a list of events")
    return tuple(_event(item) for item in value)


def _event(value: Any) -> Event:
    if type(value) is not dict:
        raise ValueError("must be a list of maps")
    event: Event = Event.read(value)
    return event
