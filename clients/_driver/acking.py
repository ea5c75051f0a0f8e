"""Telling the broadcaster how far a model's subscribers are: a little behind each version, and never in its way.

a version becomes visible ──▶ 50 to 100 ms later: ack received=7 applied=6
the user takes it          ──▶ nobody is woken; looked at 100, 200, 400 ms ... 1 s later: ack received=7 applied=7
nothing happens            ──▶ every 10 s the same again
hundreds subscribe         ──▶ a beacon says how much longer to wait, instead of 100 ms
"""

from __future__ import annotations

import math
import os

from broadcaster.protocol.limits import ACK_IDLE, ACK_INTERVAL
from broadcaster.protocol.messages import Ack
from clients._driver.owner import Send

DELAY = 0.05
"""Seconds for which an ack waits at least. Up to twice as long, each its own, so that a crowd does not speak all at once."""
LONGEST_LOOK = 1.0
"""Seconds between two looks at how far a user is that is behind, at most."""


class Mark:
    """How far the user of one subscriber is. `handed` is written by the user's thread, all else by the I/O thread."""

    __slots__ = ("subscriber", "name", "handed", "told", "told_at", "named_at")

    def __init__(self, name: str) -> None:
        self.subscriber = os.urandom(16)
        self.name = name
        self.handed = 0
        """Number of the version that the user got last. Not the snapshot: that would keep its memory."""
        self.told: tuple[int, int, int] | None = None
        """Epoch, received and applied as of the last ack."""
        self.told_at = self.named_at = -math.inf


class Acking:
    """The acks of one feed: one for each subscriber. All of it runs on the I/O thread."""

    def __init__(self, namespace: str, model_id: str, send: Send, delay: float | None = None) -> None:
        self.due = math.inf
        """When `expire` wants to be called."""
        self._namespace = namespace
        self._model_id = model_id
        self._send = send
        self._delay = DELAY * (1 + os.urandom(1)[0] / 255) if delay is None else delay
        self._marks: list[Mark] = []
        self._visible = 0
        self._visible_at = -math.inf
        self._epoch: int | None = None
        self._sent = -math.inf
        self._interval = self._pause = ACK_INTERVAL

    def pace(self, milliseconds: int | None) -> None:
        """The broadcaster wants so long a time between two acks; None is what is usual."""
        self._interval = min(ACK_IDLE, max(ACK_INTERVAL, (milliseconds or 0) / 1000))

    def join(self, mark: Mark, now: float) -> None:
        """One subscriber more: it is told of soon."""
        self._marks.append(mark)
        self._arm(now)

    def leave(self, mark: Mark) -> None:
        """One subscriber less, which says so."""
        if mark in self._marks:
            self._marks.remove(mark)
            if mark.told is not None:
                epoch, received, applied = mark.told
                self._send(self._ack(mark, epoch, received, max(applied, mark.handed), gone=True))

    def close(self) -> None:
        """Nobody follows any more."""
        for mark in list(self._marks):
            self.leave(mark)
        self.due = math.inf

    def look(self, visible: int, epoch: int | None, now: float) -> None:
        """The newest visible version, and the life of the broadcaster that it is known from. Cheap when both are as before."""
        if visible != self._visible or epoch != self._epoch:
            self._visible_at = now if visible > self._visible and epoch == self._epoch else -math.inf
            self._visible, self._epoch, self._pause = visible, epoch, self._interval
            self._arm(now)

    def _arm(self, now: float) -> None:
        if self._epoch is not None and self._marks:
            wait = self._delay * self._interval / ACK_INTERVAL  # A large crowd spreads over all the time that it is given.
            self.due = min(self.due, max(now + wait, self._sent + self._interval))

    def expire(self, now: float) -> None:
        """Tells what changed, and that who has nothing to tell is still there."""
        if now < self.due or self._epoch is None:
            return
        behind = False
        for mark in self._marks:
            applied = max(mark.handed, mark.told[2] if mark.told is not None else 0)
            at = (self._epoch, max(self._visible, applied), applied)
            if at != mark.told or now >= mark.told_at + ACK_IDLE:
                self._tell(mark, at, now)
            behind = behind or applied < self._visible
        self.due = min((mark.told_at for mark in self._marks), default=math.inf) + ACK_IDLE
        if behind:
            self.due = min(self.due, now + self._pause)
            self._pause = min(2 * self._pause, max(LONGEST_LOOK, self._interval))

    def _tell(self, mark: Mark, at: tuple[int, int, int], now: float) -> None:
        new = mark.told is None or mark.told[0] != at[0]
        before = 0 if new or mark.told is None else mark.told[1]
        # What a late joiner finds was published long ago: that says nothing of how fast versions get here.
        age = now - self._visible_at if before and before != at[1] == self._visible else None
        named = new or now >= mark.named_at + ACK_IDLE  # The broadcaster may have forgotten it meanwhile.
        mark.told, mark.told_at, self._sent = at, now, now
        mark.named_at = now if named else mark.named_at
        self._send(self._ack(mark, *at, name=mark.name if named else None, age=age))

    def _ack(
        self,
        mark: Mark,
        epoch: int,
        received: int,
        applied: int,
        *,
        name: str | None = None,
        gone: bool = False,
        age: float | None = None,
    ) -> Ack:
        return Ack(
            subscriber=mark.subscriber,
            name=name,
            namespace=self._namespace,
            model_id=self._model_id,
            epoch=epoch,
            received=max(received, applied),
            applied=applied,
            gone=gone,
            age_us=None if age is None or age == math.inf else round(age * 1e6),
        )
