"""Whether the broadcaster is alive and ready, check by check."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from broadcaster.web.limits import LOOK, PATIENCE
from broadcaster.web.link import Look

LEAST_FREE = 64 << 20
"""Bytes that the archive's disk has to have left."""
LONGEST_TURN = 1.0
"""Seconds that one turn of the core's loop, or of this process's, may take."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `seconds` is how long that took."""

    name: str
    ok: bool
    seconds: float
    detail: str = ""

    def told(self) -> dict[str, object]:
        said = {"name": self.name, "ok": self.ok, "latency_ms": round(self.seconds * 1000, 3)}
        return said | ({"detail": self.detail} if self.detail else {})


def of_core(look: Look) -> list[Check]:
    """What the core says of itself: its archive takes writes, its memory is not all pinned, its loop comes round. Pure."""
    stats, seconds = look.stats, look.seconds
    if stats is None:
        return [Check("core", ok=False, seconds=seconds, detail=look.why)]
    read_only, stuck = stats.get("archive_read_only", 0) > 0, stats.get("loop_longest_turn_seconds", 0.0) > LONGEST_TURN
    return [
        Check("core", ok=True, seconds=seconds),
        Check("archive", ok=not read_only, seconds=seconds, detail="it is read-only after a failed write" if read_only else ""),
        Check("memory", ok=not _full(stats), seconds=seconds, detail="all of it is pinned by readers" if _full(stats) else ""),
        Check("loop", ok=not stuck, seconds=seconds, detail=f"a turn took over {LONGEST_TURN:g} s" if stuck else ""),
    ]


def _full(stats: Mapping[str, float]) -> bool:
    budget = stats.get("memory_budget", 0)
    return bool(budget) and stats.get("slot_bytes_pinned", 0) >= budget


class Disk:
    """Whether the archive's disk answers, and has room. A disk that hangs holds one thread, however often it is asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.room: tuple[int, int] | None = None
        """Bytes that are free and bytes in all, as of the last look."""
        self._looking: asyncio.Task[Check] | None = None
        self._begun = 0.0

    async def check(self) -> Check:
        looking = self._looking
        if looking is None or (looking.done() and time.monotonic() >= self._begun + LOOK):
            self._begun = time.monotonic()
            looking = self._looking = asyncio.create_task(asyncio.to_thread(self._look))
        done, _ = await asyncio.wait([looking], timeout=PATIENCE)
        if done:
            return looking.result()
        return Check("disk", ok=False, seconds=time.monotonic() - self._begun, detail="it does not answer")

    def _look(self) -> Check:
        begun = time.monotonic()
        try:
            found = os.statvfs(self._directory)
        except OSError as wrong:
            return Check("disk", ok=False, seconds=time.monotonic() - begun, detail=wrong.strerror or "it cannot be looked at")
        free, files = found.f_bavail * found.f_frsize, found.f_favail if found.f_files else 1
        self.room = free, found.f_blocks * found.f_frsize
        detail = "" if free >= LEAST_FREE and files else f"{free >> 20} MiB and {files} files are free"
        return Check("disk", ok=not detail, seconds=time.monotonic() - begun, detail=detail)


class OwnLoop:
    """How late this process's own loop is."""

    def __init__(self) -> None:
        self.late = 0.0
        self._ticking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._ticking = asyncio.create_task(self._tick())

    def end(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()

    async def _tick(self) -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(LOOK)
            self.late = max(0.0, time.monotonic() - begun - LOOK)

    def check(self) -> Check:
        stuck = self.late > LONGEST_TURN
        return Check("web", ok=not stuck, seconds=self.late, detail=f"a turn took over {LONGEST_TURN:g} s" if stuck else "")
