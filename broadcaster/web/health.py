"""Whether the broadcaster is alive and ready, check by check. Pure: what was found is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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


def checks(stats: Mapping[str, float] | None, why: str, seconds: float) -> list[Check]:
    """What makes the broadcaster ready: the core answers, its archive takes writes, and its memory is not all pinned."""
    if stats is None:
        return [Check("core", ok=False, seconds=seconds, detail=why)]
    read_only = stats.get("archive_read_only", 0) > 0
    full = stats.get("memory_budget", 0) and stats.get("slot_bytes_pinned", 0) >= stats["memory_budget"]
    return [
        Check("core", ok=True, seconds=seconds),
        Check("archive", ok=not read_only, seconds=seconds, detail="it is read-only after a failed write" if read_only else ""),
        Check("memory", ok=not full, seconds=seconds, detail="all of it is pinned by readers" if full else ""),
    ]
