"""What the codec's tests share: the frameworks, arrays of every kind, and a publication that checks the copying contract."""

from __future__ import annotations

import gc
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from broadcaster.protocol.layout import DTYPES
from broadcaster.protocol.version import TENSORS
from clients.codec import PIECE, LayoutCache, Plan, Tensors, decode, plan
from clients.codec.numpy import STORAGE

SHAPES: list[tuple[int, ...]] = [(), (0,), (0, 3), (1,), (7,), (2, 3, 4), (5, 1, 3)]


def copied(made: Plan, *, ahead: int = PIECE) -> np.ndarray:
    """The payload of a plan in a fresh read-only array, after checking that it was filled in order and in pieces.

    `ahead` is how many bytes more than it has reported a copy may have written.
    """
    buffer = np.full(made.size + 64, 0xA5, np.uint8)
    before = 0
    seen: list[int] = []

    def filled(total: int) -> None:
        nonlocal before
        assert before < total <= before + PIECE or total == made.size
        assert total - before <= PIECE
        assert (buffer[total + ahead : total + ahead + 512] == 0xA5).all()
        before = total
        seen.append(total)

    made.copy_into(buffer.data, filled)
    assert seen[-1] == made.size
    assert (buffer[made.size :] == 0xA5).all()
    root = buffer[: made.size].copy()
    root.flags.writeable = False
    return root


def payload(weights: object, cache: LayoutCache | None = None, *, ahead: int = PIECE) -> np.ndarray:
    """The bytes that a publication of `weights` would send."""
    return copied(plan(weights, cache), ahead=ahead)


def sent(weights: object, *, ahead: int = PIECE) -> Tensors:
    """`weights` on the other side."""
    return decode(payload(weights, ahead=ahead), TENSORS)


def random_array(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random bits as `dtype`: every NaN, infinity and denormal may be among them. Bools are 0 or 1."""
    rng = np.random.default_rng(seed)
    if dtype == "BOOL":
        return rng.integers(0, 2, shape).astype(bool)
    count = DTYPES[dtype] * int(np.prod(shape, dtype=int))
    raw = np.frombuffer(rng.bytes(count), np.uint8) if count else np.empty(0, np.uint8)
    return raw.view(STORAGE[dtype]).reshape(shape)


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two arrays have equal dtype, shape and bits; NaN is told from NaN by its bits."""
    left, right = np.asarray(left), np.asarray(right)
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@dataclass(frozen=True)
class Framework:
    """A framework by what the suite needs of it. Arrays go in and out in their storage dtype (see `STORAGE`)."""

    name: str
    make: Callable[[np.ndarray, str], Any]
    bits: Callable[[Any], np.ndarray]
    received: Callable[[Tensors], dict[str, Any]]


def _torch() -> Framework:
    import torch

    from clients.codec.torch import DTYPES as kinds

    def make(array: np.ndarray, dtype: str) -> Any:
        return torch.from_numpy(array.copy()).view(kinds[dtype])

    def bits(tensor: Any) -> np.ndarray:
        shadow = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize]
        return tensor.detach().contiguous().view(shadow).numpy()

    return Framework("torch", make, bits, Tensors.torch)


def _jax() -> Framework:
    import jax
    import jax.numpy as jnp

    from clients.codec.numpy import _ml_dtype

    def make(array: np.ndarray, dtype: str) -> Any:
        from broadcaster.protocol.layout import TensorSpec
        from clients.codec.numpy import _ML_DTYPES

        kind = _ml_dtype(TensorSpec("x", dtype, (), 0, 0)) if dtype in _ML_DTYPES else array.dtype
        with jax.enable_x64(True):
            return jnp.array(array.view(kind))

    def received(tensors: Tensors) -> dict[str, Any]:
        with jax.enable_x64(True):
            return tensors.jax()

    return Framework("jax", make, np.asarray, received)


def until(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether `condition` became true in time; collects garbage meanwhile. jax lets go of memory from a thread of its own."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        gc.collect()
        time.sleep(0.001)
    return True


def aligned(array: np.ndarray) -> np.ndarray:
    """The bytes of `array` from a 64-byte boundary on, where jax takes memory as it is, under an array of their own."""
    room = np.zeros(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + array.nbytes] = array
    return np.frombuffer(room.data[start : start + array.nbytes], np.uint8)


def _numpy() -> Framework:
    return Framework("numpy", lambda array, dtype: array, np.asarray, dict)


_MAKERS = {"numpy": _numpy, "torch": _torch, "jax": _jax}


def framework(name: str) -> Framework:
    """The framework `name`; skips the test where it is not installed."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return _MAKERS[name]()
