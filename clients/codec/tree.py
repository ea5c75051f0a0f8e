"""Trees of tensors: walking them and naming their leaves.

A tree is a dict (any Mapping, keys str or int), list, tuple, NamedTuple, or a leaf. The skeleton of a tree is the same tree with
a `Ref` in place of each tensor; Python scalars and None stay in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from broadcaster.protocol.errors import InvalidPayload
from broadcaster.protocol.layout import METADATA

Path = tuple[str | int, ...]
"""How a leaf is reached: dict keys, indices of lists and tuples, and field names of NamedTuples."""

MAX_DEPTH = 100
MAX_NODES = 1_000_000
"""Limits on a tree: containers inside each other; leaves and containers in all."""

SCALARS = frozenset({bool, int, float, complex, type(None)})
"""The exact types that travel in the structure instead of as a tensor."""

INT64 = 1 << 63
"""Integers from -INT64 to INT64 - 1 are what every JSON reader can hold."""


@dataclass(slots=True)  # not frozen: there is one for each tensor of each publication, and freezing doubles its cost
class Ref:
    """The place of a tensor in a skeleton; `scalar` says that a numpy scalar was there, not an array of no dimensions."""

    name: str
    scalar: bool = False


def map_leaves(tree: object, leaf: Callable[[Path, Any], Any], *, keep: bool = False) -> Any:
    """`tree` with `leaf(path, value)` in place of each leaf. Dicts come out as dict, in their order, unless `keep` asks for the
    classes of `tree` (OrderedDict and other Mappings made from a dict).

    Raises InvalidPayload naming the path: a key that is neither str nor int, a container inside itself, too deep, too many nodes.
    """
    return _Walk(leaf, keep).visit(tree, ())


class _Walk:
    def __init__(self, leaf: Callable[[Path, Any], Any], keep: bool) -> None:
        self.leaf = leaf
        self.keep = keep
        self.open: set[int] = set()
        self.kinds: set[type] = set()  # of leaves met so far: asking whether a class is a Mapping is the slow part of a visit
        self.nodes = 0

    def visit(self, node: Any, path: Path) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            refuse(path, f"the tree has more than {MAX_NODES} nodes")
        kind = type(node)
        if kind in self.kinds:
            return self.leaf(path, node)
        if not isinstance(node, (dict, list, tuple, Mapping)):
            self.kinds.add(kind)
            return self.leaf(path, node)
        if id(node) in self.open:
            refuse(path, "a container holds itself")
        if len(path) >= MAX_DEPTH:
            refuse(path, f"the tree is deeper than {MAX_DEPTH}")
        self.open.add(id(node))
        try:
            return self.enter(node, path)
        finally:
            self.open.discard(id(node))

    def enter(self, node: Any, path: Path) -> Any:
        visit = self.visit
        if isinstance(node, list):
            return [visit(child, (*path, index)) for index, child in enumerate(node)]
        if isinstance(node, tuple):
            fields = fields_of(node)
            if fields is None:
                return tuple([visit(child, (*path, index)) for index, child in enumerate(node)])
            children = [visit(child, (*path, field)) for field, child in zip(fields, node, strict=True)]
            return tuple.__new__(type(node), children)
        for key in node:
            if type(key) is not str and (type(key) is not int or not -INT64 <= key < INT64):
                refuse(path, f"the key {repr(key)[:100]} of type {type(key).__name__} is neither a str nor an int of 64 bits")
        made = {key: visit(child, (*path, key)) for key, child in node.items()}
        return _as_kind(node, made) if self.keep else made


def _as_kind(node: object, made: dict[str | int, Any]) -> Any:
    # A defaultdict cannot be made from a dict alone, and its default is no part of the weights.
    if isinstance(node, dict):
        return OrderedDict(made) if isinstance(node, OrderedDict) else made
    return type(node)(made)  # type: ignore[call-arg]


def fields_of(node: tuple[Any, ...]) -> tuple[str, ...] | None:
    """The field names of a NamedTuple, or None for any other tuple."""
    fields = getattr(type(node), "_fields", None)
    if isinstance(fields, tuple) and len(fields) == len(node) and all(type(field) is str for field in fields):
        return fields
    return None


def leaves(tree: object) -> list[tuple[Path, Any]]:
    """Every leaf of `tree` with its path, in order. Raises InvalidPayload as `map_leaves` does."""
    found: list[tuple[Path, Any]] = []
    map_leaves(tree, lambda path, leaf: found.append((path, leaf)))
    return found


class Names:
    """Gives each path a name of its own: its parts joined by '.', with '#2', '#3', ... where that is taken."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {METADATA: 1}

    def name(self, path: Path) -> str:
        """The name for `path`; asked in the same order, the same names come out."""
        wanted = name = plain_name(path)
        while name in self._times:
            self._times[wanted] += 1
            name = f"{wanted}#{self._times[wanted]}"
        self._times[name] = 1
        return name


def plain_name(path: Path) -> str:
    """The parts of `path` joined by '.'; a bare array, which has no path, is called 'tensor'."""
    if len(path) == 1 and type(path[0]) is str:
        return path[0]
    return ".".join(map(str, path)) if path else "tensor"


def refuse(path: Path, reason: str) -> NoReturn:
    """Raises InvalidPayload for the node at `path`."""
    raise InvalidPayload(where=f"weights at {plain_name(path)[:200]!r}" if path else "weights", reason=reason)
