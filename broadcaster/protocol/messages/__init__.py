"""The control messages: one frozen class each, with the rule for every field.

The rules are docs/protocol.md's; a test holds the two together. `frames.py` turns these classes into bytes and back. A field
that is None is not sent; a field that is not known is ignored when it arrives.
"""

from __future__ import annotations

from dataclasses import fields

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
from broadcaster.protocol.messages.push import Abandon, Beacon, Event
from broadcaster.protocol.messages.rules import DIGEST_KINDS, SHA256, XXH3, Message, Reply, Request, Rule, write_value
from broadcaster.protocol.messages.terms import GiveUpTerm, GivenUp, TakeTerm, Term
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
    "AS_IT_LIES",
    "Abandon",
    "Abort",
    "Aborted",
    "AddMetrics",
    "Archive",
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
    "Done",
    "Error",
    "Event",
    "Events",
    "Filled",
    "Follow",
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
    "ListVersions",
    "Model",
    "Message",
    "Models",
    "Publish",
    "Read",
    "Replay",
    "Reply",
    "Request",
    "Rule",
    "SHA256",
    "SetAlias",
    "SetTags",
    "State",
    "Stats",
    "TakeTerm",
    "Term",
    "UpdateModel",
    "Version",
    "Versions",
    "Welcome",
    "XXH3",
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
