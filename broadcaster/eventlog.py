"""The event log: what happened, gap-free inside one epoch, the newest so many kept for replay. Pure."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any

from broadcaster.protocol.errors import EventsGone
from broadcaster.protocol.messages import Event

Key = tuple[str, str]

KEPT = 8_192
"""Events kept for replay: about 16 MiB with the versions they name."""


class EventLog:
    """Appends events with the next offset and the previous offset of their model; replays what is still kept."""

    def __init__(self, epoch: int, *, kept: int = KEPT) -> None:
        self.epoch = epoch
        self.offset = 0
        self._events: deque[Event] = deque(maxlen=kept)
        self._models: dict[Key, int] = {}

    def append(self, key: Key, event: str, **facts: Any) -> Event:
        """The event, with its place in the log; `facts` are further fields of the message."""
        self.offset += 1
        made = Event(
            epoch=self.epoch,
            offset=self.offset,
            previous=self._models.get(key, 0),
            namespace=key[0],
            model_id=key[1],
            event=event,
            **facts,
        )
        self._models[key] = self.offset
        self._events.append(made)
        return made

    def model_offset(self, key: Key) -> int:
        """Offset of the model's newest event, 0 for none."""
        return self._models.get(key, 0)

    def replay(self, epoch: int, after: int, namespace: str, model_id: str | None, limit: int) -> tuple[list[Event], int | None]:
        """At most `limit` events behind offset `after`, and the `after` of the next page (None: the log ends here).

        Raises EventsGone when some of them are not kept any more, or belong to another epoch.
        """
        oldest = self.offset - len(self._events) + 1
        if epoch != self.epoch or after < oldest - 1 or after > self.offset:
            raise EventsGone(offset=after, epoch=epoch, oldest=oldest, newest=self.offset, current=self.epoch)
        found: list[Event] = []
        for event in islice(self._events, after - oldest + 1, None):
            if event.namespace == namespace and (model_id is None or event.model_id == model_id):
                if len(found) == limit:
                    return found, found[-1].offset
                found.append(event)
        return found, None
