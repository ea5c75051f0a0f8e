"""Loading the tensors of a payload into what the user already has: by copying them, or by making it views of them."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from broadcaster.protocol.errors import InvalidPayload, InvalidRequest
from clients.codec.source import framework
from clients.codec.tensors import Tensors
from clients.codec.tree import SCALARS, Path, Ref, leaves, map_leaves, plain_name, refuse

TWO_THREADS = 32 << 20
"""Bytes of numpy arrays from which on two threads copy. (torch has its own threads, and the user's word on how many.)"""


def load_into(tensors: Tensors, target: object, *, strict: bool = True) -> Any:
    """Copies each tensor once into the leaf of the same path or name in `target`, and returns the loaded target.

    A torch module gets its parameters and persistent buffers set, on their devices; one that was attached gets memory of its own
    again. In a tree, numpy arrays and torch tensors are
    written in place. Leaves that cannot be written to (jax arrays, numpy scalars, Python numbers) are replaced: where there are
    new ones, what comes back is a new tree like `target`.

    Raises InvalidPayload naming every name that only one side has, or every tensor of another dtype or shape; nothing is changed
    then. With `strict=False` what only one side has is left alone.
    """
    module = _module_leaves(target)
    if module is not None:
        _load(tensors, module, strict=strict)
        return target
    wanted = leaves(target)
    loaded = _load(tensors, wanted, strict=strict)
    if all(loaded[path] is leaf for path, leaf in wanted):
        return target
    return map_leaves(target, lambda path, _: loaded[path], keep=True)


def attach(tensors: Tensors, module: object, *, strict: bool = True) -> None:
    """Makes the parameters and persistent buffers of a torch module views of the payload, which lives as long as they use it.

    Raises InvalidRequest for what is no torch module in evaluation mode in main memory, and InvalidPayload as `load_into` does;
    nothing is changed then.
    """
    wanted = _module_leaves(module)
    if wanted is None:
        raise InvalidRequest(field="module", reason=f"a {type(module).__name__} is no torch module: only those can be attached")
    from clients.codec.torch import attach_leaves, check_attachable

    check_attachable(module, wanted)
    found = _match(tensors, wanted, strict=strict)
    attach_leaves([(pair.leaf, tensors.spec(pair.given)) for pair in found if pair.file is not None], tensors.root)


def _module_leaves(target: object) -> list[tuple[Path, Any]] | None:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(target, torch.nn.Module):
        return None
    from clients.codec.torch import leaves_of

    return leaves_of(target)


class _Pair(NamedTuple):
    """A leaf of the target and what the payload has for it; `file` is the framework's that copies it, None for no tensor."""

    path: Path
    leaf: Any
    given: Any
    file: ModuleType | None


def _match(tensors: Tensors, wanted: list[tuple[Path, Any]], *, strict: bool) -> list[_Pair]:
    """What goes where, once everything has been checked: nothing has been touched when this raises."""
    files = {path: _file(path, leaf) for path, leaf in wanted if type(leaf) not in SCALARS}
    found = tensors.match(wanted, strict=strict)
    pairs = [_Pair(path, leaf, found[path], files.get(path)) for path, leaf in wanted if path in found]
    wrong = [told for pair in pairs if (told := _difference(tensors, pair))]
    if wrong:
        raise InvalidPayload(where="weights", reason="; ".join(wrong))
    return pairs


def _load(tensors: Tensors, wanted: list[tuple[Path, Any]], *, strict: bool) -> dict[Path, Any]:
    """What is at each path of the target afterwards."""
    pairs = _match(tensors, wanted, strict=strict)
    loaded = dict(wanted)
    arrays = [pair for pair in pairs if isinstance(pair.leaf, np.ndarray)]
    if sum(pair.leaf.nbytes for pair in arrays) >= TWO_THREADS:
        _copy_by_two(tensors, arrays)
    else:
        _copy(tensors, arrays)
    for path, leaf, given, file in pairs:
        if file is not None and not isinstance(leaf, np.ndarray):
            loaded[path] = file.load(leaf, tensors.root, tensors.spec(given))
        elif file is None and repr(leaf) != repr(given):  # not ==, to which NaN is another and True is 1
            loaded[path] = given
    return loaded


def _copy(tensors: Tensors, arrays: list[_Pair]) -> None:
    """Copies into numpy arrays, which stay what they are."""
    for _, leaf, given, file in arrays:
        assert file is not None, "an array is a tensor"
        file.load(leaf, tensors.root, tensors.spec(given))


def _copy_by_two(tensors: Tensors, arrays: list[_Pair]) -> None:
    """The same, about half of the bytes by another thread: numpy lets both run. No tensor is divided."""
    so_far = list(accumulate(pair.leaf.nbytes for pair in arrays))
    split = next(count for count, done in enumerate(so_far, 1) if 2 * done >= so_far[-1])
    with ThreadPoolExecutor(1) as helper:
        other = helper.submit(_copy, tensors, arrays[split:])
        _copy(tensors, arrays[:split])
        other.result()


def _file(path: Path, leaf: object) -> ModuleType:
    file = framework(type(leaf))
    if file is None:
        refuse(path, f"nothing can be loaded into a {type(leaf).__module__}.{type(leaf).__qualname__}")
    return file


def _difference(tensors: Tensors, pair: _Pair) -> str | None:
    """Why what is given cannot go where the leaf is, if so."""
    path, leaf, given, file = pair
    name = plain_name(path)
    if not isinstance(given, Ref) or file is None:
        same = not isinstance(given, Ref) and file is None and (given is None) is (leaf is None)
        return None if same else f"{name} is {_kind(given)}, the target has {_kind(leaf)}"
    if isinstance(leaf, np.ndarray) and not leaf.flags.writeable:
        return f"{name}: the target is read-only"
    spec, there = tensors.spec(given), file.describe(path, leaf)
    if (spec.dtype, spec.shape) != (there.dtype, tuple(there.shape)):
        return f"{name} is {spec.dtype} {list(spec.shape)}, the target has {there.dtype} {list(there.shape)}"
    return None


def _kind(leaf: object) -> str:
    if leaf is None:
        return "None"
    return "a number" if type(leaf) in SCALARS else "a tensor"
