"""Weights to payloads and back: trees of numpy, torch and jax arrays, bytes, files and directories.

Each framework is imported only in the file named after it, and only when one of its objects is at hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from broadcaster.protocol.errors import InvalidPayload
from broadcaster.protocol.version import TENSORS
from clients.codec.load import attach, load_into
from clients.codec.pack import plan_path
from clients.codec.pieces import PIECE
from clients.codec.plan import BytesPlan, LayoutCache, Plan, plan_tensors
from clients.codec.tensors import Tensors

__all__ = ["PIECE", "LayoutCache", "Plan", "Tensors", "attach", "decode", "load_into", "plan"]


def plan(weights: object, cache: LayoutCache | None = None) -> Plan:
    """How `weights` become a payload: bytes as they are, a Path's file as it is, its directory packed, anything else as a tree of
    tensors.

    Nothing is copied yet. `cache`, kept from call to call, spares laying out the same tensors again. Raises InvalidPayload naming
    the path of what cannot be sent.
    """
    if isinstance(weights, (bytes, bytearray, memoryview)):
        return BytesPlan(memoryview(weights))
    if isinstance(weights, Path):
        return plan_path(weights)
    return plan_tensors(weights, LayoutCache() if cache is None else cache)


def decode(root: npt.NDArray[np.uint8], content_type: str) -> Tensors:
    """The tensors in the payload `root`, one dimension of bytes, which lives as long as any view of it.

    Raises InvalidPayload when the payload is not of tensors, or damaged.
    """
    if content_type != TENSORS:
        raise InvalidPayload(where="payload", reason=f"its content type is {content_type}: only {TENSORS} holds tensors")
    return Tensors(root)
