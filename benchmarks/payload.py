"""What is published: weights that carry the number of their round, and small policies that carry the time they were made."""

from __future__ import annotations

import struct

import numpy as np

from clients import codec

MIB = 1 << 20
_LENGTH, _FLOAT = struct.Struct("<Q"), struct.Struct("<f")
"""What a safetensors file begins with, and an element."""
TENSORS = 4
LAST = 1 << 23
"""The number of the last round of a stream: exact as a float32, and higher than any other."""

_POLICY = struct.Struct("<QQQ?")


def weights(size: int) -> dict[str, np.ndarray]:
    """Float32 arrays, random: a payload of exactly `size` bytes with the header that names them. Their memory is warm."""
    made = np.random.default_rng(0)
    tree = {f"layer{index}": made.random(size // 4 // TENSORS, np.float32) for index in range(TENSORS)}
    header = codec.plan(tree).size - size
    tree["layer0"] = tree["layer0"][: -(header // 4) or None].copy()
    assert codec.plan(tree).size == size, "the header has the same length for nearly the same shapes"
    return tree


def stamp(tree: dict[str, np.ndarray], number: int) -> None:
    """Writes the round's number to both ends."""
    tree["layer0"][0] = tree[f"layer{TENSORS - 1}"][-1] = number


def stamped(tree: dict[str, np.ndarray]) -> int:
    """The round's number. Raises ValueError when the two ends are of different rounds."""
    first, last = float(tree["layer0"][0]), float(tree[f"layer{TENSORS - 1}"][-1])
    if first != last:
        raise ValueError(f"torn: {first} at the start, {last} at the end")
    return int(first)


def stamped_ends(payload: memoryview) -> int:
    """As `stamped`, looking at nothing but the two ends, as every peer's reader does: arrays are not made, which would take the
    processor from the readers that are still to come."""
    header = _LENGTH.unpack_from(payload)[0]
    first, last = (_FLOAT.unpack_from(payload, at)[0] for at in (_LENGTH.size + header, len(payload) - _FLOAT.size))
    if first != last:
        raise ValueError(f"torn: {first} at the start, {last} at the end")
    return int(first)


def policy(size: int, learner: int, count: int, at: int, *, last: bool) -> bytes:
    """`size` bytes that say who made them, their count, when (monotonic nanoseconds), and whether they are the last."""
    return _POLICY.pack(learner, count, at, last).ljust(size, b"\x5a")


def policy_facts(payload: memoryview) -> tuple[int, int, int, bool]:
    """Learner, count, time, last: what `policy` was given."""
    learner, count, at, last = _POLICY.unpack_from(payload)
    return int(learner), int(count), int(at), bool(last)


def size_name(size: int) -> str:
    """`64 MiB`, `4 KiB`."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"
