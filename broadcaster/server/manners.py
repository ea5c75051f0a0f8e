"""Who sends nothing but what is not of the protocol: after so many messages in a row it is cut, and what still comes is not
looked at. By routing id, which no two connections have in common."""

from __future__ import annotations

from collections import OrderedDict

IN_A_ROW = 200
"""Messages that are not of the protocol, without one between them that is, after which a connection is cut."""
KEPT = 4096
"""Connections that are remembered for that."""
FORGOTTEN = 60.0
"""Seconds after which all that a connection sent before it was cut has come."""


class Manners:
    """Costs those who mean well one test, as long as nobody else is there."""

    def __init__(self) -> None:
        self.rude: OrderedDict[bytes, int] = OrderedDict()
        """How many in a row."""
        self.shunned: OrderedDict[bytes, float] = OrderedDict()
        """Until when nothing of theirs is looked at."""

    def offended(self, routing: bytes, now: float) -> bool:
        """One more message that is none. Whether its sender is to be cut: once."""
        count = self.rude.pop(routing, 0) + 1
        if count < IN_A_ROW:
            self.rude[routing] = count
            if len(self.rude) > KEPT:
                self.rude.popitem(last=False)
            return False
        self.shunned[routing] = now + FORGOTTEN
        if len(self.shunned) > KEPT:
            self.shunned.popitem(last=False)
        return True

    def tick(self, now: float) -> None:
        """Forgets who was cut long ago."""
        while self.shunned and next(iter(self.shunned.values())) <= now:
            self.shunned.popitem(last=False)
