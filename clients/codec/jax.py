"""jax arrays, and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from broadcaster.protocol.errors import InvalidPayload
from broadcaster.protocol.layout import TensorSpec
from clients.codec import numpy
from clients.codec.pieces import Bytes
from clients.codec.source import Described
from clients.codec.tree import Path, refuse

_ALIGNMENT = 64  # bytes; where jax takes host memory without a copy


def describe(path: Path, leaf: Any) -> Described:
    """dtype, shape and data of an array, once it is computed: a view for numpy of one in main memory, a writer for any other.

    Raises InvalidPayload for a tracer, a random key, a deleted array, and one that lies partly in other processes.
    """
    if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, jax.Array):
        refuse(path, f"a {type(leaf).__name__} is no array with elements")
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        refuse(path, f"dtype {leaf.dtype} is no number: pass jax.random.key_data(key)")
    if leaf.is_deleted():
        refuse(path, "the array was deleted, or donated to a computation")
    if not leaf.is_fully_addressable:
        refuse(path, "the array lies partly in other processes: gather it first")
    if _in_main_memory(leaf):
        return numpy.describe(path, np.asarray(leaf))
    name, shape, _ = numpy.describe(path, np.empty((), leaf.dtype))
    return Described(name, leaf.shape, _Elsewhere(leaf))


class _Elsewhere:
    """An array on a device. jax copies it into an array of its own first, so a write takes one tensor of main memory."""

    def __init__(self, array: jax.Array) -> None:
        self.array = array
        self.nbytes: int = array.nbytes

    def write(self, target: Bytes) -> None:
        data = numpy.describe((), np.asarray(self.array)).data
        assert isinstance(data, np.ndarray)
        np.copyto(target.view(data.dtype).reshape(data.shape), data)


def view(root: Bytes, spec: TensorSpec) -> jax.Array:
    """The tensor inside the payload `root` as an array on the default device. In main memory it is a view that keeps `root`
    alive, or a copy where the tensor lies on no 64-byte boundary: then jax makes one.

    Raises InvalidPayload where jax would silently make it smaller (64 bits while jax_enable_x64 is off).
    """
    return _checked(jax.device_put(numpy.view(root, spec)), spec)


def load(leaf: Any, root: Bytes, spec: TensorSpec) -> Any:
    """A new array with the tensor's elements, placed as `leaf` is; it shares no memory with `root`."""
    array = numpy.view(root, spec)
    return _checked(jax.device_put(_own(array) if _in_main_memory(leaf) else array, leaf.sharding), spec)


def _in_main_memory(array: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in array.devices())


def _own(array: numpy.Array) -> numpy.Array:
    """A copy that jax takes as it is. Left to itself it would alias the payload, with or without `may_alias`, or copy twice."""
    room = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    np.copyto(copy, array)
    return copy


def _checked(made: jax.Array, spec: TensorSpec) -> jax.Array:
    if made.nbytes != spec.nbytes:
        raise InvalidPayload(
            where=f"tensor {spec.name!r}",
            reason=f"jax would make {made.dtype} of {spec.dtype}: turn jax_enable_x64 on, or use tree()",
        )
    return made
