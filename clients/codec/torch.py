"""torch tensors and modules, and back."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from broadcaster.protocol.errors import InvalidPayload, InvalidRequest
from broadcaster.protocol.layout import TensorSpec
from clients.codec import numpy
from clients.codec.numpy import stored
from clients.codec.pieces import Bytes
from clients.codec.source import Described
from clients.codec.tree import Path, refuse

_THEIR_NAMES: Final = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
    "I32": "int32", "U32": "uint32", "F32": "float32",
    "C64": "complex64", "F64": "float64", "I64": "int64", "U64": "uint64",
}  # fmt: skip
DTYPES: Final[dict[str, torch.dtype]] = {  # older releases lack some of the 8-bit kinds
    name: getattr(torch, theirs) for name, theirs in _THEIR_NAMES.items() if hasattr(torch, theirs)
}
_SHADOWS: Final = {1: torch.uint8, 2: torch.uint16}  # what numpy holds in place of a dtype that it cannot name
_NAMES: Final = {
    dtype: (name, _SHADOWS[dtype.itemsize] if name == "BF16" or name.startswith("F8") else None) for name, dtype in DTYPES.items()
}
_PLAIN: Final = (torch.Tensor, torch.nn.Parameter)


def describe(path: Path, leaf: Any) -> Described:
    """dtype, shape and data of a tensor, detached: a view for numpy of one in main memory, a writer for any other.

    Raises InvalidPayload for what is not one dense tensor with elements: sparse, quantized, nested, sharded, fake, meta, not
    initialised.
    """
    if type(leaf) not in _PLAIN:
        _check_kind(path, leaf)
    elif not leaf.requires_grad:
        # A tensor in main memory that numpy can name needs no other question: one call instead of eight.
        try:
            return numpy.describe(path, leaf.numpy())
        except (TypeError, RuntimeError):
            pass  # it is not one: what follows finds out what it is
    named = _NAMES.get(leaf.dtype)
    if named is None:
        refuse(path, f"dtype {leaf.dtype} has no safetensors name")
    if leaf.is_nested or leaf.layout is not torch.strided:
        refuse(path, f"a {'nested' if leaf.is_nested else leaf.layout} tensor is not one dense tensor")
    name, shadow = named
    tensor = leaf.detach() if leaf.requires_grad else leaf
    if not leaf.is_cpu or leaf.is_conj() or leaf.is_neg():
        if leaf.device.type == "meta":
            refuse(path, "a tensor on the meta device has no elements")
        return Described(name, tuple(leaf.shape), _Elsewhere(tensor))
    return Described(name, tuple(leaf.shape), (tensor.view(shadow) if shadow else tensor).numpy())


def _check_kind(path: Path, leaf: Any) -> None:
    kind = type(leaf)
    if not isinstance(leaf, torch.Tensor):
        refuse(path, f"a {kind.__name__} is no tensor")
    if is_traceable_wrapper_subclass(leaf) or kind.__module__.startswith("torch._subclasses"):
        refuse(path, f"a {kind.__name__} is not one dense tensor: gather or dequantize it first")
    if torch.nn.parameter.is_lazy(leaf):
        refuse(path, f"a {kind.__name__} has no elements before the module has run once")


class _Elsewhere:
    """A tensor on a device, or one whose elements are not what its memory holds (conjugated, negated)."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.nbytes: int = tensor.nbytes

    def write(self, target: Bytes) -> None:
        # One copy, device to buffer; not non_blocking, so every byte is there when copy_ returns.
        torch.frombuffer(target, dtype=self.tensor.dtype).view(self.tensor.shape).copy_(self.tensor, non_blocking=False)


def unlock(root: Bytes) -> Bytes:
    """The same bytes under a writable flag, keeping `root` alive: torch knows no read-only tensors, and warns of them."""
    return np.asarray(_Unlocked(root))


class _Unlocked:
    def __init__(self, root: Bytes) -> None:
        self.root = root
        self.__array_interface__ = {**root.__array_interface__, "data": (root.ctypes.data, False)}


def view(root: Bytes, spec: TensorSpec) -> torch.Tensor:
    """The tensor inside a payload whose bytes `unlock` gave: no copy, unless it lies misaligned there."""
    dtype = DTYPES.get(spec.dtype)
    if dtype is None:
        raise InvalidPayload(where=f"tensor {spec.name!r}", reason=f"torch {torch.__version__} has no dtype for {spec.dtype}")
    if spec.nbytes == 0:
        return torch.empty(spec.shape, dtype=dtype)
    array = stored(root, spec)
    tensor = torch.from_numpy(array if array.flags.aligned else array.copy())
    return tensor if tensor.dtype is dtype else tensor.view(dtype)


def load(leaf: Any, root: Bytes, spec: TensorSpec) -> Any:
    """Copies the tensor into the tensor `leaf` in place, on its device, without a gradient; returns it. One that is a view of a
    version gets memory of its own first."""
    with torch.no_grad():
        if _is_attached(leaf):
            leaf.data = torch.empty_like(leaf)
        leaf.copy_(view(unlock(root), spec))
    return leaf


def leaves_of(module: torch.nn.Module) -> list[tuple[Path, Any]]:
    """The parameters and persistent buffers themselves, by the names that `state_dict` gives them."""
    state = module.state_dict(keep_vars=True)
    return [((name,), value) for name, value in state.items() if isinstance(value, torch.Tensor)]


# --- modules that are views of a version ---------------------------------------------------------------------------


def check_attachable(module: torch.nn.Module, leaves: list[tuple[Path, Any]]) -> None:
    """Raises InvalidRequest unless all of the module is in evaluation mode, and these leaves of it in main memory."""
    training = [name for name, part in module.named_modules() if part.training]
    if training:
        part = f" ({training[0]} is)" if training[0] else ""
        raise InvalidRequest(field="module", reason=f"it is in training mode{part}: what is attached is read-only; call eval()")
    elsewhere = next(((path, leaf) for path, leaf in leaves if not leaf.is_cpu), None)
    if elsewhere is not None:
        what = f"{elsewhere[0][0]} is on {elsewhere[1].device}"
        raise InvalidRequest(field="module", reason=f"{what}: only main memory can be attached; use load_into")


def attach_leaves(pairs: list[tuple[Any, TensorSpec]], root: Bytes) -> None:
    """Makes each of these parameters and buffers a view of its tensor in the payload `root`."""
    unlocked = unlock(root)
    for leaf, spec in pairs:
        leaf.data = view(unlocked, spec)
        leaf._attached_at = leaf.data_ptr()  # Goes with the parameter; where it is elsewhere later, it was moved.


def _is_attached(leaf: Any) -> bool:
    """Whether the memory of a parameter or buffer is that of a version, which is read-only."""
    at = getattr(leaf, "_attached_at", None)
    return at is not None and bool(leaf.data_ptr() == at)
