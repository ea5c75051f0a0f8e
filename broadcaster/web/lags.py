"""How far the actors that lag most are behind: labels of metrics, so there is a bound to how many there are."""

from __future__ import annotations

import asyncio
import heapq
import time
from dataclasses import dataclass

from broadcaster.protocol.errors import BroadcasterError
from broadcaster.protocol.subscriber import SubscriberInfo
from broadcaster.web.limits import PATIENCE
from broadcaster.web.link import Link, answer

WORST = 20
"""Actors that are told by name."""
MODELS = 50
"""Models whose subscribers are asked for."""
PAGES = 2
"""Pages of subscribers of one model."""
EVERY = 1.0
"""Seconds for which a look is shared."""


@dataclass(frozen=True, slots=True)
class Lagging:
    """The worst of all, and the sums over all others that were looked at."""

    worst: tuple[tuple[str, SubscriberInfo], ...] = ()
    """(model, subscriber), the one that lags most first."""
    others: int = 0
    others_versions: int = 0
    others_seconds: float = 0.0


class Lags:
    """Asked for by whoever scrapes metrics; the core is asked once in `EVERY` seconds. Of the default namespace."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._looking: asyncio.Task[Lagging] | None = None
        self._begun = 0.0

    async def look(self) -> Lagging:
        """Nothing while the core does not answer."""
        if self._looking is None or (self._looking.done() and time.monotonic() >= self._begun + EVERY):
            self._begun = time.monotonic()
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> Lagging:
        calls, found = self._link.calls(timeout=PATIENCE), list[tuple[str, SubscriberInfo]]()
        try:
            if (await self._link.look()).stats is None:
                return Lagging()
            models, _ = await answer(calls.models(None, MODELS), PATIENCE)
            for model in models:
                after, pages = None, 0
                while pages == 0 or (after is not None and pages < PAGES):
                    page, after = await answer(calls.subscribers(model.model_id, after), PATIENCE)
                    found += [(model.model_id, one) for one in page]
                    pages += 1
        except BroadcasterError:
            pass  # What was found until then is true.
        worst = heapq.nlargest(WORST, found, key=lambda one: (one[1].lag, one[1].lag_ms))
        told = {one.subscriber for _, one in worst}
        others = [one for _, one in found if one.subscriber not in told]
        return Lagging(tuple(worst), len(others), sum(one.lag for one in others), sum(one.lag_ms for one in others) / 1000)
