"""Following which version of a model is the newest: what is known of it, and nothing of its payload.

    NewestFollower (a front)                         broadcaster
    ASKING     ── follow, get-model ───────────────▶
               ◀──── state: newest is 7; model ──────
    FOLLOWING  ◀──────────── event: that was 8 ──────   (push)
               ◀──────────── event: deleted ─────────   (push)
    ENDED

It is for one life of a model: when the model is deleted it ends, whether or not the model is made again. That is seen by its
event or, should the event be missed, by the time at which the model was made. A gap, another epoch and silence are reasons to ask
again; while an answer is awaited nothing newer is told, for the model may be another one by then.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from broadcaster.protocol.errors import AccessDenied, BroadcasterError, UnknownModel
from broadcaster.protocol.frames import Chunk
from broadcaster.protocol.limits import BEACON_IDLE, RETRY
from broadcaster.protocol.messages import Beacon, Error, Event, Follow, GetModel, Message, Model, State
from broadcaster.protocol.version import ModelInfo, VersionInfo

Out = list[Message | Chunk]


class NewestState(Enum):
    ASKING = "asking"
    FOLLOWING = "following"
    ENDED = "ended"


class NewestFollower:
    """Follows the model that was made at `created` (ns). `newest` is its newest version that was heard of: the number only grows.

    When `state` is ENDED, `error` says why: UnknownModel when there is none or it was deleted, AccessDenied.
    """

    def __init__(
        self, namespace: str, model_id: str, created: int, make_id: Callable[[], bytes], *, retry: float = RETRY
    ) -> None:
        self.namespace = namespace
        self.model_id = model_id
        self.created = created
        self.state = NewestState.ASKING
        self.newest: VersionInfo | None = None
        self.where: tuple[int, str, int] | None = None
        """Epoch, slot and generation of the newest version's payload, where it lies in a slot."""
        self.error: BroadcasterError | None = None
        self.gaps = 0
        self._make_id = make_id
        self._retry = retry
        self._epoch: int | None = None
        self._offset = 0
        self._state_id = self._model_id = b""
        self._found: State | None = None
        self._model: ModelInfo | None = None
        self._news = False
        """Something was missed since the question that is under way was put."""
        self._ask_at = 0.0
        self._silent_after = 0.0

    @property
    def over(self) -> bool:
        return self.state is NewestState.ENDED

    def start(self, now: float) -> Out:
        """Asks what is newest. To be called after subscribing, so that nothing falls between; at any time after that it asks
        again."""
        self._silent_after = now + 3 * BEACON_IDLE
        return self._ask(now)

    def receive(self, message: Message, now: float) -> Out:
        if self.over:
            return []
        match message:
            case Event():
                return self._event(message, now)
            case Beacon():
                return self._beacon(message, now)
            case State() if message.request_id == self._state_id:
                self._found = message
                return self._answered(now)
            case Model() if message.request_id == self._model_id:
                self._model = message.model
                return self._answered(now)
            case Error() if message.request_id in (self._state_id, self._model_id):
                error = message.to_raise()
                if isinstance(error, (UnknownModel, AccessDenied)):
                    self._end(error)
        return []  # An answer to a question that was put again: the newer answer counts.

    @property
    def deadline(self) -> float | None:
        if self.over:
            return None
        return self._silent_after if self.state is NewestState.FOLLOWING else min(self._silent_after, self._ask_at)

    def expire(self, now: float) -> Out:
        if self.over:
            return []
        if now >= self._silent_after:
            self._silent_after = now + 3 * BEACON_IDLE
            return self._ask(now)
        return self._ask(now) if self.state is NewestState.ASKING and now >= self._ask_at else []

    def nap(self, now: float) -> float:
        """Seconds in which nothing has to be looked at: none, for nothing large is pushed."""
        return 0.0

    # --- what is heard ---------------------------------------------------------------------------------------------

    def _event(self, event: Event, now: float) -> Out:
        self._silent_after = now + 3 * BEACON_IDLE
        if event.epoch == self._epoch and event.offset <= self._offset:
            return []
        if event.epoch != self._epoch or event.previous > self._offset:
            self.gaps += self._epoch is not None
            return self._look_again(now)
        self._offset = event.offset
        if event.event == "deleted":
            self._end(UnknownModel(model_id=self.model_id, namespace=self.namespace))
        elif event.event == "published" and event.version is not None and self.state is NewestState.FOLLOWING:
            slot = None if event.slot is None else (event.epoch, event.slot, event.generation or 0)
            self._take(event.version, slot)
        elif event.event == "published":
            self._news = True  # The answer that is awaited may be from before.
        return []

    def _beacon(self, beacon: Beacon, now: float) -> Out:
        self._silent_after = now + 3 * beacon.interval_ms / 1000
        if beacon.epoch == self._epoch and beacon.model_offset <= self._offset:
            return []
        self.gaps += self._epoch is not None
        return self._look_again(now)

    def _look_again(self, now: float) -> Out:
        """Asks, or asks once more when the question that is under way is answered: that answer may be from before."""
        if self.state is NewestState.ASKING:
            self._news = True
            return []
        return self._ask(now)

    # --- the question ----------------------------------------------------------------------------------------------

    def _ask(self, now: float) -> Out:
        self.state, self._ask_at, self._news = NewestState.ASKING, now + self._retry, False
        self._state_id, self._model_id = self._make_id(), self._make_id()
        self._found = self._model = None
        return [
            Follow(request_id=self._state_id, namespace=self.namespace, model_id=self.model_id),
            GetModel(request_id=self._model_id, namespace=self.namespace, model_id=self.model_id),
        ]

    def _answered(self, now: float) -> Out:
        """Both answers count together: where the log was, and which life of the model that was."""
        found, model = self._found, self._model
        if found is None or model is None:
            return []
        if model.creation_timestamp != self.created:
            self._end(UnknownModel(model_id=self.model_id, namespace=self.namespace))  # Made again since.
            return []
        self.state = NewestState.FOLLOWING
        if found.epoch != self._epoch or found.model_offset > self._offset:
            self._epoch, self._offset = found.epoch, found.model_offset
        if found.newest is not None:
            slot = None if found.slot is None else (found.epoch, found.slot, found.generation or 0)
            self._take(found.newest, slot)
        return self._ask(now) if self._news else []

    def _take(self, version: VersionInfo, where: tuple[int, str, int] | None) -> None:
        if self.newest is None or version.number > self.newest.number:
            self.newest, self.where = version, where

    def _end(self, error: BroadcasterError) -> None:
        self.state, self.error = NewestState.ENDED, error
