"""What a publisher is about to send: its size is known before a byte moves, and it is copied once, into a buffer of somebody
else's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from broadcaster.protocol.errors import InvalidPayload
from broadcaster.protocol.layout import Layout
from broadcaster.protocol.version import OPAQUE, TENSORS
from clients.codec.numpy import STORAGE, Array
from clients.codec.pieces import PIECE, Bytes, Progress, as_target, copy_array, copy_bytes
from clients.codec.source import Described, Writer, framework, is_plain
from clients.codec.structure import dumps
from clients.codec.tree import SCALARS, Names, Path, Ref, map_leaves, refuse


class Plan(Protocol):
    """A payload that can be copied as often as asked, each time with what its source holds then.

    `content_type` is one of protocol.version's; `size` is in bytes; `metadata` says in words what is inside.
    """

    @property
    def content_type(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def fixed(self) -> memoryview | None:
        """The payload itself, where it lies in memory that nobody can change: it need not be copied to be kept."""

    def copy_into(self, buffer: memoryview, filled: Callable[[int], None]) -> None:
        """Copies the payload into `buffer[0:size]` in ascending order, and calls `filled` with the bytes that are there each
        time another PIECE is there, at last with `size`. Raises InvalidPayload when a file is no longer what it was when
        the plan was made.
        """


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tensors of one dtype that are copied together (at most PIECE bytes), or one larger tensor; `leaves` are their
    places in the order of the tree."""

    start: int
    stop: int
    dtype: np.dtype[Any]
    leaves: tuple[int, ...]


class LayoutCache:
    """Keeps the last layout, so that weights of unchanged names, dtypes, shapes and structure are laid out only once."""

    def __init__(self) -> None:
        self._tensors: list[tuple[str, str, tuple[int, ...]]] = []
        self._structure: str | None = None
        self._known: tuple[Layout, tuple[Segment, ...]] | None = None

    def lay_out(self, tensors: list[tuple[str, str, tuple[int, ...]]], structure: str) -> tuple[Layout, tuple[Segment, ...]]:
        """The layout of `tensors` and the order of copying. Raises InvalidPayload for what the format cannot hold."""
        if self._known is None or structure != self._structure or tensors != self._tensors:
            layout = Layout.of(tensors, structure)
            self._known = layout, _segments(layout, {name: leaf for leaf, (name, _, _) in enumerate(tensors)})
            self._tensors, self._structure = tensors, structure
        return self._known


def _segments(layout: Layout, place: dict[str, int]) -> tuple[Segment, ...]:
    found: list[Segment] = []
    for spec in layout.specs:
        if spec.nbytes == 0:
            continue
        dtype, stop, leaves = STORAGE[spec.dtype], spec.offset + spec.nbytes, (place[spec.name],)
        last = found[-1] if found else None
        if last is not None and last.dtype == dtype and stop - last.start <= PIECE:
            found[-1] = Segment(last.start, stop, dtype, last.leaves + leaves)
        else:
            found.append(Segment(spec.offset, stop, dtype, leaves))
    return tuple(found)


class TensorPlan:
    """A tree of tensors. Besides the buffer, copying takes at most PIECE bytes, and one tensor of main memory where jax has it
    elsewhere.
    """

    content_type: Final = TENSORS
    fixed: Final = None

    def __init__(self, layout: Layout, segments: tuple[Segment, ...], data: list[Array | Writer]) -> None:
        self.layout = layout
        self.size = layout.size
        self.metadata: Mapping[str, str] = {"tensors": str(len(data))}
        self._segments = segments
        self._data = data
        self._all_plain = all(map(is_plain, data))

    def copy_into(self, buffer: memoryview, filled: Callable[[int], None]) -> None:
        target = as_target(buffer, self.size)
        progress = Progress(filled)
        header = np.frombuffer(self.layout.header, np.uint8)
        copy_bytes(target[: len(header)], header, progress)
        for segment in self._segments:
            self._copy(segment, target[segment.start : segment.stop], progress)
        progress.finish()

    def _copy(self, segment: Segment, room: Bytes, progress: Progress) -> None:
        data: list[Any] = [self._data[leaf] for leaf in segment.leaves]
        if not self._all_plain and not all(map(is_plain, data)):
            _copy_one_by_one(data, segment.dtype, room, progress)
        elif len(room) > PIECE:
            copy_array(room, data[0], segment.dtype, progress)
        else:
            # One call for many small tensors; it also turns strides and byte order, through a temporary of at most PIECE.
            np.concatenate([array.reshape(-1) for array in data], out=room.view(segment.dtype))
            progress.add(len(room))


def _copy_one_by_one(data: list[Any], dtype: np.dtype[Any], room: Bytes, progress: Progress) -> None:
    at = 0
    for source in data:
        if is_plain(source):
            copy_array(room[at : at + source.nbytes], source, dtype, progress)
            at += source.nbytes
        else:
            count = source.nbytes
            source.write(room[at : at + count])
            progress.add(count)
            at += count


def plan_tensors(weights: object, cache: LayoutCache) -> TensorPlan:
    """The plan for a tree of tensors. Raises InvalidPayload naming the path of what cannot be sent."""
    names, tensors, data = Names(), [], []

    def describe(path: Path, leaf: Any) -> Any:
        kind = type(leaf)
        if kind in SCALARS:
            return leaf
        known = describers.get(kind) or describers.setdefault(kind, _describer(path, kind))
        dtype, shape, source = known(path, leaf)
        name = names.name(path)
        tensors.append((name, dtype, shape))
        data.append(source)
        return Ref(name, isinstance(leaf, np.generic))

    describers: dict[type, Callable[[Path, Any], Described]] = {}
    skeleton = map_leaves(weights, describe)
    layout, segments = cache.lay_out(tensors, dumps(skeleton))
    return TensorPlan(layout, segments, data)


def _describer(path: Path, kind: type) -> Callable[[Path, Any], Described]:
    file = framework(kind)
    if file is None:
        refuse(path, f"a {kind.__module__}.{kind.__qualname__} is no tensor: numpy, torch and jax arrays and Python numbers are")
    describer: Callable[[Path, Any], Described] = file.describe
    return describer


class BytesPlan:
    """Bytes that nobody looks into."""

    content_type: Final = OPAQUE

    def __init__(self, payload: memoryview) -> None:
        if not payload.c_contiguous:
            raise InvalidPayload(where="payload", reason="a memoryview with strides is not bytes in a row")
        self.size = payload.nbytes
        self.metadata: Mapping[str, str] = {}
        self.fixed = None if type(payload.obj) is not bytes else payload.cast("B") if self.size else memoryview(b"")
        self._payload = payload

    def copy_into(self, buffer: memoryview, filled: Callable[[int], None]) -> None:
        target = as_target(buffer, self.size)
        progress = Progress(filled)
        if self.size:
            copy_bytes(target, np.frombuffer(self._payload, np.uint8), progress)
        progress.finish()
