"""The tensors of a payload, as views of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from broadcaster.protocol.errors import InvalidPayload
from broadcaster.protocol.layout import Layout, TensorSpec, read_header
from clients.codec.numpy import Array, view
from clients.codec.pieces import Bytes
from clients.codec.structure import loads
from clients.codec.tree import Path, Ref, leaves, map_leaves, plain_name

if TYPE_CHECKING:
    import jax
    import torch

_KEPT_HEADER = 1 << 20  # bytes; larger headers are decoded each time rather than kept


class Tensors(Mapping[str, Array]):
    """The tensors of a payload by name, in the order of the tree they came from: read-only arrays that are views of the payload.

    A view is made when it is first asked for, and every view, of whatever framework, keeps the payload alive.
    """

    def __init__(self, root: Bytes) -> None:
        # numpy shortens chains of views: were `root` a slice, ours would keep what it is a slice of, not it. A memoryview between
        # them ends the chain.
        self.root: Bytes = np.frombuffer(root.data.toreadonly(), np.uint8) if root.size else root
        self._known = _known_layout(self.root.data)
        self._views: dict[str, Array] = {}

    @property
    def layout(self) -> Layout:
        """Names, dtypes, shapes and places of the tensors, and the metadata of the file."""
        return self._known.layout

    def __getitem__(self, name: str) -> Array:
        """The tensor `name`. Raises KeyError, and MissingDependency for bf16 and fp8 without ml_dtypes."""
        found = self._views.get(name)
        if found is None:
            found = self._views[name] = view(self.root, self._known.specs[name])
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._known.names)

    def __len__(self) -> int:
        return len(self._known.specs)

    def __contains__(self, name: object) -> bool:
        return name in self._known.specs

    def __repr__(self) -> str:
        return f"<{len(self)} tensors in {self.root.nbytes} bytes>"

    def tree(self, like: object = None) -> Any:
        """The tree that was published: arrays are read-only views, scalars Python's and numpy's own, NamedTuples equal ones.

        With `like`, a tree with the same leaves, the containers are of its classes. Raises InvalidPayload naming the leaves that
        only one of the two has.
        """
        return self._fill(lambda ref: self[ref.name][()] if ref.scalar else self[ref.name], like)

    def torch(self) -> dict[str, torch.Tensor]:
        """The tensors by name, in main memory, without a copy. For reading only, which torch cannot enforce: writing to one kills
        the process where the payload is mapped read-only.
        """
        from clients.codec.torch import unlock, view

        root = unlock(self.root)
        return {name: view(root, self._known.specs[name]) for name in self}

    def jax(self, like: object = None) -> Any:
        """The tree that was published, as `tree` gives it, with jax arrays on the default device.

        Raises InvalidPayload for a 64-bit tensor while jax_enable_x64 is off.
        """
        from clients.codec.jax import view

        def make(ref: Ref) -> jax.Array:
            return view(self.root, self._known.specs[ref.name])

        return self._fill(make, like)

    def _fill(self, make: Any, like: object) -> Any:
        def fill(leaf: Any) -> Any:
            return make(leaf) if isinstance(leaf, Ref) else leaf

        if like is None:
            return map_leaves(self._known.skeleton, lambda _, leaf: fill(leaf))
        found = self.match(leaves(like))
        return map_leaves(like, lambda path, _: fill(found[path]), keep=True)

    def spec(self, ref: Ref) -> TensorSpec:
        """Where the tensor that `ref` stands for lies."""
        return self._known.specs[ref.name]

    def match(self, wanted: Iterable[tuple[Path, Any]], *, strict: bool = True) -> dict[Path, Any]:
        """For each wanted path what the payload has there: a Ref, a Python scalar or None. A path is found as it is, or else by
        its name, so that {"fc1": {"weight": ...}} and {"fc1.weight": ...} meet. A None on one side needs nothing on the other.

        Raises InvalidPayload naming what only one side has; without `strict`, leaves it out.
        """
        known = self._known
        wanted = list(wanted)
        found = {path: path for path, _ in wanted if path in known.leaves}
        free = set(known.leaves) - set(found)
        for path, _ in wanted:
            by_name = known.by_name.get(plain_name(path))
            if path not in found and by_name in free:
                free.discard(by_name)
                found[path] = by_name
        missing = [plain_name(path) for path, leaf in wanted if path not in found and leaf is not None]
        unexpected = [plain_name(path) for path, leaf in known.leaves.items() if path in free and leaf is not None]
        if strict and (missing or unexpected):
            told = [f"{what}: {', '.join(names)}" for what, names in (("missing", missing), ("unexpected", unexpected)) if names]
            raise InvalidPayload(where="weights", reason="; ".join(told))
        return {
            path: known.leaves[found[path]] if path in found else None for path, leaf in wanted if path in found or leaf is None
        }


class _Known:
    """What one header says; shared by all payloads that start with it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.specs: dict[str, TensorSpec] = {spec.name: spec for spec in layout.specs}

    @cached_property
    def skeleton(self) -> Any:
        if self.layout.structure is None:
            return {name: Ref(name) for name in self.specs}
        return loads(self.layout.structure, frozenset(self.specs))

    @cached_property
    def leaves(self) -> dict[Path, Any]:
        return dict(leaves(self.skeleton))

    @cached_property
    def names(self) -> list[str]:
        return [leaf.name for leaf in self.leaves.values() if isinstance(leaf, Ref)]

    @cached_property
    def by_name(self) -> dict[str, Path]:
        return {leaf.name if isinstance(leaf, Ref) else plain_name(path): path for path, leaf in self.leaves.items()}


def _known_layout(payload: memoryview) -> _Known:
    header = read_header(payload)
    return (_kept if len(header) <= _KEPT_HEADER else _decoded)(header, payload.nbytes)


def _decoded(header: bytes, size: int) -> _Known:
    return _Known(Layout.from_header(header, size))


# A model's versions share their header: an actor decodes it once.
_kept = lru_cache(maxsize=8)(_decoded)
