"""How fast the core's counters grow, and quantiles of its histograms over the last minute."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from broadcaster.protocol.errors import TransportError
from broadcaster.web.link import Link

EVERY = 1.0
"""Seconds between two looks, while somebody wants to know."""
IDLE = 30.0
"""Seconds after the last question in which the looks go on."""
SHORT = 5.0
"""Seconds that a rate is over."""
LONG = 60.0
"""Seconds that quantiles are over."""
COUNTED = ("publishes", "bytes_in", "reads", "bytes_read", "acks", "events", "requests")
"""Counters of which rates are told."""

Sample = tuple[float, Mapping[str, float]]


class Rates:
    """Looks now and then, for as long as anybody asks."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._samples: deque[Sample] = deque(maxlen=int(LONG / EVERY) + 2)
        self._asked = 0.0
        self._sampling: asyncio.Task[None] | None = None

    async def tell(self) -> dict[str, Any]:
        """What the core says now, rates per second over the last `SHORT` seconds, quantiles over the last `LONG`; both null until
        there is something to compare with. Raises TransportError while the core does not answer."""
        self._asked = time.monotonic()
        if self._sampling is None or self._sampling.done():
            self._samples.clear()
            self._sampling = asyncio.create_task(self._sample())
        look = await self._link.look()
        if look.stats is None:
            raise TransportError(reason=f"the core does not answer: {look.why}")
        now: Sample = look.at, look.stats
        return {
            "epoch": int(look.stats["epoch"]),
            "offset": int(look.stats["offset"]),
            "server_version": self._link.client.server_version,
            "values": dict(sorted(look.stats.items())),
            "per_second": {name: self._rate(name, now) for name in COUNTED},
            "quantiles": {name: self._quantiles(name, now) for name in histograms(look.stats)},
        }

    async def close(self) -> None:
        if self._sampling is not None:
            self._sampling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sampling

    async def _sample(self) -> None:
        while time.monotonic() < self._asked + IDLE:
            look = await self._link.look()
            if look.stats is not None:
                if self._samples and self._samples[-1][1]["epoch"] != look.stats["epoch"]:
                    self._samples.clear()  # Another life: its counters begin again.
                self._samples.append((look.at, look.stats))
            await asyncio.sleep(EVERY)

    def _before(self, now: Sample, seconds: float) -> Sample | None:
        """The oldest sample that is at most so old."""
        for sample in self._samples:
            if sample[1]["epoch"] == now[1]["epoch"] and now[0] - seconds <= sample[0] < now[0]:
                return sample
        return None

    def _rate(self, name: str, now: Sample) -> float | None:
        before = self._before(now, SHORT + EVERY)
        if before is None or now[0] - before[0] < EVERY / 2:
            return None
        return round((now[1][name] - before[1][name]) / (now[0] - before[0]), 3)

    def _quantiles(self, name: str, now: Sample) -> dict[str, float | int | None]:
        before = self._before(now, LONG + EVERY)
        buckets = [
            (bound, count - (before[1].get(f"{name}.le.{text}", 0.0) if before else 0.0))
            for bound, text, count in buckets_of(now[1], name)
        ]
        return {
            "count": int(buckets[-1][1]),
            "p50_seconds": quantile(buckets, 0.5),
            "p99_seconds": quantile(buckets, 0.99),
        }


def histograms(stats: Mapping[str, float]) -> list[str]:
    """The names of the core's histograms."""
    return sorted(name.removesuffix(".le.+Inf") for name in stats if name.endswith(".le.+Inf"))


def buckets_of(stats: Mapping[str, float], name: str) -> list[tuple[float, str, float]]:
    """(upper bound, as the core writes it, how many were at most that), ascending; the last bound is infinity."""
    start = f"{name}.le."
    bounds = [key.removeprefix(start) for key in stats if key.startswith(start)]
    return sorted((float(bound), bound, stats[start + bound]) for bound in bounds)


def quantile(buckets: Sequence[tuple[float, float]], part: float) -> float | None:
    """Where this part of all observations lies, as far as (bound, cumulative count) tell: in between as if they were spread
    evenly, the last finite bound where it is above all of them; None without any."""
    total = buckets[-1][1]
    if total <= 0:
        return None
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= part * total:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (part * total - below) / max(count - below, 1e-9)
        low, below = bound, count
    return low
