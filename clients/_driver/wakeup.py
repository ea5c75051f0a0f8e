"""Waking a thread that waits in a poll."""

from __future__ import annotations

import contextlib
import os
import socket


class Wakeup:
    """A descriptor that becomes readable when `signal` is called. `asleep` is set by the waiting thread before it looks at its
    work for the last time, so that a call is made only when it is needed."""

    def __init__(self) -> None:
        self.asleep = False
        self._pair: tuple[socket.socket, socket.socket] | None = None
        if hasattr(os, "eventfd"):
            self.fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._pair = socket.socketpair()
            for end in self._pair:
                end.setblocking(False)
            self.fd, self._write_fd = (end.fileno() for end in self._pair)

    def signal(self) -> None:
        """Wakes the thread if it sleeps."""
        if self.asleep:
            self.asleep = False
            try:
                os.write(self._write_fd, b"\1\0\0\0\0\0\0\0")
            except BlockingIOError:
                pass  # Full of signals: it will wake.
            except BaseException:  # Ctrl-C: perhaps nothing was written, and then the next call has to.
                self.asleep = True
                raise

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def __del__(self) -> None:
        # Not earlier: a thread that is about to signal must not write to a descriptor that has become another file.
        if self._pair is not None:
            for end in self._pair:
                end.close()
        elif hasattr(self, "fd"):
            os.close(self.fd)
