"""One run of the mixed load: starts everybody, lets the faults happen, sees to the end, and reads what all of them wrote."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import clients
from tests.bare_peer import wait_until
from tests.broadcaster_process import ROOT, BroadcasterProcess
from tests.fault.history.checker import Known
from tests.fault.history.events import History, Recorder, history_of
from tests.fault.history.parties import Keeper, Part, Party, publish
from tests.fault.history.schedule import BROADCASTER, DISK, FILL, KINDS, Fault, Kind, schedule
from tests.fault.real.forwarder import DOWN, UP, Forwarder

MIB = 1 << 20
NO_SLOTS = "/nonexistent"
MODELS = ("fast", "steady", "mixed", "large", "brief")
DOOMED = ("brief",)
SMALL, MIDDLE, LARGE = (100, 3_000, 60_000), (100, 70_000, 300_000), (300_000, 1 * MIB, 3 * MIB)
DISK_SIZE = 512 * MIB
OPTIONS = ["--memory-budget", "128MiB"]
PARTS = ("supervisor", "core", "web")
"""The processes of a broadcaster, in the order in which its ready file names them."""
LOOK = 0.02
"""Seconds between two looks at what is due."""
SAMPLE = 0.25


def cast(direct: str, through: str, directory: Path, seed: int) -> list[Part]:
    """Who takes part: some of them connect through a line that can be cut and held."""
    rng = random.Random(seed)

    def part(role: str, number: int, url: str, *models: str, **more: Any) -> Part:
        who = f"{role}-{number}"
        return Part(role, who, url, str(directory), rng.randrange(1 << 30), models, **more)

    return [
        part("learner", 1, direct, "fast", "mixed", sizes=SMALL, archived=0.1, pause=0.03),
        part("learner", 2, through, "steady", "brief", sizes=MIDDLE, archived=0.5),
        part("learner", 3, direct, "large", sizes=LARGE, archived=0.1),
        part("learner", 4, through, "mixed", "large", sizes=MIDDLE + LARGE, archived=0.3, slot_dir=NO_SLOTS),
        part("actor", 1, direct, "large"),
        part("actor", 2, through, "mixed", delivery="chunks"),
        part("actor", 3, through, "steady", every=True),
        part("actor", 4, direct, "mixed", every=True, delivery="chunks"),
        part("actor", 5, through, "fast"),
        part("actor", 6, direct, "brief", every=True),
        part("keeper", 1, direct, *MODELS, doomed=DOOMED),
        part("keeper", 2, through, *MODELS, doomed=DOOMED),
    ]


class Run:
    """A broadcaster, its line, its disk and its parties. `history` is there when `play` has returned."""

    def __init__(self, directory: Path, seed: int, seconds: float, pace: float) -> None:
        self.directory = directory
        self.seconds = seconds
        self.files = directory / "history"
        self.files.mkdir()
        self.recorder = Recorder(self.files / "conductor.jsonl", "conductor")
        self.seed = seed
        self._pace = pace
        self._lives = itertools.count(2)
        self._parts: dict[str, Part] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._since: dict[str, float] = {}
        """When those who are stopped were."""

    def play(self) -> History:
        """All of it. Raises AssertionError when somebody ends who should not."""
        with contextlib.ExitStack() as stack:
            parts = self.set_up(stack)
            stack.callback(self._end_all)
            for part in parts:
                self._start(part)
            wait_until(lambda: all(self._said(who) for who in self._parts), "everybody has begun", seconds=40)
            self._let_faults_happen()
            self._finish()
        self.recorder.write("ended")
        return self.read()

    def set_up(self, stack: contextlib.ExitStack) -> list[Part]:
        """Makes all that they need, to be taken down with `stack`, and says who takes part."""
        self._disk = stack.enter_context(mounted(self.directory / "archive"))
        archive = self.directory / "archive" / "data"
        self.broadcaster = BroadcasterProcess(self.directory / "broadcaster", options=OPTIONS, archive_dir=archive, http=True)
        stack.enter_context(self.broadcaster)
        self._line = stack.enter_context(Forwarder(self.broadcaster.ready, seed=self.seed))
        return cast(self.broadcaster.url, self._line.url, self.files, self.seed)

    def command(self, part: Part) -> list[str]:
        """The command line of a part's process."""
        return part.command()

    @property
    def kinds(self) -> list[Kind]:
        """The faults of this run."""
        return KINDS if self._disk is None else [*KINDS, FILL]

    def faults(self) -> list[Fault]:
        names = [who.partition(".")[0] for who in self._parts]
        return schedule(self.seed, self.seconds, self._pace, names, self.kinds)

    def read(self) -> History:
        return history_of(sorted(self.files.iterdir()))

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(sorted({model for part in self._parts.values() for model in part.models}))

    # --- the parties -----------------------------------------------------------------------------------------------

    def _start(self, part: Part) -> None:
        self._parts[part.who] = part
        with (self.directory / "errors.log").open("ab") as errors:
            environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            self._processes[part.who] = subprocess.Popen(
                self.command(part), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stderr=errors
            )

    def _said(self, who: str) -> bool:
        self._look_after()
        path = self._parts[who].path
        return path.exists() and path.stat().st_size > 0

    def _look_after(self) -> None:
        """Nobody ends by itself."""
        for who, process in self._processes.items():
            errors = (self.directory / "errors.log").read_text(errors="replace")[-4000:]
            assert process.poll() is None, f"{who} ended by itself with {process.returncode}:\n{errors}"

    def _kill(self, who: str) -> None:
        process = self._processes.pop(who)
        process.kill()
        process.wait()
        self.recorder.write("killed", whom=who)
        self._over(who)

    def _replace(self, name: str) -> None:
        """kill -9, and another process takes its place."""
        who = next(one for one in self._parts if one.partition(".")[0] == name)
        part = self._parts.pop(who)
        self._kill(who)
        life = next(self._lives)
        self._start(replace(part, who=f"{name}.{life}", seed=part.seed + life))

    def _end_all(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    # --- the faults ------------------------------------------------------------------------------------------------

    def _let_faults_happen(self) -> None:
        faults = self.faults()
        print(f"seed {self.seed}, {self.seconds:g} s, {len(faults)} faults:", *faults, sep="\n  ")
        order = itertools.count()
        due: list[tuple[float, int, Callable[[], object], Fault | None]] = []
        for fault in faults:
            heapq.heappush(due, (fault.at, next(order), self.effects(fault)[0], fault))
        begun = sampled = time.monotonic()
        while (now := time.monotonic()) < begun + self.seconds or due:
            if due and now >= begun + due[0][0]:
                _, _, act, begun_now = heapq.heappop(due)
                act()
                if begun_now is not None and begun_now.lasts:  # As long as it is to last, however late it began.
                    over = time.monotonic() - begun + begun_now.lasts
                    heapq.heappush(due, (over, next(order), self.effects(begun_now)[1], None))
            elif now >= sampled + SAMPLE:
                sampled = now
                self._look_after()
                self._sample()
            else:
                time.sleep(LOOK)

    def effects(self, fault: Fault) -> tuple[Callable[[], object], Callable[[], object]]:
        """What begins the fault, and what ends it."""
        kind, *what = fault.kind.split()
        match kind, fault.target:
            case "kill", name if name == BROADCASTER and what:
                return lambda: self._kill_part(what[0]), lambda: None
            case "kill", name if name == BROADCASTER:
                return self._restart, lambda: None
            case "kill", name:
                return lambda: self._replace(name), lambda: None
            case "stop", name:
                return lambda: self._stop(name), lambda: self._go_on(name)
            case "cut", _:
                return self._line.cut, lambda: None
            case "hold", _:
                way = what[0], {"up": UP, "down": DOWN}[what[1]]
                return lambda: self._line.hold(*way, 0), lambda: self._lose(way)
            case "fill", name if name == DISK and self._disk is not None:
                return self._disk.fill, self._disk.free
        raise ValueError(fault)

    def _restart(self) -> None:
        since = time.monotonic()
        self.broadcaster.restart(kill=True)
        self.recorder.write("away", since=since)
        self._over(BROADCASTER)

    def _kill_part(self, part: str) -> None:
        """One process of the broadcaster: its supervisor starts another in its place. Nobody is to notice the end of the web."""
        since, pids = time.monotonic(), self.broadcaster.pids
        os.kill(pids[PARTS.index(part)], signal.SIGKILL)
        wait_until(lambda: self._pids_now() != pids, f"another {part} serves")
        if part == "core":
            self.recorder.write("away", since=since)

    def _pids_now(self) -> list[int]:
        """The broadcaster's processes, once all of them serve again."""
        with contextlib.suppress(FileNotFoundError):
            self.broadcaster.ready = json.loads(self.broadcaster.ready_file.read_text())
        return self.broadcaster.pids

    def _lose(self, way: tuple[str, str]) -> None:
        """What was held back never comes."""
        self._line.cut()
        self._line.release(way)

    def _pids(self, name: str) -> list[int]:
        if name == BROADCASTER:
            return self.broadcaster.pids
        return [process.pid for who, process in self._processes.items() if who.partition(".")[0] == name]

    def _who(self, name: str) -> str:
        return next((who for who in self._parts if who.partition(".")[0] == name), name)

    def _stop(self, name: str) -> None:
        self._since[self._who(name)] = time.monotonic()
        for pid in self._pids(name):
            os.kill(pid, signal.SIGSTOP)

    def _go_on(self, name: str) -> None:
        for pid in self._pids(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._over(self._who(name))

    def _over(self, who: str) -> None:
        """`who` is stopped no more."""
        since = self._since.pop(who, None)
        if since is not None:
            self.recorder.write("stopped", whom=who, since=since)

    def _sample(self) -> None:
        pids = self.broadcaster.pids
        with contextlib.suppress(OSError):
            descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
            self.recorder.write("sample", memory=sum(map(private_memory, pids)), descriptors=descriptors)

    # --- the end ---------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """The faults are over: a last version of each model, everybody gets it, all is read back, nothing is left behind."""
        for who in [who for who in self._processes if not who.startswith("actor")]:
            process = self._processes.pop(who)
            process.terminate()
            assert process.wait(60) == 0, f"{who} ended with {process.returncode}"
        self.recorder.write("healed")
        with clients.connect(self.broadcaster.ipc_url) as client:
            newest = {}
            for model in self.models:
                newest[model] = publish(self.recorder, client.publisher(model), os.urandom(200_000), archived=False)
                assert newest[model] is not None, f"the last version of {model}"
            self._wait_for_actors(newest)
            self._read_back(client)
        self._sample()
        self._end_all()
        assert self.broadcaster.stop() == 0
        self._look_behind()

    def _wait_for_actors(self, newest: dict[str, Any]) -> None:
        """Until all have it; who never does is found by the checker."""
        models = {part.who: part.models[0] for part in self._parts.values() if part.role == "actor"}

        def all_have_it() -> bool:
            self._look_after()
            got = {(one.who, one.model, one.number) for one in self.read().deliveries}
            return all((who, model, newest[model]) in got for who, model in models.items())

        with contextlib.suppress(AssertionError):
            wait_until(all_have_it, "every actor has the newest", seconds=30)

    def _read_back(self, client: clients.Client) -> None:
        """Each archived version there should be is fetched."""
        part = Part("keeper", "conductor", self.broadcaster.url, str(self.files), 0, self.models)
        keeper, known = Keeper(Party(part, client, self.recorder, threading.Event())), Known(self.read())
        wanted = {(one["model"], one["number"]) for one in known.durable}
        for model, number in sorted(wanted):
            if not known.maybe_deleted(model, number, float("inf")):
                keeper.fetch(model, number)
        for model in self.models:
            keeper.list(model)

    def _look_behind(self) -> None:
        archive = self.broadcaster.archive_dir
        for entry in [*(archive / "staging").iterdir(), *self.broadcaster.slot_dir.glob("slot-*")]:
            self.recorder.write("left-over", what=str(entry.relative_to(entry.parent.parent)))
        line = [sys.executable, "-m", "broadcaster", "verify", "--json", str(archive)]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
        for problem in json.loads(done.stdout)["problems"]:
            self.recorder.write("left-over", what=f"verify says: {problem}")
        assert done.returncode == 0 or json.loads(done.stdout)["problems"], done.stderr


def private_memory(pid: int) -> int:
    """Bytes of a process's own memory: slots are shared, and are counted by the budget."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


# --- a disk that can be full ---------------------------------------------------------------------------------------


class Disk:
    """A small file system of its own, which can be filled."""

    def __init__(self, directory: Path) -> None:
        self._filler = directory / "filler"

    def fill(self) -> None:
        """Nothing more fits."""
        with self._filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            room = os.statvfs(file.fileno())
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
            while True:  # Somebody may have given some back meanwhile.
                file.seek(0, os.SEEK_END)
                file.write(bytes(4096))

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


@contextlib.contextmanager
def mounted(directory: Path) -> Iterator[Disk | None]:
    """A file system in memory at `directory`; None, and a plain directory, for who may not mount one."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "none", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        print("no disk is filled in this run: only root mounts one")
        yield None
        return
    try:
        yield Disk(directory)
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True, capture_output=True)
