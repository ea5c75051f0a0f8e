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
    if all(device.platform == "cpu" for device in leaf.devices()):
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
    """The tensor inside the payload `root` as an array on the default device: no copy where jax needs none.

    Raises InvalidPayload where jax would silently make it smaller (64 bits while jax_enable_x64 is off).
    """
    return _checked(jnp.asarray(numpy.view(root, spec)), spec)


def load(leaf: Any, root: Bytes, spec: TensorSpec) -> Any:
    """A new array with the tensor's elements, placed as `leaf` is; it shares no memory with `root`."""
    made = jax.device_put(numpy.view(root, spec), leaf.sharding, may_alias=False)
    return _checked(made, spec)


def _checked(made: jax.Array, spec: TensorSpec) -> jax.Array:
    if made.nbytes != spec.nbytes:
        raise InvalidPayload(
            where=f"tensor {spec.name!r}",
            reason=f"jax would make {made.dtype} of {spec.dtype}: turn jax_enable_x64 on, or use tree()",
        )
    return made
