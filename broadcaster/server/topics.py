"""Who holds how many subscriptions: libzmq keeps every one for as long as its connection lasts, allowed or not."""

from __future__ import annotations

from dataclasses import dataclass

TOPICS = 2048
"""Subscriptions of one connection: two for each model that it follows with its payloads."""
TOPICS_OF_USER = 65_536
"""Subscriptions of one key, over all its connections."""
ALL_TOPICS = 65_536
"""Different topics that are subscribed to: libzmq looks at all of them whenever a subscriber goes."""
STRANGE = 64
"""Subscriptions of one connection to what is no topic."""


@dataclass(slots=True)
class _Held:
    inode: int
    user: str
    count: int = 0
    strange: int = 0
    cut: bool = False


class Topics:
    """Counted by connection, by user, and in all. A connection is a descriptor, and the inode that tells it from the next one."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}
        self._users: dict[str, int] = {}

    def add(self, descriptor: int, inode: int, user: str, different: int, *, valid: bool = True) -> bool:
        """One more. Whether there is room for it. Where there are no keys, `user` is empty and nobody's. What is not a `valid`
        topic is kept by libzmq all the same; `different` topics are subscribed to now."""
        held = self._held.get(descriptor)
        if held is None or held.inode != inode:
            self.gone(descriptor)
            held = self._held[descriptor] = _Held(inode, user)
        held.count += 1
        held.strange += not valid
        if held.user:
            self._users[held.user] = self._users.get(held.user, 0) + 1
        return (
            held.strange <= STRANGE
            and held.count <= TOPICS
            and different <= ALL_TOPICS
            and self._users.get(held.user, 0) <= TOPICS_OF_USER
        )

    def is_cut(self, descriptor: int) -> bool:
        """Whether the connection that has this descriptor is at its end, and whatever it says is not looked at."""
        held = self._held.get(descriptor)
        return held is not None and held.cut

    def is_to_be_cut(self, descriptor: int) -> bool:
        """Whether this connection, for which there was no room, is to be cut: once."""
        held = self._held[descriptor]
        first, held.cut = not held.cut, True
        return first

    def remove(self, descriptor: int) -> None:
        """One less, on the word of the connection itself."""
        held = self._held.get(descriptor)
        if held is not None and held.count:
            held.count -= 1
            self._less(held.user, 1)

    def gone(self, descriptor: int, now: int | None = None) -> int:
        """The connection has ended, and all that it held with it; unless `now`, the inode of its descriptor, still is its. How
        many subscriptions that were."""
        held = self._held.get(descriptor)
        if held is None or held.inode == now:
            return 0
        del self._held[descriptor]
        self._less(held.user, held.count)
        return held.count

    def holds(self, descriptor: int) -> bool:
        """Whether the end of this connection matters here. Safe from any thread."""
        return descriptor in self._held

    def _less(self, user: str, by: int) -> None:
        if not user or not by:
            return
        left = self._users[user] - by
        if left:
            self._users[user] = left
        else:
            del self._users[user]
