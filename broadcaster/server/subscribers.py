"""Who wants what: the subscriptions that the XPUB socket told of, counted by topic."""

from __future__ import annotations

from broadcaster.protocol.names import CHUNKS, EVENTS, parse_topic, topic

Key = tuple[str, str]


class Subscribers:
    """Counts of accepted subscriptions. Topics are kept as bytes, so that asking on the hot path is one look-up."""

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}

    def add(self, raw: bytes) -> tuple[Key, bytes] | None:
        """(model, delivery kind) of a valid topic, counted; None for anything else, which is to be refused."""
        parsed = parse_topic(raw)
        if parsed is None:
            return None
        self._counts[raw] = self._counts.get(raw, 0) + 1
        return (parsed[0], parsed[1]), parsed[2]

    def remove(self, raw: bytes) -> Key | None:
        """One less. Returns the model when nobody is left who wants its events."""
        count = self._counts.get(raw)
        if count is None:
            return None
        if count > 1:
            self._counts[raw] = count - 1
            return None
        del self._counts[raw]
        parsed = parse_topic(raw)
        return (parsed[0], parsed[1]) if parsed is not None and parsed[2] == EVENTS else None

    def events(self, key: Key) -> bytes | None:
        """The topic of the model's events, if somebody wants them."""
        return self._wanted(topic(*key, EVENTS))

    def chunks(self, key: Key) -> bytes | None:
        """The topic of the model's chunks, if somebody wants them."""
        return self._wanted(topic(*key, CHUNKS))

    @property
    def count(self) -> int:
        """Subscriptions to events: about one for each actor and model."""
        return sum(count for raw, count in self._counts.items() if raw.endswith(b"\0" + EVENTS))

    @property
    def different(self) -> int:
        """Topics that somebody subscribed to."""
        return len(self._counts)

    def _wanted(self, raw: bytes) -> bytes | None:
        return raw if raw in self._counts else None
