"""Who waits for a version that is not here yet: users' threads, each by its own deadline."""

from __future__ import annotations

import threading
from typing import NamedTuple

from broadcaster.protocol.errors import AccessDenied, BroadcasterError, RequestTimeout
from clients._driver import futures
from clients._driver.futures import Awaited
from clients.snapshot import Snapshot


class Waiter(NamedTuple):
    future: Awaited[Snapshot]
    newer_than: int
    until: float | None
    timeout: float | None
    who: int
    """Whose it is: a subscriber that closes dismisses its own."""


class Waiting:
    """What every feed has: `snapshot`, which may be read, and `wait`, which may be called, from any thread."""

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        self.snapshot: Snapshot | None = None
        """The version to show now, complete."""
        self.over = False
        self._ended: BroadcasterError | None = None
        self._waiters: list[Waiter] = []
        self._waiters_lock = threading.Lock()

    def is_news(self, number: int, than: int) -> bool:
        """Whether version `number` is what somebody waits for who has seen `than` (0: none)."""
        return number > than

    def wait(self, waiter: Waiter) -> None:
        """Its future gets the version to show, as soon as that is news to it. Wakes no other thread: the I/O thread has to be
        told of `waiter.until` if it sleeps for longer."""
        with self._waiters_lock:
            snapshot, ended = self.snapshot, self._ended
            here = snapshot is not None and self.is_news(snapshot.version.number, waiter.newer_than)
            if not here and ended is None:
                self._waiters.append(waiter)
        if here and snapshot is not None:
            futures.fulfil(waiter.future, snapshot)
        elif ended is not None:
            futures.fail(waiter.future, ended)

    # --- the I/O thread --------------------------------------------------------------------------------------------

    def _waiters_due(self) -> list[float]:
        """When those that wait give up."""
        with self._waiters_lock:
            return [waiter.until for waiter in self._waiters if waiter.until is not None]

    def _serve_waiters(self) -> None:
        """There is another version to show."""
        snapshot = self.snapshot
        if snapshot is not None:
            number = snapshot.version.number
            with self._waiters_lock:
                served = [waiter for waiter in self._waiters if self.is_news(number, waiter.newer_than)]
                self._waiters = [waiter for waiter in self._waiters if not self.is_news(number, waiter.newer_than)]
            for waiter in served:
                futures.fulfil(waiter.future, snapshot)

    def _expire_waiters(self, now: float, error: BroadcasterError | None) -> None:
        """Those whose time is over hear what the last `error` was."""
        with self._waiters_lock:
            late = [waiter for waiter in self._waiters if waiter.until is not None and now >= waiter.until]
            if not late:
                return
            self._waiters = [waiter for waiter in self._waiters if waiter not in late]
        why = f" ({error})" if error is not None else ""
        for waiter in late:
            newer = f" newer than {waiter.newer_than}" if waiter.newer_than else ""
            what = f"waiting for a version of {self.model_id}{newer}{why}"
            denied = isinstance(error, AccessDenied)
            futures.fail(waiter.future, error if denied and error else RequestTimeout(what=what, timeout=waiter.timeout))

    def _dismiss_waiters(self, who: int, error: BroadcasterError) -> None:
        """Those of one subscriber wait no more."""
        with self._waiters_lock:
            leaving = [waiter for waiter in self._waiters if waiter.who == who]
            self._waiters = [waiter for waiter in self._waiters if waiter.who != who]
        for waiter in leaving:
            futures.fail(waiter.future, error)

    def _end_waiting(self, error: BroadcasterError) -> None:
        """Nobody waits for anything any more."""
        with self._waiters_lock:
            self.over, self._ended, self.snapshot = True, error, None  # Who has it keeps it; here it would keep its slot.
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            futures.fail(waiter.future, error)
