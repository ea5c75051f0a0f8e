"""Futures that the I/O thread ends, and waiting for them."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TypeVar

from broadcaster.protocol.errors import RequestTimeout

T = TypeVar("T")

GRACE = 5.0
"""Seconds that the I/O thread may be late. It ends every future by its deadline; this is for the case that it cannot."""


def new() -> Future[T]:
    """A future that only its maker ends: a user, or a cancelled task, cannot."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    return future


def fulfil(future: Future[T], value: T) -> None:
    """Ends the future well, unless it has ended."""
    if not future.done():
        future.set_result(value)


def fail(future: Future[T], error: BaseException) -> None:
    """Ends the future badly, unless it has ended."""
    if not future.done():
        future.set_exception(error)


def failed(error: BaseException) -> Future[T]:
    """A future that has ended badly already."""
    future: Future[T] = new()
    future.set_exception(error)
    return future


def wait(future: Future[T], what: str, timeout: float | None) -> T:
    """What came of it. Raises what went wrong; RequestTimeout at the latest GRACE after the timeout."""
    try:
        return future.result(None if timeout is None else timeout + GRACE)
    except TimeoutError:
        if future.done():
            raise
        raise RequestTimeout(what=what, timeout=timeout) from None
