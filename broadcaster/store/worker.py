"""Threads that do durable work in order, so that the live loop never waits for a disk."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from broadcaster.protocol.errors import Busy, Closed

T = TypeVar("T")

_Job = tuple[Callable[[], object], Callable[[object], None]]


class Worker:
    """A bounded queue of jobs and the thread (or few) that runs them.

    With one thread the jobs run in the order in which they were submitted; with more they start in that order.
    """

    def __init__(self, name: str, threads: int = 1, capacity: int = 1024) -> None:
        """`capacity` is how many jobs may wait; one more is refused with Busy."""
        self.name = name
        self.capacity = capacity
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._running = 0
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{index}", daemon=True) for index in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many jobs wait for a thread."""
        return len(self._jobs)

    @property
    def pending(self) -> int:
        """How many jobs wait or run."""
        return len(self._jobs) + self._running

    def submit(self, job: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        """Run `job` on a thread of this worker, then call `done` there with what it returned or raised.

        Raises Busy when `capacity` jobs wait already, Closed after `close`; `done` is not called then.
        """
        with self._changed:
            if self._closed:
                raise Closed(what=self.name)
            if len(self._jobs) >= self.capacity:
                raise Busy(what=self.name, retry_after=0.1)
            self._jobs.append((job, done))  # type: ignore[arg-type]  # done takes what this very job returns
            self._changed.notify()

    def close(self, timeout: float = 10.0) -> bool:
        """Let running jobs finish and answer the waiting ones with Closed; True when all threads ended within `timeout` s."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until = time.monotonic() + timeout
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            (job, done), refused = taken
            result: object
            try:
                result = Closed(what=self.name) if refused else job()
            except BaseException as error:  # a job's end, whatever it is, belongs to `done`
                result = error
            try:
                done(result)
            except BaseException as error:  # the caller's own mistake: say so, and go on with the next job
                threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))
            # Nothing of a finished job may stay alive while the thread waits: its payload's lease hangs on it.
            del job, done, result, taken
            with self._changed:
                self._running -= 1

    def _take(self) -> tuple[_Job, bool] | None:
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return None
                self._changed.wait()
            self._running += 1
            return self._jobs.popleft(), self._closed
