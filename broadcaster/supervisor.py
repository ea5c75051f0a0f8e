"""The parts of a broadcaster as processes of their own: started in order, started again when they die, ended together.

A part that ends before it ever served ends everything with its exit code: it has said why. One that dies later is started again,
at once the first time, with what it and the others told last (their ports, say); the others go on meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

log = logging.getLogger("broadcaster.supervisor")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STEADY = 5.0
"""Seconds that a part has to live for its death to be forgiven at once."""
LONGEST_PAUSE = 2.0
"""Seconds before a part that dies again and again is started again, at most."""
PATIENCE = 30.0
"""Seconds that the parts have to end when they are told to."""
_PR_SET_PDEATHSIG = 1

Facts = Mapping[str, Any]
Tell = Callable[[Facts], None]


@dataclass(frozen=True, slots=True)
class Part:
    """`run(tell, told)` is its whole life, in its own process, and returns the exit code. It calls `tell` once it serves, with
    facts for those that start later and for its own next life; `told` is what was told so far, by name of the part."""

    name: str
    run: Callable[[Tell, Mapping[str, Facts]], int]


@dataclass(slots=True)
class _Life:
    part: Part
    pid: int = 0
    pipe: int = -1
    heard: bytes = b""
    serves: bool = False
    begun: float = 0.0
    deaths: int = 0
    """In a row, each soon after the start."""
    again: float | None = None
    """When (monotonic) it is started again."""


@dataclass(slots=True)
class Supervisor:
    """`changed(told, pids)` is called whenever all parts serve, with the pid of this process first, and `changed(None, ())` when
    one has died. Runs on the only thread of its process."""

    parts: Sequence[Part]
    changed: Callable[[Mapping[str, Facts] | None, Sequence[int]], None]
    _told: dict[str, Facts] = field(default_factory=dict)
    _lives: list[_Life] = field(default_factory=list)
    _stopping: int | None = None
    _until: float = 0.0

    def run(self) -> int:
        """Returns the exit code, in this process and, when a part has ended, in its: who calls ends the process with it."""
        wake, waker = os.pipe()
        for end in (wake, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self._listen()
        self._lives = [_Life(part, again=0.0) for part in self.parts]
        try:
            outcome = self._go_on(wake)
        except BaseException:
            self._end_all()
            raise
        if isinstance(outcome, int):
            return outcome
        signal.set_wakeup_fd(-1)
        os.close(wake)
        os.close(waker)
        return outcome()

    def _go_on(self, wake: int) -> int | Callable[[], int]:
        """The exit code or, in the process of a part, its life."""
        while True:
            born = self._start_due()
            if born is not None:
                return born
            self._wait(wake)
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
            code = self._reap()
            if code is not None:
                return code

    # --- signals ---------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # It is the wake-up that counts.
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._stopping is not None:
            self._signal(signal.SIGKILL)
            os._exit(128 + number)
        self._stopping, self._until = number, time.monotonic() + PATIENCE
        self._signal(number)

    def _signal(self, number: int) -> None:
        for life in self._lives:
            if life.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(life.pid, number)

    # --- lives -----------------------------------------------------------------------------------------------------

    def _start_due(self) -> Callable[[], int] | None:
        """Starts what is due; in the new process, what it is to do."""
        for life in self._lives:
            due = life.again is not None and time.monotonic() >= life.again
            if due and self._stopping is None:
                born = self._start(life)
                if born is not None:
                    return born
            if not life.serves:
                return None  # Those behind it may need what it tells.
        return None

    def _start(self, life: _Life) -> Callable[[], int] | None:
        read, write = os.pipe()
        parent = os.getpid()
        # What comes between the fork and the part's own handlers must not be taken by ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.close(write)
            os.set_blocking(read, False)
            life.pid, life.pipe, life.heard, life.again, life.begun = pid, read, b"", None, time.monotonic()
            if self._stopping is not None:
                self._signal(self._stopping)
            return None
        os.close(read)
        for other in self._lives:
            if other.pipe >= 0:
                os.close(other.pipe)
        os.setpgid(0, 0)  # Ctrl-C in a terminal reaches the supervisor alone, which passes it on.
        for number in (*SIGNALS, signal.SIGCHLD):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        _die_with(parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        told = dict(self._told)
        return lambda: life.part.run(lambda facts: _tell(write, facts), told)

    def _wait(self, wake: int) -> None:
        pipes = [life.pipe for life in self._lives if life.pipe >= 0]
        times = [life.again for life in self._lives if life.again is not None]
        times += [self._until] if self._stopping is not None else []
        timeout = max(0.0, min(times) - time.monotonic()) if times else None
        ready, _, _ = select.select([wake, *pipes], [], [], timeout)
        for life in self._lives:
            if life.pipe in ready:
                self._hear(life)
        if self._stopping is not None and time.monotonic() >= self._until:
            log.error("parts did not end in time and are killed")
            self._signal(signal.SIGKILL)
            self._until = time.monotonic() + PATIENCE

    def _hear(self, life: _Life) -> None:
        said = os.read(life.pipe, 65536)
        life.heard += said
        if not said:
            os.close(life.pipe)
            life.pipe = -1
        elif life.heard.endswith(b"\n"):
            self._told[life.part.name] = json.loads(life.heard)
            life.serves = True
            if life.deaths:
                log.info("serves again part=%s pid=%d seconds=%.2f", life.part.name, life.pid, time.monotonic() - life.begun)
            if all(life.serves for life in self._lives):
                self.changed(self._told, [os.getpid(), *(life.pid for life in self._lives)])

    def _reap(self) -> int | None:
        """Who has died is buried and, unless all is to end, will live again. The exit code when all is over."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            for life in self._lives:
                if life.pid == pid:
                    code = self._died(life, os.waitstatus_to_exitcode(status))
                    if code is not None:
                        return code
        if self._stopping is not None and not any(life.pid for life in self._lives):
            return 0
        return None

    def _died(self, life: _Life, code: int) -> int | None:
        """The exit code when this ends everything."""
        served, life.serves, life.pid = life.serves, False, 0
        if life.pipe >= 0:
            os.close(life.pipe)
            life.pipe = -1
        if self._stopping is not None:
            return None
        now = time.monotonic()
        if not served and life.part.name not in self._told:
            self._end_all()
            return code if code > 0 else 1
        life.deaths = 1 if now - life.begun >= STEADY else life.deaths + 1
        life.again = now + (0.0 if life.deaths == 1 else min(LONGEST_PAUSE, 0.1 * 2**life.deaths))
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        log.error("died and is started again part=%s how=%s", life.part.name, how)
        self.changed(None, ())
        return None

    def _end_all(self) -> None:
        self._stopping = signal.SIGTERM
        self._signal(signal.SIGTERM)
        for life in self._lives:
            if life.pid:
                os.waitpid(life.pid, 0)
                life.pid = 0


def _tell(pipe: int, facts: Facts) -> None:
    os.write(pipe, json.dumps(facts).encode() + b"\n")  # Less than PIPE_BUF, so it comes in one piece.


def _die_with(parent: int) -> None:
    """This process gets SIGTERM when its parent dies, however that happens. (Linux only; elsewhere it goes on alone.)"""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
