"""Asking whether a broadcaster is there, and how long the way is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from broadcaster.protocol.messages.rules import Reply, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping(Request):
    """Answered by the thread that serves, at once: nothing is looked up."""

    KIND: ClassVar[bytes] = b"ping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong(Reply):
    """It is there."""

    KIND: ClassVar[bytes] = b"pong"
