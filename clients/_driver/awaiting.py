"""Waiting until so many subscribers have got as far as a version."""

from __future__ import annotations

from dataclasses import dataclass, replace

from broadcaster.protocol.limits import RETRY
from broadcaster.protocol.messages import Acks, AwaitAcks
from clients._driver.asking import Ask, left
from clients._driver.owner import Send

LAST_WORD = 0.5
"""Seconds that the broadcaster has, when the time is over, to say how many had got that far."""


@dataclass(frozen=True, slots=True)
class AckCounts:
    """How many subscribers have got as far as a version: `received`, verified and visible there; `applied`, handed out to its
    user."""

    received: int
    applied: int


class Await(Ask[AckCounts]):
    """Asked again every second: the broadcaster may be another one by then."""

    def __init__(
        self, namespace: str, model_id: str, number: int, count: int, stage: str, send: Send, deadline: float, timeout: float
    ) -> None:
        def request(request_id: bytes) -> AwaitAcks:
            return AwaitAcks(
                request_id=request_id, namespace=namespace, model_id=model_id, number=number, count=count, stage=stage
            )

        what = f"waiting until {count} subscribers of {model_id} have {stage} version {number}"
        super().__init__(request, Acks, _counts, send, deadline + LAST_WORD, timeout, what)

    def start(self, now: float) -> None:
        self._again = now + RETRY
        self._send(replace(self._request, budget_ms=left(self._until - LAST_WORD, now)))

    def expire(self, now: float) -> bool:
        """Never: silence is what there is to wait in."""
        super().expire(now)
        return False


def _counts(acks: Acks) -> AckCounts:
    return AckCounts(acks.received, acks.applied)
