"""How far subscribers are: they say it unasked, and whoever wants to know it asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from broadcaster.protocol.messages.rules import Message, Reply, Request, Rule, a_value, flag, identity, rule, text, uint
from broadcaster.protocol.names import DEFAULT_NAMESPACE
from broadcaster.protocol.subscriber import SubscriberInfo

APPLIED = "applied"
RECEIVED = "received"
STAGES = (APPLIED, RECEIVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack(Message):
    """A subscriber has received and applied versions up to these numbers; with `gone` it will say no more. `age_us`: so long
    has it had the one received. Not answered."""

    KIND: ClassVar[bytes] = b"ack"
    subscriber: bytes = rule(identity)
    name: str | None = rule(text, default=None)
    namespace: str = rule(text, default=DEFAULT_NAMESPACE)
    model_id: str = rule(text)
    epoch: int = rule(uint)
    received: int = rule(uint)
    applied: int = rule(uint)
    gone: bool = rule(flag, default=False)
    age_us: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitAcks(Request):
    """Answered once `count` subscribers have applied (or received) version `number` or a newer one."""

    KIND: ClassVar[bytes] = b"await-acks"
    model_id: str = rule(text)
    number: int = rule(uint)
    count: int = rule(uint)
    stage: str = rule(text, default=APPLIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acks(Reply):
    """How many subscribers have got that far."""

    KIND: ClassVar[bytes] = b"acks"
    received: int = rule(uint)
    applied: int = rule(uint)


def some_subscribers(value: Any) -> tuple[SubscriberInfo, ...]:
    if type(value) not in (list, tuple):
        raise ValueError("must be a list of subscribers")
    return tuple(cast(SubscriberInfo, a_value(SubscriberInfo, SUBSCRIBER_RULES, item)) for item in value)


def write_subscribers(values: tuple[SubscriberInfo, ...]) -> list[dict[str, Any]]:
    return [write_subscriber(value) for value in values]


def write_subscriber(value: SubscriberInfo) -> dict[str, Any]:
    """The map of a subscriber; a name that is None is left out."""
    return {rule.name: given for rule in SUBSCRIBER_RULES if (given := getattr(value, rule.name)) is not None}


SUBSCRIBER_RULES = (
    Rule("subscriber", identity),
    Rule("name", text),
    Rule("received", uint),
    Rule("applied", uint),
    Rule("lag", uint),
    Rule("lag_ms", uint),
    Rule("seen_ms", uint),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSubscribers(Request):
    """The subscribers of a model in order of their ids, from the one behind `after`."""

    KIND: ClassVar[bytes] = b"list-subscribers"
    model_id: str = rule(text)
    after: bytes | None = rule(identity, default=None)
    limit: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribers(Reply):
    """One page; `next` is the `after` of the following one, absent on the last."""

    KIND: ClassVar[bytes] = b"subscribers"
    subscribers: tuple[SubscriberInfo, ...] = rule(some_subscribers, write_subscribers)
    next: bytes | None = rule(identity, default=None)
