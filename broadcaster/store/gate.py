"""The gate that every write passes: one at a time, and none after the disk failed until a probe passed."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from broadcaster.protocol.errors import BroadcasterError, Closed, NoSpace, StoreUnavailable
from broadcaster.store.folders import SyncFailed

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BROKEN = (errno.EIO, errno.EROFS)


class Gate:
    """`lock` is held by whoever writes. `reason` says why writes are refused; empty means that they are not."""

    def __init__(self, where: str) -> None:
        self.lock = threading.RLock()
        self.closed = False
        self.reason = ""
        self._where = where

    @contextmanager
    def failing(self, operation: str, size: int = 4096) -> Iterator[None]:
        """The disk's errors become ours, here as NoSpace for `size` bytes or StoreUnavailable.

        A failed sync is final for its file, and like a dead disk it closes the gate.
        """
        try:
            yield
        except StoreUnavailable as error:  # the index says that its disk failed it
            self.reason = self.reason or str(error)
            raise
        except BroadcasterError:  # some are OSErrors too
            raise
        except OSError as error:
            if isinstance(error, SyncFailed) or error.errno in _BROKEN:
                self.reason = f"{operation} failed: {error}"
            elif error.errno in _FULL:
                raise NoSpace(size=size, where=self._where) from error
            raise self.unavailable(operation, str(error)) from error

    def require_open(self) -> None:
        if self.closed:
            raise Closed(what="the archive")

    def unavailable(self, operation: str, reason: str) -> StoreUnavailable:
        """The refusal of an operation."""
        return StoreUnavailable(operation=operation, where=self._where, reason=reason, hint="Check the disk.")
