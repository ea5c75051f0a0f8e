"""The tensor layout: where each tensor lies in a payload that is a safetensors file, byte for byte.

    | header length 8, LE | JSON header, spaces up to a 64-byte boundary | tensor | tensor | ... |

The header maps each tensor's name to its dtype, shape and `data_offsets` (begin and end, counted from the end of the header), and
`__metadata__` to strings. Tensors lie without holes. We write them by item size (descending), then name, so that each is
naturally aligned; we read what any safetensors writer made. The shape of the tree that the tensors came from is one of the
metadata strings; what it says is the codec's business.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from broadcaster.protocol.errors import InvalidPayload

DTYPES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "C64": 8, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
"""Bytes per element by safetensors name. The format's sub-byte kinds (F4, F6_*) are refused: no array library can view them."""

MAX_HEADER = 100_000_000
"""Bytes of JSON header, as in the reference implementation; checked before anything is decoded."""
MAX_RANK = 32
"""Dimensions of a tensor: what every supported numpy can hold."""
MAX_BYTES = (1 << 63) - 1
"""Bytes of a tensor, with zero dimensions counted as one: what an array library can index."""
ALIGNMENT = 64
"""The data section of a payload that we write starts at a multiple of this."""
METADATA = "__metadata__"
"""The one header key that is no tensor's name."""
STRUCTURE = "broadcaster.structure"
"""The metadata key under which the shape of the tree lies, as JSON."""

_PREFIX = 8  # bytes of the little-endian header length


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its safetensors dtype, its shape, and its `nbytes` bytes at `offset` from the start of the payload."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies in one payload of `size` bytes, of which `header` (length prefix and padding included) is the start.

    `specs` are in the order of the header, which for what we wrote is the order of the data.
    """

    specs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]
    header: bytes
    size: int

    @property
    def structure(self) -> str | None:
        """The JSON that describes the tree, or None in a file from another writer: then the tree is a flat dict."""
        return self.metadata.get(STRUCTURE)

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, str, tuple[int, ...]]], structure: str | None = None) -> Layout:
        """The layout of tensors given as (name, dtype, shape). Raises InvalidPayload for what the format cannot hold."""
        if structure is not None and not _is_unicode(structure):
            _refuse(STRUCTURE, "not valid Unicode")
        metadata = {} if structure is None else {STRUCTURE: structure}
        sized = [(name, dtype, shape, _nbytes(name, dtype, shape)) for name, dtype, shape in tensors]
        sized.sort(key=lambda tensor: (-DTYPES[tensor[1]], tensor[0]))
        header = _write_header(sized, metadata)
        specs, offset = [], len(header)
        for name, dtype, shape, nbytes in sized:
            specs.append(TensorSpec(name, dtype, shape, offset, nbytes))
            offset += nbytes
        return cls(tuple(specs), metadata, header, offset)

    @classmethod
    def parse(cls, view: memoryview) -> Layout:
        """The layout of a whole payload. Raises InvalidPayload, and nothing else, whatever the bytes are."""
        return cls.from_header(read_header(view), view.nbytes)

    @classmethod
    def from_header(cls, header: bytes, size: int) -> Layout:
        """The layout of a payload of `size` bytes that starts with `header`, as `read_header` gave it. Raises InvalidPayload."""
        entries = _decode(header[_PREFIX:])
        metadata = _metadata(entries.pop(METADATA, None))
        specs = tuple(_spec(name, entry, len(header)) for name, entry in entries.items())
        _check_cover(specs, len(header), size)
        return cls(specs, metadata, header, size)


def read_header(view: memoryview) -> bytes:
    """The header of a payload with its length prefix, not yet decoded. Raises InvalidPayload if it cannot be whole."""
    flat = view.cast("B")
    if len(flat) < _PREFIX:
        _refuse("payload", f"{len(flat)} bytes are too few for a safetensors file: its header length alone takes {_PREFIX}")
    length = int.from_bytes(flat[:_PREFIX], "little")
    if length > MAX_HEADER:
        _refuse("header", f"{length} bytes are over the limit of {MAX_HEADER}")
    if length > len(flat) - _PREFIX:
        _refuse("header", f"it claims {length} bytes, but only {len(flat) - _PREFIX} follow")
    return bytes(flat[: _PREFIX + length])


# --- writing -------------------------------------------------------------------------------------------------------


def _write_header(sized: list[tuple[str, str, tuple[int, ...], int]], metadata: dict[str, str]) -> bytes:
    entries: dict[str, object] = {METADATA: metadata} if metadata else {}
    reserved = len(entries)
    end = 0
    for name, dtype, shape, nbytes in sized:
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": (end, end + nbytes)}
        end += nbytes
    if len(entries) != reserved + len(sized):
        _refuse("tensors", "two have the same name")
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-(_PREFIX + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        _refuse("header", f"{len(text)} bytes are over the limit of {MAX_HEADER}")
    return len(text).to_bytes(_PREFIX, "little") + text


# --- reading -------------------------------------------------------------------------------------------------------


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except InvalidPayload:
        raise
    except (ValueError, RecursionError) as error:
        _refuse("header", f"not JSON in UTF-8: {_short(error)}")
    if not isinstance(entries, dict):
        _refuse("header", "not a JSON object")
    return entries


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        _refuse("header", f"the key {_short(repr(twice))} is there twice")
    return found


def _no_constant(text: str) -> NoReturn:
    _refuse("header", f"{text} is not JSON")


def _metadata(found: Any) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        _refuse(METADATA, "it must map strings to strings")
    return found


def _spec(name: str, entry: Any, header: int) -> TensorSpec:
    where = f"tensor {_short(repr(name))}"
    if not isinstance(entry, dict):
        _refuse(where, "not a JSON object")
    dtype: Any = entry.get("dtype")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list):
        _refuse(where, f"shape {_short(repr(shape))} is not a list")
    nbytes = _nbytes(name, dtype, tuple(shape))
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(end) is int for end in offsets):
        _refuse(where, f"data_offsets {_short(repr(offsets))} are not two integers")
    begin, end = offsets
    if not 0 <= begin <= end <= MAX_BYTES:
        _refuse(where, f"data_offsets {_short(repr(offsets))} are out of bounds")
    if end - begin != nbytes:
        _refuse(where, f"data_offsets span {end - begin} bytes, but its dtype and shape take {nbytes}")
    return TensorSpec(name, dtype, tuple(shape), header + begin, nbytes)


def _check_cover(specs: tuple[TensorSpec, ...], header: int, size: int) -> None:
    """Every byte of the data section belongs to exactly one tensor."""
    covered = header
    for spec in sorted(specs, key=lambda spec: (spec.offset, spec.nbytes)):
        where = f"tensor {_short(repr(spec.name))}"
        if spec.offset < covered:
            _refuse(where, f"it overlaps the one before it by {covered - spec.offset} bytes")
        if spec.offset > covered:
            _refuse(where, f"there is a hole of {spec.offset - covered} bytes before it")
        covered += spec.nbytes
        if covered > size:
            _refuse(where, f"it ends {covered - size} bytes after the payload of {size} bytes")
    if covered != size:
        _refuse("payload", f"{size - covered} bytes at the end belong to no tensor")


# --- both ----------------------------------------------------------------------------------------------------------


def _nbytes(name: str, dtype: Any, shape: tuple[Any, ...]) -> int:
    """Bytes that a tensor takes, after checking that its name, dtype and shape are ones that the format can hold."""
    if not _is_unicode(name):
        _refuse(f"tensor {_short(repr(name))}", "the name is not valid Unicode")
    if name == METADATA:
        _refuse("tensors", f"the name {METADATA} is reserved")
    itemsize = DTYPES.get(dtype) if isinstance(dtype, str) else None
    if itemsize is None:
        _refuse(
            f"tensor {_short(repr(name))}", f"dtype {_short(repr(dtype))} is not supported: it must be one of {', '.join(DTYPES)}"
        )
    if len(shape) > MAX_RANK:
        _refuse(f"tensor {_short(repr(name))}", f"{len(shape)} dimensions are over the limit of {MAX_RANK}")
    span = itemsize
    for dimension in shape:
        if type(dimension) is not int or dimension < 0:
            _refuse(f"tensor {_short(repr(name))}", f"dimension {_short(repr(dimension))} is not a natural number")
        span *= dimension or 1
        if span > MAX_BYTES:
            _refuse(f"tensor {_short(repr(name))}", f"it would take more than {MAX_BYTES} bytes")
    return 0 if 0 in shape else span


def _is_unicode(text: str) -> bool:
    """False where a lone surrogate (JSON can spell one, UTF-8 cannot) would make a name that no other reader accepts."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _short(text: object) -> str:
    said = str(text)
    return said if len(said) <= 100 else said[:97] + "..."


def _refuse(where: str, reason: str) -> NoReturn:
    raise InvalidPayload(where=where, reason=reason)
