"""The control messages: one frozen class each, with the rule for every field.

The rules are docs/protocol.md's; a test holds the two together. `frames.py` turns these classes into bytes and back. A field
that is None is not sent; a field that is not known is ignored when it arrives.
"""

from __future__ import annotations

from dataclasses import fields

from broadcaster.protocol.messages.acks import (
    APPLIED,
    RECEIVED,
    STAGES,
    Ack,
    Acks,
    AwaitAcks,
    ListSubscribers,
    Subscribers,
    write_subscriber,
)
from broadcaster.protocol.messages.data import (
    AddMetrics,
    Archive,
    Best,
    CreateModel,
    Deleted,
    DeleteModel,
    DeleteVersion,
    Error,
    Events,
    Follow,
    GetModel,
    GetStats,
    GetVersion,
    Hello,
    ListModels,
    ListVersions,
    Model,
    Models,
    Read,
    Replay,
    SetAlias,
    SetTags,
    State,
    Stats,
    UpdateModel,
    Version,
    Versions,
    Welcome,
)
from broadcaster.protocol.messages.describe import Describe
from broadcaster.protocol.messages.ping import Ping, Pong
from broadcaster.protocol.messages.push import Abandon, Beacon, Event
from broadcaster.protocol.messages.retention import Pin, Prune, Pruned, SetRetention
from broadcaster.protocol.messages.rules import DIGEST_KINDS, SHA256, XXH3, Message, Reply, Request, Rule, write_value
from broadcaster.protocol.messages.search import Found, Search
from broadcaster.protocol.messages.terms import GivenUp, GiveUpTerm, TakeTerm, Term
from broadcaster.protocol.messages.upload import (
    AS_IT_LIES,
    LAST_WORDS,
    Abort,
    Aborted,
    Begin,
    Commit,
    Credit,
    Done,
    Filled,
    Grant,
    Publish,
)

__all__ = [
    "APPLIED",
    "AS_IT_LIES",
    "Abandon",
    "Abort",
    "Aborted",
    "Ack",
    "Acks",
    "AddMetrics",
    "Archive",
    "AwaitAcks",
    "Beacon",
    "Begin",
    "Best",
    "Commit",
    "CreateModel",
    "Credit",
    "DIGEST_KINDS",
    "DeleteModel",
    "DeleteVersion",
    "Deleted",
    "Describe",
    "Done",
    "Error",
    "Event",
    "Events",
    "Filled",
    "Follow",
    "Found",
    "GetModel",
    "GetStats",
    "GetVersion",
    "GiveUpTerm",
    "GivenUp",
    "Grant",
    "Hello",
    "KINDS",
    "LAST_WORDS",
    "ListModels",
    "ListSubscribers",
    "ListVersions",
    "Model",
    "Message",
    "Models",
    "Pin",
    "Ping",
    "Pong",
    "Prune",
    "Pruned",
    "Publish",
    "Read",
    "Replay",
    "Reply",
    "Request",
    "Rule",
    "RECEIVED",
    "SHA256",
    "STAGES",
    "Search",
    "SetAlias",
    "SetRetention",
    "SetTags",
    "State",
    "Stats",
    "Subscribers",
    "TakeTerm",
    "Term",
    "UpdateModel",
    "Version",
    "Versions",
    "Welcome",
    "XXH3",
    "write_subscriber",
    "write_value",
]

KINDS: dict[bytes, type[Message]] = {}
"""Class by first frame."""


def _register(base: type[Message]) -> None:
    for kind in base.__subclasses__():
        if "KIND" in vars(kind):
            kind.RULES = tuple(Rule(f.name, f.metadata["check"], f.metadata["write"]) for f in fields(kind))
            KINDS[kind.KIND] = kind
        _register(kind)


_register(Message)
