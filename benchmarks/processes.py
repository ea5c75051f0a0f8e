"""The processes of a benchmark: started, heard, and ended by their own ids whatever happens."""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TextIO

from benchmarks.usage import cpu_of
from clients import connect

ROOT = Path(__file__).parent.parent
START = 60.0
"""Seconds that a process may take until it is up: sixteen of them share the processors."""
ANSWER = 60.0
"""Seconds that one answer may take."""
END = 30.0
"""Seconds that a process may take to end after SIGTERM."""

SHARED = Path("/dev/shm")
"""Where shared memory is."""
NOWHERE = "/nonexistent"
"""A slot directory that no host has: a client that is told of it works as one on another host does."""

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Failed(RuntimeError):
    """A process ended, or did not answer."""


class Child:
    """`python -m module arguments`: it says JSON lines, and may be told some. The first line that it says is `{"up": ...}`.

    `python` is the interpreter: ours, or that of another environment."""

    def __init__(self, module: str, *arguments: object, python: Path | str = sys.executable) -> None:
        self.name = f"{module} {' '.join(map(str, arguments))}"
        command = [str(python), "-m", module, *map(str, arguments)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._rest = b""
        self._leaving = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def up(self) -> dict[str, Any]:
        """Waits until it says so; returns what it said."""
        return self.read(START)

    def tell(self, **facts: object) -> None:
        """Sends one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(facts).encode() + b"\n")
        self._process.stdin.flush()

    def read(self, timeout: float = ANSWER) -> dict[str, Any]:
        """The next line that it says. Raises Failed when it ends or says nothing in `timeout` seconds."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise Failed(f"{self.name} said nothing for {timeout} s")
            came = os.read(self._process.stdout.fileno(), 1 << 20)
            if not came:
                raise Failed(f"{self.name} ended with {self._process.wait()}")
            self._rest += came
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, within: float = ANSWER, /, **facts: object) -> dict[str, Any]:
        """Tells, and returns the answer."""
        self.tell(**facts)
        return self.read(within)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def leave(self) -> None:
        """Asks it to end, once: a second SIGTERM may hit it where libraries have taken its handler away, while it tidies up."""
        if not self._leaving:
            self._leaving = True
            _ask_to_end(self._process)

    def close(self) -> None:
        """Ends it: SIGTERM, and SIGKILL when that is not enough."""
        self.leave()
        _wait(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue


class Member:
    """One process of a herd: heard and signalled as a child is, but not told anything."""

    def __init__(self, herd: Herd, who: int) -> None:
        self._herd = herd
        self._who = who
        self.pid = 0

    def read(self, timeout: float = ANSWER) -> dict[str, Any]:
        """The next line that it says. Raises Failed when one of the herd ends, or this one says nothing in `timeout` seconds."""
        return self._herd.read_from(self._who, timeout)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Herd(Child):
    """Many processes that run one module: forked from one that has imported it, because imports are what takes long."""

    def __init__(self, count: int, module: str, *arguments: object) -> None:
        super().__init__("benchmarks.herd", count, module, *arguments)
        self.members = [Member(self, who) for who in range(count)]
        self._heard: list[deque[dict[str, Any]]] = [deque() for _ in range(count)]

    def read_from(self, who: int, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while not self._heard[who]:
            line = self.read(max(0.0, deadline - time.monotonic()))
            self._heard[line.pop("who")].append(line)
        return self._heard[who].popleft()

    def all_up(self) -> list[Member]:
        """Waits until each has said so."""
        for member in self.members:
            member.pid = member.read(START)["pid"]
        for member in self.members:
            member.read(START)
        return self.members


class Group:
    """Children that end together, at the end of the `with` block."""

    def __init__(self) -> None:
        self.children: list[Child] = []

    def start(self, module: str, *arguments: object, python: Path | str = sys.executable) -> Child:
        """Starts one; `up` waits for it."""
        child = Child(module, *arguments, python=python)
        self.children.append(child)
        return child

    def many(self, count: int, module: str, *arguments: object, python: Path | str = sys.executable) -> list[Child]:
        """Starts some that are alike, and waits until all are up."""
        children = [self.start(module, *arguments, python=python) for _ in range(count)]
        for child in children:
            child.up()
        return children

    def herd(self, count: int, module: str, *arguments: object) -> list[Member]:
        """Starts some that are alike and are told nothing, and waits until all are up."""
        herd = Herd(count, module, *arguments)
        self.children.append(herd)
        return herd.all_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for child in self.children:
            child.leave()
        for child in self.children:
            child.close()


def probe(sender: Child, listeners: Sequence[Child | Member], **wish: object) -> None:
    """Sends until every listener has said that it heard something: a subscription needs time to reach its sender."""
    for listener in listeners:
        deadline = time.monotonic() + START
        while True:
            sender.ask(**wish)
            try:
                listener.read(0.1)
                break
            except Failed:
                if time.monotonic() > deadline:
                    raise


class Broadcaster:
    """`broadcaster serve` on free ports, with directories that go with it."""

    def __init__(self, *options: object) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="broadcaster-bench-"))
        # Short, because the path of an ipc socket has 107 bytes at most.
        self.slot_dir = Path(tempfile.mkdtemp(prefix="mb-bench-", dir=SHARED if os.access(SHARED, os.W_OK) else None))
        self.archive_dir = self._home / "archive"
        self._options = [str(option) for option in options]
        self._ready: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The one address that a client needs."""
        return str(self._ready["data"])

    @property
    def grpc(self) -> str:
        """Where its Cogment front is (host:port), with the option `--grpc-port 0`."""
        return str(self._ready["grpc"])

    @property
    def pids(self) -> list[int]:
        """Every process of it."""
        return [int(pid) for pid in self._ready["pids"]]

    @property
    def core(self) -> int:
        """The process that holds the sockets: the one of them that has used the most processor time."""
        return max(self.pids, key=lambda pid: cpu_of([pid]).total)

    def start(self) -> None:
        """Returns when it serves. Raises Failed with what it said when it does not."""
        ready_file, log_file = self._home / "ready.json", self._home / "log"
        ready_file.unlink(missing_ok=True)
        places = ["--archive-dir", self.archive_dir, "--slot-dir", self.slot_dir, "--ready-file", ready_file]
        ports = [text for channel in ("upload", "push", "data") for text in (f"--{channel}-port", "0")] + ["--http-port", "off"]
        command = [sys.executable, "-m", "broadcaster", "serve", *ports, *map(str, places), *self._options]
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=partial(end_with_parent, signal.SIGTERM),
            )
        deadline = time.monotonic() + START
        while not ready_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the broadcaster does not serve:\n{log_file.read_text(errors='replace')[-4000:]}")
            time.sleep(0.01)
        self._ready = json.loads(ready_file.read_text())

    def stats(self) -> dict[str, float]:
        """Its counters and gauges by name."""
        with connect(self.url) as client:
            return dict(client.registry.stats())

    def stop(self) -> None:
        """Ends it; the archive stays until `close`."""
        if self._process is not None:
            _ask_to_end(self._process)
            _wait(self._process)
            self._process = None

    def restart(self) -> None:
        """Ends it and starts it again, with the same archive and nothing in memory. Its ports are others then."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends it and removes its directories."""
        self.stop()
        shutil.rmtree(self.slot_dir, ignore_errors=True)
        shutil.rmtree(self._home, ignore_errors=True)


def _ask_to_end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.send_signal(signal.SIGCONT)  # A stopped process hears nothing else.


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- the other side: inside a child ----------------------------------------------------------------------------------


_place: dict[str, int] = {}
"""Which of a herd this is, as every line says then."""
_answers: TextIO = sys.stdout


def be_member(who: int) -> None:
    """From here on this process is one of a herd; the first thing it says is its process id."""
    _place["who"] = who
    say(pid=os.getpid())


def who() -> int:
    """Its number in the herd, from 0."""
    return _place["who"]


def print_elsewhere() -> None:
    """Sends what libraries print to stderr from here on: the pipe to the parent is for answers."""
    global _answers
    _answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)


def say(**facts: object) -> None:
    """One line to the parent. A herd shares its pipe: a line of less than 4096 bytes comes in one piece."""
    _answers.write(json.dumps({**facts, **_place}) + "\n")
    _answers.flush()


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Lets the kernel send this process a signal when the one that started it is gone."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def told() -> Iterator[dict[str, Any]]:
    """What the parent tells, one line after the other, until it closes the pipe."""
    return (json.loads(line) for line in sys.stdin)


def exit_on_sigterm() -> None:
    """Makes SIGTERM end this process as an exception does, so that everything it started ends too."""

    def leave(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # A second one would end what ends the others.
        sys.exit(143)

    signal.signal(signal.SIGTERM, leave)
