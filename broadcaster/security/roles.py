"""What a role may do, and what a request does: two tables. What stands in neither is not allowed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from broadcaster.protocol.messages import (
    Abort,
    Ack,
    AddMetrics,
    Archive,
    AwaitAcks,
    Begin,
    Best,
    Commit,
    CreateModel,
    DeleteModel,
    DeleteVersion,
    Describe,
    Follow,
    GetModel,
    GetStats,
    GetVersion,
    GiveUpTerm,
    Hello,
    ListModels,
    ListSubscribers,
    ListVersions,
    Message,
    Pin,
    Ping,
    Prune,
    Publish,
    Read,
    Replay,
    Search,
    SetAlias,
    SetRetention,
    SetTags,
    TakeTerm,
    UpdateModel,
)


class Verb(StrEnum):
    """What is done to a model."""

    FOLLOW = "follow"
    READ = "read"
    PUBLISH = "publish"
    ADMINISTER = "administer"


_READING = frozenset({Verb.FOLLOW, Verb.READ})
ROLES: dict[str, frozenset[Verb]] = {
    "actor": _READING,
    "relay": _READING,
    "learner": _READING | {Verb.PUBLISH},
    "admin": frozenset(Verb),
}
"""What each role may do to the models that it is given."""

VERBS: dict[type[Message], Verb | None] = {
    **dict.fromkeys((Hello, Ping, GetStats), None),
    **dict.fromkeys((Follow, Ack, Replay), Verb.FOLLOW),
    **dict.fromkeys((Read, GetVersion, GetModel, ListModels, ListVersions, Best, Search), Verb.READ),
    **dict.fromkeys((AwaitAcks, ListSubscribers), Verb.READ),
    **dict.fromkeys((Begin, Publish, Commit, Abort, TakeTerm), Verb.PUBLISH),
    **dict.fromkeys((CreateModel, UpdateModel, Describe, SetTags, AddMetrics, SetAlias, Archive, Pin), Verb.PUBLISH),
    **dict.fromkeys((DeleteModel, DeleteVersion, SetRetention, Prune, GiveUpTerm), Verb.ADMINISTER),
}
"""What each request does. None: whoever has a key may. (A learner gives its own term up, which is Verb.PUBLISH.)"""


@dataclass(frozen=True, slots=True)
class Grant:
    """A role, for the models whose namespace and name fit the patterns (`*` and `?`)."""

    role: str
    namespace: str
    models: str

    def allows(self, verb: Verb, namespace: str, model_id: str | None) -> bool:
        """`model_id` None is the whole namespace, which only somebody may look at who may look at all of it."""
        if verb not in ROLES.get(self.role, frozenset()) or not fnmatchcase(namespace, self.namespace):
            return False
        return self.models == "*" if model_id is None else fnmatchcase(model_id, self.models)


def verb_of(request: Message) -> Verb | None:
    """What a request does. One that nobody put into the table is for admins."""
    if isinstance(request, GiveUpTerm) and request.publisher is not None:
        return Verb.PUBLISH
    return VERBS.get(type(request), Verb.ADMINISTER)
