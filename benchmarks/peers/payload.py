"""A peer's payload: random bytes with the round's number at both ends."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.processes import say, told

_STAMP = struct.Struct("<Q")


def made(size: int) -> Any:
    """`size` random bytes, warm and writable."""
    return np.random.default_rng(0).integers(0, 256, size, np.uint8)


def kept(size: int) -> memoryview:
    """A buffer to receive into, written once so that it is warm."""
    return memoryview(np.ones(size, np.uint8)).cast("B")


def stamp(payload: Any, number: int) -> None:
    """Writes the round's number to both ends."""
    view = memoryview(payload).cast("B")
    view[: _STAMP.size] = view[-_STAMP.size :] = _STAMP.pack(number)


def stamped(payload: Any) -> int:
    """The round's number. Raises ValueError when the two ends are of different rounds."""
    view = memoryview(payload).cast("B")
    first, last = (int(_STAMP.unpack_from(view, at)[0]) for at in (0, len(view) - _STAMP.size))
    if first != last:
        raise ValueError(f"torn: {first} at the start, {last} at the end")
    return first


def rounds() -> Iterator[tuple[Any, int]]:
    """What a sender without anybody in between is told: for each number the payload with that number at both ends, to be sent. A
    size makes the next payload, and is answered here."""
    payload = made(0)
    for wish in told():
        if "size" in wish:
            payload = made(wish["size"])
            say(size=len(payload))
        else:
            stamp(payload, wish["number"])
            yield payload, wish["number"]
