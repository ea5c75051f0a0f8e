"""Futures that the I/O thread ends, and waiting for them."""

from __future__ import annotations

import time
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

from broadcaster.protocol.errors import RequestTimeout

T = TypeVar("T")

GRACE = 5.0
"""Seconds that the I/O thread may be late. It ends every future by its deadline; this is for the case that it cannot."""
AGAIN = 1.0
"""Seconds after which a waiting thread looks for itself."""


class Waitable(Generic[T]):
    """What came of something, once it is `over`.

    A thread that is interrupted (Ctrl-C) in the moment it has taken a condition's lock keeps it for ever, and the I/O thread,
    which needs it to end a future, would wait as long. Here waiting threads take a lock that nobody else waits for.
    """

    def __init__(self) -> None:
        self.over = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._ended = Lock()
        self._ended.acquire()

    def _end(self, value: T | None, error: BaseException | None) -> None:
        self._value, self._error = value, error
        self.over = True
        self._ended.release()

    def wait(self, seconds: float | None) -> bool:
        """Whether it has ended within `seconds`."""
        until = None if seconds is None else time.monotonic() + seconds
        while not self.over:
            left = AGAIN if until is None else min(AGAIN, until - time.monotonic())
            if left <= 0:
                break
            # Who is interrupted between these two keeps the lock: the others look again by themselves.
            if self._ended.acquire(timeout=left):
                self._ended.release()
        return self.over

    def outcome(self) -> T:
        """What came of it, once it is over. Raises what went wrong."""
        if self._error is not None:
            raise self._error
        value: T = self._value  # type: ignore[assignment]
        return value


class Promise(Waitable[T]):
    """For a thread that waits at once, and for nobody else: a fraction of what a future costs."""

    def done(self) -> bool:
        return self.over

    def set_result(self, result: T) -> None:
        self._end(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        self._end(None, exception)


class Pending(Waitable[T], Future[T]):
    """A future that can be waited for without its condition."""

    def __init__(self) -> None:
        Future.__init__(self)
        Waitable.__init__(self)

    def set_result(self, result: T) -> None:
        Future.set_result(self, result)
        self._end(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        Future.set_exception(self, exception)
        self._end(None, exception)


Awaited = Future[T] | Promise[T]
"""What the I/O thread may end."""


def new() -> Pending[T]:
    """A future that only its maker ends: a user, or a cancelled task, cannot."""
    future: Pending[T] = Pending()
    future.set_running_or_notify_cancel()
    return future


def fulfil(future: Awaited[T], value: T) -> None:
    """Ends the future well, unless it has ended."""
    if not future.done():
        future.set_result(value)


def fail(future: Awaited[T], error: BaseException) -> None:
    """Ends the future badly, unless it has ended."""
    if not future.done():
        future.set_exception(error)


def failed(error: BaseException) -> Future[T]:
    """A future that has ended badly already."""
    future: Future[T] = new()
    future.set_exception(error)
    return future


def ended(future: Future[T], seconds: float) -> bool:
    """Whether it has ended within `seconds`."""
    assert isinstance(future, Pending), "every future of a client is made here"
    return future.wait(seconds)


def wait(future: Awaited[T], what: str, timeout: float | None) -> T:
    """What came of it. Raises what went wrong; RequestTimeout at the latest GRACE after the timeout."""
    assert isinstance(future, Waitable), "every future of a client is made here"
    if not future.wait(None if timeout is None else timeout + GRACE):
        raise RequestTimeout(what=what, timeout=timeout)
    value: T = future.outcome()
    return value
