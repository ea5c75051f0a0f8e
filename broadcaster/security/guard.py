"""What the loop asks of every message when keys are on: may this user do this?"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from broadcaster.protocol.errors import AccessDenied
from broadcaster.protocol.messages import Abort, Begin, Commit, GiveUpTerm, Message, TakeTerm
from broadcaster.security.book import Book, Entry
from broadcaster.security.door import TRUSTED
from broadcaster.security.roles import ROLES, Grant, Verb, verb_of

OWNED = 1 << 16
"""Ids whose owner is remembered: uploads, subscribers, publishers."""
ANSWERS = 1 << 14
"""Answers that are kept."""

_ALL = Entry(TRUSTED, (Grant("admin", "*", "*"),))


class Guard:
    """Knows the book as it is now. A user id is the public key of a connection, or TRUSTED."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self._allowed: dict[tuple[str, Verb, str, str | None], bool] = {}
        self._owners: OrderedDict[bytes, str] = OrderedDict()
        self.holder: Callable[[Begin], bytes | None] = lambda begin: None
        """What the term of an upload is known by, if it is the model's."""

    def change(self, book: Book) -> bool:
        """Takes a new book. Whether somebody may do less than before: live connections are to be looked at again."""
        before, self.book = self.book, book
        self._allowed.clear()
        return any(
            public not in book.keys or not set(entry.grants) <= set(book.keys[public].grants)
            for public, entry in before.keys.items()
        )

    def may(self, user: str, verb: Verb, namespace: str, model_id: str | None) -> bool:
        """Whether this user may do that to the model; None is the whole namespace."""
        asked = user, verb, namespace, model_id
        known = self._allowed.get(asked)
        if known is None:
            if len(self._allowed) >= ANSWERS:
                self._allowed.clear()
            entry = self._entry(user)
            known = entry is not None and any(grant.allows(verb, namespace, model_id) for grant in entry.grants)
            self._allowed[asked] = known
        return known

    def may_subscribe(self, user: str, namespace: str, model_id: str) -> bool:
        """Events and chunks of a model are for those who may follow it."""
        return self.may(user, Verb.FOLLOW, namespace, model_id)

    def check(self, user: str, request: Message) -> None:
        """Raises AccessDenied unless the user may make this request."""
        entry = self._entry(user)
        if entry is None:
            raise AccessDenied(what=_what(request), reason="the key is not valid any more")
        verb = verb_of(request)
        if isinstance(request, (Commit, Abort)):  # They name no model: their upload does, and is its owner's alone.
            self._require_owner(entry, request.upload_id, request, claim=False)
            return
        namespace, model_id = getattr(request, "namespace", ""), getattr(request, "model_id", None)
        if verb is not None and not self.may(user, verb, namespace, model_id):
            where = f"{namespace}/{model_id}" if model_id is not None else f"all models of namespace {namespace}"
            raise AccessDenied(what=_what(request), reason=f"key {entry.name} may not {verb} {where}: it {_may(entry)}")
        if isinstance(request, Begin):
            self._require_owner(entry, request.upload_id, request, claim=True)
            if request.term is not None and (holder := self.holder(request)) is not None:
                self._require_owner(entry, holder, request, claim=True)
        elif isinstance(request, (TakeTerm, GiveUpTerm)) and request.publisher is not None:
            self._require_owner(entry, request.publisher, request, claim=True)

    def may_ack(self, user: str, subscriber: bytes, namespace: str, model_id: str) -> bool:
        """Whether this user is that subscriber, and may follow the model."""
        return self.may_subscribe(user, namespace, model_id) and self.owns(user, subscriber, claim=True)

    def owns(self, user: str, identity: bytes, *, claim: bool = False) -> bool:
        """Whether an id is this user's. With `claim`, one that was nobody's is, from now on."""
        entry = self._entry(user)
        return entry is not None and self._owns(entry.name, identity, claim=claim)

    def _owns(self, name: str, identity: bytes, *, claim: bool) -> bool:
        owner = self._owners.get(identity)
        if owner is None and claim:
            self._owners[identity] = owner = name
            if len(self._owners) > OWNED:
                self._owners.popitem(last=False)
        elif owner == name:
            self._owners.move_to_end(identity)
        return owner == name

    def _require_owner(self, entry: Entry, identity: bytes, request: Message, *, claim: bool) -> None:
        # An id that nobody claimed is of an earlier life of the broadcaster, and whoever names it is told that it is unknown.
        unknown = not claim and identity not in self._owners
        if not unknown and not self._owns(entry.name, identity, claim=claim):
            raise AccessDenied(what=_what(request), reason="that id is another user's")

    def _entry(self, user: str) -> Entry | None:
        return _ALL if user == TRUSTED else self.book.keys.get(user)


def _what(request: Message) -> str:
    return f"the request {request.KIND.decode()}"


def _may(entry: Entry) -> str:
    told = [f"may {'/'.join(sorted(ROLES[one.role]))} {one.namespace}/{one.models} ({one.role})" for one in entry.grants]
    return " and ".join(told) or "may do nothing"
