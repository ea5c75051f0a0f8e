"""What processes use, read from outside: processor time and private memory (Linux, /proc)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of processor time. `total` is exact to the nanosecond, the two parts to a tick of the kernel."""

    total: float = 0.0
    user: float = 0.0
    system: float = 0.0

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.total + other.total, self.user + other.user, self.system + other.system)

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.total - other.total, self.user - other.user, self.system - other.system)

    def parts(self, divisor: float) -> dict[str, float]:
        """`user` and `system` for each of `divisor`: the exact total, divided as the ticks are; `total` without a tick."""
        ticks = self.user + self.system
        if not ticks:
            return {"total": self.total / divisor}
        return {"user": self.total * self.user / ticks / divisor, "system": self.total * self.system / ticks / divisor}


def cpu_of(pids: Iterable[int]) -> Cpu:
    """Processor time that living processes have used so far, with all their threads."""
    return sum((_cpu(pid) for pid in pids), Cpu())


def _cpu(pid: int) -> Cpu:
    user, system = _ticks(Path(f"/proc/{pid}/stat").read_text())
    # The kernel's number for the processor clock of another process: see clock_getcpuclockid(3).
    return Cpu(time.clock_gettime_ns((~pid << 3) | 2) / 1e9, user, system)


def threads_of(pid: int) -> dict[str, Cpu]:
    """Processor time of each thread by name; threads of one name are added up. `main` is the first one."""
    found: dict[str, Cpu] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        text = (task / "stat").read_text()
        name = "main" if int(task.name) == pid else text[text.index("(") + 1 : text.rindex(")")]
        user, system = _ticks(text)
        found[name] = found.get(name, Cpu()) + Cpu(user + system, user, system)
    return found


def _ticks(stat: str) -> tuple[float, float]:
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) / _TICK, int(fields[12]) / _TICK


def minor_faults(pids: Iterable[int]) -> int:
    """Pages that living processes have touched so far and that the kernel had to map first, without reading a disk."""
    return sum(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7]) for pid in pids)


def private_bytes(pid: int) -> int:
    """Memory that only this process has: Private_Clean + Private_Dirty of smaps_rollup; no library that others use.

    A mapped file counts while nobody else maps it: see `private_apart` for a process that maps slots.
    """
    return sum(_kib(line) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Private_"))


def private_apart(pid: int, directory: Path) -> int:
    """Private memory without files of `directory`: a slot's page is everybody's, even while one process maps it."""
    inside = f"{directory}/"
    total, counting = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first = line.partition(" ")[0]
        if not first.endswith(":"):
            counting = inside not in line
        elif counting and first.startswith("Private_"):
            total += _kib(line)
    return total


def anonymous_bytes(pid: int) -> int:
    """Memory of no file: what the process allocated itself. Cheap enough to be asked every few milliseconds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(_kib(line) for line in lines if line.startswith("RssAnon"))


def allocated_bytes(directory: Path) -> int:
    """Memory that the files of a directory in shared memory take."""
    return sum(file.stat().st_blocks * 512 for file in directory.iterdir() if file.is_file())


def _kib(line: str) -> int:
    return int(line.split()[1]) * 1024


class Sampler:
    """Takes memory figures at an interval, from a thread; ends with the `with` block. A process that is gone has no figure."""

    def __init__(self, sources: Mapping[str, object], interval: float) -> None:
        self.series: dict[str, list[tuple[float, int]]] = {name: [] for name in sources}
        """(seconds, bytes) by name."""
        self._sources = sources
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory")

    def _run(self) -> None:
        while True:
            for name, read in self._sources.items():
                try:
                    self.series[name].append((time.monotonic(), read()))  # type: ignore[operator]
                except (FileNotFoundError, ProcessLookupError):
                    continue
            if self._ended.wait(self._interval):
                return

    def peak(self, name: str) -> int:
        """The largest figure, in bytes."""
        return max(value for _, value in self.series[name])

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def slope(series: Iterable[tuple[float, int]]) -> float:
    """Bytes a second: the straight line of least squares through a series."""
    points = list(series)
    times, values = [at for at, _ in points], [value for _, value in points]
    middle, level = sum(times) / len(times), sum(values) / len(values)
    spread = sum((at - middle) ** 2 for at in times)
    return sum((at - middle) * (value - level) for at, value in points) / spread if spread else 0.0
