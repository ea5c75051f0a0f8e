"""Who may publish: while a model's term is held, uploads of that term alone, and of no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from broadcaster.broker.checks import store_error
from broadcaster.broker.rooms import Caller, Front, Key, Rooms, submit
from broadcaster.broker.uploads import Stage, Uploads
from broadcaster.broker.waiting import Waiting
from broadcaster.protocol.errors import BroadcasterError, Fenced
from broadcaster.protocol.messages import Begin, GivenUp, GiveUpTerm, TakeTerm, Term
from broadcaster.protocol.names import check_name

T = TypeVar("T")

_UNCOMMITTED = (Stage.RESERVING, Stage.RECEIVING, Stage.FILLING, Stage.VERIFYING)
"""One that waits for its number is looked at again when it gets it; what is being archived is a version already."""


class Terms:
    """The terms that are held. What is done to them is durable first, and holds here before it is answered."""

    def __init__(self, rooms: Rooms, front: Front, uploads: Uploads, waiting: Waiting) -> None:
        self._rooms = rooms
        self._front = front
        self._uploads = uploads
        self._waiting = waiting
        self.held: dict[Key, int] = {}
        """By model. An upload may become a version only while `held.get(key)` is its own term."""
        self._publishers: dict[Key, bytes] = {}
        """Who took them, in this life of the broadcaster."""

    def load(self, held: Mapping[Key, int]) -> None:
        """What was held when the broadcaster started."""
        self.held = dict(held)

    def holder(self, begin: Begin) -> bytes | None:
        """What the term of this upload is known by: the publisher that took it or, when that was in an earlier life, a name of
        the term's own. None for a term that is not the model's."""
        key = (begin.namespace, begin.model_id)
        if begin.term is None or self.held.get(key) != begin.term:
            return None
        return self._publishers.get(key) or f"{key[0]}/{key[1]} {begin.term}".encode()

    def require(self, begin: Begin) -> None:
        """Raises Fenced for an upload of another term than the model's, or of none."""
        if self.held.get((begin.namespace, begin.model_id)) != begin.term:
            raise self.fenced(begin)

    def fenced(self, begin: Begin) -> Fenced:
        """What an upload that may not become a version is told."""
        current = self.held.get((begin.namespace, begin.model_id), 0)
        return Fenced(model_id=begin.model_id, term=begin.term or 0, current=current)

    def take(self, request: TakeTerm, caller: Caller) -> None:
        """The next term is the publisher's, and who has another is fenced. Raises InvalidName."""
        key, archive = self._key(request.namespace, request.model_id), self._rooms.archive

        def taken(term: int) -> None:
            self._publishers[key] = request.publisher
            self._holds(key, term)
            caller.reply(Term(request_id=request.request_id, term=term))

        self._durable(caller, lambda: archive.take_term(*key, request.publisher), taken)

    def give_up(self, request: GiveUpTerm, caller: Caller) -> None:
        """Nobody needs a term any more. Raises InvalidName."""
        key, archive = self._key(request.namespace, request.model_id), self._rooms.archive

        def given_up(term: int | None) -> None:
            if term is not None:
                self._holds(key, None)
            caller.reply(GivenUp(request_id=request.request_id, term=term))

        self._durable(caller, lambda: archive.give_up_term(*key, request.publisher), given_up)

    @staticmethod
    def _key(namespace: str, model_id: str) -> Key:
        return check_name("namespace", namespace), check_name("model", model_id)

    def _holds(self, key: Key, term: int | None) -> None:
        """What is under way with another term ends."""
        if term is None:
            self.held.pop(key, None)
            self._publishers.pop(key, None)
        else:
            self.held[key] = term
        others = [one for one in self._uploads.under_way.values() if one.key == key and one.begin.term != term]
        for upload in others:
            if upload.stage in _UNCOMMITTED:
                self._rooms.stats.count("uploads_fenced")
                self._uploads.fail(upload, self.fenced(upload.begin))

    def _durable(self, caller: Caller, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """On the thread of the numbers, one after the other: a term that was taken later is seen here later."""

        def finished(result: T | BaseException) -> None:
            if isinstance(result, BaseException):
                caller.refuse(store_error(result, "a term"))
            else:
                then(result)

        try:
            submit(self._rooms.reserver, self._front, self._waiting.in_time(caller, job), finished)
        except BroadcasterError as error:
            caller.refuse(error)
