"""The term of an exclusive publisher: taken once, said with every upload, over when another publisher has taken the next one."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from concurrent.futures import Future
from typing import Any

from broadcaster.protocol.errors import BroadcasterError, Closed, Fenced, RequestTimeout
from clients._calls import Calls
from clients._driver import futures
from clients._process import HERE

LEAST = 0.1
"""Seconds that the broadcaster has to take a term back, however little time is left."""


class Term:
    """One publisher's right to be the only one of its model. For any thread.

    When nothing refers to it any more, the term is given up as soon as what is under way has ended.
    """

    def __init__(self, calls: Calls, model_id: str) -> None:
        self._calls = calls
        self._model_id = model_id
        self._publisher = os.urandom(16)
        self._taken = calls.take_term(model_id, self._publisher)
        self._closed = False
        self._pid = HERE.pid
        self._uploads = _Uploads()
        self._let_go = weakref.finalize(self, _let_go, calls, model_id, self._publisher, self._uploads)
        self._let_go.atexit = False

    def take(self) -> Future[int]:
        """A future of the term. It is asked for again, with the same outcome if there was one, when it was not to be had."""
        if self._taken.done() and self._taken.exception() is not None:
            self._taken = self._calls.take_term(self._model_id, self._publisher)
        return self._taken

    def require(self) -> int:
        """The term, once it is there. Raises Fenced when it is known to be over, Closed after `end`, and why it was not to be
        had."""
        if self._uploads.fenced is not None:
            raise Fenced(**self._uploads.fenced.facts)
        if self._closed:
            raise Closed(what=f"the exclusive publisher of {self._model_id}")
        return futures.wait(self.take(), "taking the term", self._calls.timeout)

    def watch(self, future: Future[Any]) -> None:
        """An upload of this term: what it ends with may say that the term is over."""
        self._uploads.newest = future
        future.add_done_callback(self._uploads.ended)

    def end(self, timeout: float, *, wait: bool) -> None:
        """Gives the term up within `timeout` seconds, with `wait` once what is under way has ended. A second call does nothing,
        and neither does one in a forked child.

        Raises StoreError and RequestTimeout when the broadcaster does not take it back.
        """
        if self._closed or self._pid != HERE.pid:
            return
        self._closed = True
        until, newest = time.monotonic() + timeout, self._uploads.newest
        if wait and newest is not None:
            futures.ended(newest, timeout)
        self._let_go.detach()
        with contextlib.suppress(Closed):  # The client has ended.
            given_up = self._calls.give_up_term(self._model_id, self._publisher)
            if not futures.ended(given_up, max(LEAST, until - time.monotonic())):
                raise RequestTimeout(what="giving the term up", timeout=timeout)
            given_up.result()


class _Uploads:
    """What has become of the uploads of one term. It does not know the term: that would keep it."""

    newest: Future[Any] | None = None
    """The one that was begun last, which is the last one to end."""
    fenced: Fenced | None = None

    def ended(self, future: Future[Any]) -> None:
        error = future.exception()
        if isinstance(error, Fenced):
            self.fenced = error


def _let_go(calls: Calls, model_id: str, publisher: bytes, uploads: _Uploads) -> None:
    """Nobody can publish with the term any more. Called from a finalizer: waits for nothing."""

    def give_up(_: object) -> None:
        with contextlib.suppress(BroadcasterError):  # The client has ended: the next exclusive publisher takes over.
            calls.give_up_term(model_id, publisher)

    if uploads.newest is None or uploads.newest.done():
        give_up(None)
    else:
        uploads.newest.add_done_callback(give_up)
