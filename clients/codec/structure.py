"""The shape of a tree as JSON, and back: what lies in the metadata of a payload of tensors.

    tensor      "name"                                          numpy scalar   {"scalar": "name"}
    dict        {"dict": [[key, node], ...]}                    list           {"list": [node, ...]}
    NamedTuple  {"namedtuple": [name, [field, ...], [node, ...]]}    tuple     {"tuple": [node, ...]}
    None, bool, int of 64 bits, finite float: as JSON has them; others: {"int": hex}, {"float": bits}, {"complex": [bits, bits]}

Bits are those of the IEEE double, big-endian, in hex: NaN keeps its payload.
"""

from __future__ import annotations

import json
import keyword
import math
import struct
import unicodedata
from collections import namedtuple
from functools import lru_cache
from typing import Any, NoReturn

from broadcaster.protocol.errors import InvalidPayload
from broadcaster.protocol.layout import STRUCTURE
from clients.codec.tree import INT64, MAX_DEPTH, Ref, fields_of

MAX_FIELDS = 1_000
"""Fields of one NamedTuple."""


# --- skeleton to JSON ----------------------------------------------------------------------------------------------


def dumps(skeleton: object) -> str:
    """The JSON of a skeleton, in ASCII. Raises InvalidPayload for a NamedTuple whose names could not be made again."""
    return json.dumps(_encode(skeleton), separators=(",", ":"), allow_nan=False)


def _encode(node: Any) -> Any:
    kind = type(node)
    if kind is Ref:
        return {"scalar": node.name} if node.scalar else node.name
    if kind is dict:
        return {"dict": [(key, _encode(child)) for key, child in node.items()]}
    if kind is list:
        return {"list": [_encode(child) for child in node]}
    if isinstance(node, tuple):
        fields = fields_of(node)
        children = [_encode(child) for child in node]
        if fields is None:
            return {"tuple": children}
        _check_namedtuple(kind.__name__, fields)
        return {"namedtuple": [kind.__name__, fields, children]}
    return _encode_scalar(node)


def _encode_scalar(value: Any) -> Any:
    kind = type(value)
    if kind is int and not -INT64 <= value < INT64:
        return {"int": hex(value)}
    if kind is float and not math.isfinite(value):
        return {"float": _bits(value)}
    if kind is complex:
        return {"complex": [_bits(value.real), _bits(value.imag)]}
    return value


def _bits(value: float) -> str:
    return struct.pack(">d", value).hex()


# --- JSON to skeleton ----------------------------------------------------------------------------------------------


def loads(text: str, names: frozenset[str]) -> Any:
    """The skeleton that `text` describes, which must refer to each of `names` exactly once. Raises InvalidPayload, and nothing
    else.
    """
    try:
        node = json.loads(text, parse_constant=_no_constant)
        reader = _Reader(names)
        skeleton = reader.read(node, 0)
    except InvalidPayload:
        raise
    except (ValueError, struct.error, RecursionError) as error:
        _refuse_structure(f"not JSON: {str(error)[:100]}")
    if len(reader.seen) != len(names):
        _refuse_structure(f"it leaves out the tensor {min(names - reader.seen)[:100]!r}")
    return skeleton


class _Reader:
    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.seen: set[str] = set()

    def read(self, node: Any, depth: int) -> Any:
        if isinstance(node, str):
            return self.ref(node, scalar=False)
        if node is None or isinstance(node, (bool, int, float)):
            return node
        if depth > MAX_DEPTH:
            _refuse_structure(f"deeper than {MAX_DEPTH}")
        match node:
            case {"dict": list(pairs)}:
                return self.read_dict(pairs, depth)
            case {"list": list(nodes)}:
                return [self.read(child, depth + 1) for child in nodes]
            case {"tuple": list(nodes)}:
                return tuple([self.read(child, depth + 1) for child in nodes])
            case {"namedtuple": [str(name), list(fields), list(nodes)]} if len(fields) == len(nodes):
                kind = _namedtuple(name, _check_namedtuple(name, tuple(fields)))
                return tuple.__new__(kind, [self.read(child, depth + 1) for child in nodes])
            case {"scalar": str(name)}:
                return self.ref(name, scalar=True)
            case {"int": str(digits)}:
                return int(digits, 16)
            case {"float": str(bits)}:
                return _from_bits(bits)
            case {"complex": [str(real), str(imaginary)]}:
                return complex(_from_bits(real), _from_bits(imaginary))
        _refuse_structure(f"unknown node {repr(node)[:100]}")

    def ref(self, name: str, *, scalar: bool) -> Ref:
        if name not in self.names:
            _refuse_structure(f"there is no tensor {name[:100]!r}")
        if name in self.seen:
            _refuse_structure(f"it refers to the tensor {name[:100]!r} twice")
        self.seen.add(name)
        return Ref(name, scalar)

    def read_dict(self, pairs: list[Any], depth: int) -> dict[str | int, Any]:
        made: dict[str | int, Any] = {}
        for pair in pairs:
            if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) not in (str, int) or pair[0] in made:
                _refuse_structure(f"not a new key with its node: {repr(pair)[:100]}")
            made[pair[0]] = self.read(pair[1], depth + 1)
        return made


def _check_namedtuple(name: str, fields: tuple[Any, ...]) -> tuple[str, ...]:
    """`fields`, when a NamedTuple can be made of them; the class is made by generated code, so only true identifiers pass."""
    good = len(fields) <= MAX_FIELDS and _is_identifier(name) and len(set(map(str, fields))) == len(fields)
    if not good or not all(_is_identifier(field) and not field.startswith("_") for field in fields):
        _refuse_structure(f"no NamedTuple can have the name {name[:100]!r} and the fields {repr(fields)[:100]}")
    return fields


def _is_identifier(text: Any) -> bool:
    # The compiler folds identifiers by NFKC: two that differ here could be one and the same to it.
    if not isinstance(text, str) or len(text) > 256 or not text.isidentifier() or keyword.iskeyword(text):
        return False
    return text.isascii() or unicodedata.normalize("NFKC", text) == text


@lru_cache(maxsize=256)
def _namedtuple(name: str, fields: tuple[str, ...]) -> type[tuple[Any, ...]]:
    return namedtuple(name, fields)


def _from_bits(bits: str) -> float:
    value: float = struct.unpack(">d", bytes.fromhex(bits))[0]
    return value


def _no_constant(text: str) -> NoReturn:
    _refuse_structure(f"{text} is not JSON")


def _refuse_structure(reason: str) -> NoReturn:
    raise InvalidPayload(where=STRUCTURE, reason=reason)
