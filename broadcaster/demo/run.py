"""The run of the demo: starts a broadcaster, a learner and its actors, shows what they do, and says how it ended."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import zmq
from rich.console import Console
from rich.live import Live

from broadcaster.demo.family import ChildDied, Family
from broadcaster.demo.reports import ReportDesk
from broadcaster.demo.result import Options, Result, conclude, summary
from broadcaster.demo.table import picture
from broadcaster.demo.tally import Tally
from broadcaster.protocol.errors import BroadcasterError, DirectoryUnusable, MissingDependency, RequestTimeout

TARGET = 400.0
"""Mean return over 100 episodes at which CartPole-v1 counts as solved here; 500 is the most there is."""
START_WITHIN = 30.0
"""Seconds for the broadcaster to serve."""
OVERTIME = 15.0
"""Seconds after the end of the time in which the learner must have archived its best version."""
LOOK_EVERY = 0.25
"""Seconds between two looks at the tally."""

Look = Callable[[Tally, float], None]
"""Shows the tally as it stands at the moment given."""


class Stop:
    """Remembers the signal that asks for the end. A handler that raised could strike while the children are being ended."""

    def __init__(self) -> None:
        self._signal: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        """Takes SIGINT, SIGTERM and SIGHUP inside the block, in the main thread; elsewhere signals are not ours to take."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """KeyboardInterrupt after SIGINT, SystemExit with 128 + its number after another signal."""
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            raise SystemExit(128 + self._signal)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number


def run(options: Options, look: Look | None = None, pages: Callable[[str], None] | None = None) -> Result:
    """Trains as `options` say, and returns how it ended; `look` is called a few times a second meanwhile. With `pages` the
    broadcaster has a dashboard, and `pages` is told its address before the training begins.

    No process it started is left when it returns or raises. Raises ConfigError, MissingDependency, DirectoryUnusable, ChildDied,
    RequestTimeout, and what `Stop.check` says.
    """
    options.check()
    _require_libraries()
    directory = _new_directory(options.out)
    tally = Tally(options.actors, time.monotonic())
    with Stop().listening() as stop, _sockets() as sockets, Family(directory) as family:
        desk = ReportDesk(zmq.Context.instance(), f"{sockets}/reports")
        try:
            addresses = _start_broadcaster(family, directory, stop, http="off" if pages is None else "0")
            url = addresses["data"]
            if pages is not None:
                pages(addresses["http"])
            until = tally.started + options.seconds
            _start_training(family, options, url, sockets, until)
            _follow(family, desk, tally, stop, until, look)
        finally:
            desk.close()
    assert tally.finished is not None
    result = conclude(options, tally, tally.finished, directory, TARGET, tally.ended)
    _draw(tally, result)
    (directory / "result.json").write_text(to_json(result) + "\n")
    return result


def to_json(result: Result) -> str:
    """One line of JSON with every field of the result."""
    return json.dumps(asdict(result))


def main(options: Options, *, as_json: bool) -> int:
    """The command `broadcaster demo`: runs, prints, and returns the exit code.

    With `as_json` stdout gets one JSON object and nothing else, and only if the run ends by itself. The live table is then on
    stderr, if that is a terminal. 0: solved, or the time is up; 1: failed; 130: Ctrl-C; 128 + n: ended by signal n.
    """
    screen = Console(stderr=as_json)
    try:
        result = _run_on(screen, options, dashboard=not as_json) if screen.is_terminal or not as_json else run(options)
    except KeyboardInterrupt:
        print("ended by Ctrl-C: no process is left", file=sys.stderr)
        return 128 + signal.SIGINT
    except SystemExit as ended:
        print("ended by a signal: no process is left", file=sys.stderr)
        return int(ended.code or 0)
    except (BroadcasterError, ChildDied) as error:
        print(f"the demo failed: {error}", file=sys.stderr)
        return 1
    print(to_json(result) if as_json else summary(result))
    return 0


def _run_on(screen: Console, options: Options, *, dashboard: bool) -> Result:
    with Live(console=screen, auto_refresh=False) as live:

        def look(tally: Tally, now: float) -> None:
            live.update(picture(tally, now, options.seconds, options.seed), refresh=screen.is_terminal)

        result = run(options, look, (lambda address: screen.print(f"dashboard: {address}/")) if dashboard else None)
    if not screen.is_terminal:
        screen.print()  # Live has printed the last picture, once, and left the line open.
    return result


def _require_libraries() -> None:
    for library in ("gymnasium", "matplotlib"):
        if importlib.util.find_spec(library) is None:
            raise MissingDependency(what="the demo", library=library, extra="demo")


def _new_directory(out: Path) -> Path:
    stem = time.strftime("%Y%m%d-%H%M%S")
    for attempt in range(1, 1000):
        directory = out.absolute() / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            directory.mkdir(parents=True)
            return directory
        except FileExistsError:
            if not out.is_dir():
                raise DirectoryUnusable(key="--out", where=str(out), reason="it is not a directory") from None
        except OSError as error:
            raise DirectoryUnusable(key="--out", where=str(out), reason=error.strerror) from error
    raise DirectoryUnusable(key="--out", where=str(out), reason="too many runs began in the same second")


@contextlib.contextmanager
def _sockets() -> Iterator[str]:
    """A private directory for ipc sockets, as an address. Their paths may have 107 bytes: no place for a long TMPDIR."""
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < 60 else "/tmp"
    with tempfile.TemporaryDirectory(prefix="broadcaster-demo-", dir=parent) as directory:
        yield f"ipc://{directory}"


def _start_broadcaster(family: Family, directory: Path, stop: Stop, *, http: str) -> dict[str, str]:
    """Starts a broadcaster on free ports and returns its addresses, by channel, when it serves."""
    ready = directory / "ready.json"
    ports = [text for channel in ("upload", "push", "data") for text in (f"--{channel}-port", "0")] + ["--http-port", http]
    family.start(
        "broadcaster",
        "-m",
        "broadcaster",
        "serve",
        *ports,
        "--ready-file",
        str(ready),
        "--archive-dir",
        str(directory / "archive"),
    )
    deadline = time.monotonic() + START_WITHIN
    while not ready.exists():
        stop.check()
        family.check()
        if time.monotonic() > deadline:
            raise RequestTimeout(what="the start of the broadcaster", timeout=START_WITHIN)
        time.sleep(0.02)
    addresses: dict[str, str] = json.loads(ready.read_text())
    return addresses


def _start_training(family: Family, options: Options, url: str, sockets: str, until: float) -> None:
    common = ["--url", url, "--samples", f"{sockets}/samples", "--reports", f"{sockets}/reports", "--seed", str(options.seed)]
    goal = ["--actors", str(options.actors), "--target", str(TARGET), "--until", str(until)]
    family.start("learner", "-m", "broadcaster.demo.learner", *common, *goal)
    for index in range(options.actors):
        family.start(f"actor-{index}", "-m", "broadcaster.demo.actor", *common, "--index", str(index))


def _follow(family: Family, desk: ReportDesk, tally: Tally, stop: Stop, until: float, look: Look | None) -> None:
    """Adds up the reports until the learner has said its last word."""
    looked = 0.0
    while tally.finished is None:
        tally.receive(desk.receive(milliseconds=50), time.monotonic())
        stop.check()
        # The learner may be gone in the moment between its last word and its arrival here.
        family.check(may_end="learner")
        now = time.monotonic()
        if now > until + OVERTIME:
            raise RequestTimeout(what="the learner's end after its time was up", timeout=OVERTIME)
        if look is not None and (now - looked > LOOK_EVERY or tally.finished is not None):
            looked = now
            look(tally, now)


def _draw(tally: Tally, result: Result) -> None:
    # matplotlib takes most of a second to load: not while others wait for the processor.
    from broadcaster.demo.figure import draw

    title = f"CartPole-v1, seed {result.seed}, {result.actors} actors: {result.versions} versions in {result.seconds:.1f} s"
    draw(tally, result.target, title, Path(result.figure))
