"""numpy arrays and scalars as tensors, and back."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from broadcaster.protocol.errors import MissingDependency
from broadcaster.protocol.layout import TensorSpec
from clients.codec.pieces import Bytes
from clients.codec.source import Described
from clients.codec.tree import Path, refuse

Array = npt.NDArray[Any]

STORAGE: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"), "U8": np.dtype("u1"), "I8": np.dtype("i1"),
    "F8_E4M3": np.dtype("u1"), "F8_E5M2": np.dtype("u1"), "F8_E8M0": np.dtype("u1"),
    "F8_E4M3FNUZ": np.dtype("u1"), "F8_E5M2FNUZ": np.dtype("u1"),
    "I16": np.dtype("<i2"), "U16": np.dtype("<u2"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
    "I32": np.dtype("<i4"), "U32": np.dtype("<u4"), "F32": np.dtype("<f4"),
    "C64": np.dtype("<c8"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "U64": np.dtype("<u8"),
}  # fmt: skip
"""How numpy alone holds each safetensors dtype: those that it cannot name, as unsigned integers of the same size."""

_ML_DTYPES: Final = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
_OWN: Final = {
    ordered: name for name, dtype in STORAGE.items() if name not in _ML_DTYPES for ordered in (dtype, dtype.newbyteorder(">"))
}
_NAME_OF_ML = {theirs: name for name, theirs in _ML_DTYPES.items()}


def describe(path: Path, leaf: Any) -> Described:
    """dtype, shape and data of an array or numpy scalar; the data is a view of it in a dtype of `STORAGE`, of either byte order.

    Raises InvalidPayload for what no tensor can hold: objects, strings, times, records, masks, other float sizes.
    """
    if type(leaf) is np.ndarray and (own := _OWN.get(leaf.dtype)) is not None:
        return Described(own, leaf.shape, leaf)
    if not isinstance(leaf, (np.ndarray, np.generic)):
        refuse(path, f"a {type(leaf).__name__} is no tensor")
    if isinstance(leaf, np.ma.MaskedArray):
        refuse(path, "a masked array is no tensor: its mask would be lost")
    array: Array = np.asarray(leaf)
    name = _OWN.get(array.dtype) or _ml_name(array.dtype)
    if name is None:
        refuse(path, f"dtype {array.dtype} has no safetensors name: it must be one of {', '.join(STORAGE)}")
    if name in _ML_DTYPES:
        array = array.view(STORAGE[name])
    return Described(name, array.shape, array)


def _ml_name(dtype: np.dtype[Any]) -> str | None:
    return _NAME_OF_ML.get(dtype.name) if dtype.type.__module__ == "ml_dtypes" else None


def stored(root: Bytes, spec: TensorSpec) -> Array:
    """The tensor inside the payload `root`, as numpy alone can hold it."""
    return root[spec.offset : spec.offset + spec.nbytes].view(STORAGE[spec.dtype]).reshape(spec.shape)


def view(root: Bytes, spec: TensorSpec) -> Array:
    """The tensor inside the payload `root`, in its own dtype. Raises MissingDependency where only ml_dtypes can name that."""
    array = stored(root, spec)
    return array.view(_ml_dtype(spec)) if spec.dtype in _ML_DTYPES else array


def _ml_dtype(spec: TensorSpec) -> np.dtype[Any]:
    try:
        import ml_dtypes  # only those who decode such a tensor pay for the import, or need the library
    except ImportError:
        raise MissingDependency(
            what=f"numpy: tensor {spec.name!r} of dtype {spec.dtype}", library="ml_dtypes", extra="bfloat16"
        ) from None
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[spec.dtype]))
    return dtype


def load(leaf: Any, root: Bytes, spec: TensorSpec) -> Any:
    """Copies the tensor into the array `leaf` in place, and returns it; in place of a numpy scalar, a new one."""
    if isinstance(leaf, np.generic):
        return view(root, spec)[()]
    np.copyto(describe((), leaf).data, stored(root, spec))  # type: ignore[arg-type]
    return leaf
