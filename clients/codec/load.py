"""Loading the tensors of a payload into what the user already has."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

from broadcaster.protocol.errors import InvalidPayload
from clients.codec.source import framework
from clients.codec.tensors import Tensors
from clients.codec.tree import SCALARS, Path, Ref, leaves, map_leaves, plain_name, refuse


def load_into(tensors: Tensors, target: object, *, strict: bool = True) -> Any:
    """Copies each tensor once into the leaf of the same path or name in `target`, and returns the loaded target.

    A torch module gets its parameters and persistent buffers set, on their devices. In a tree, numpy arrays and torch tensors are
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


def _module_leaves(target: object) -> list[tuple[Path, Any]] | None:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(target, torch.nn.Module):
        return None
    from clients.codec.torch import leaves_of

    return leaves_of(target)


def _load(tensors: Tensors, wanted: list[tuple[Path, Any]], *, strict: bool) -> dict[Path, Any]:
    """What is at each path of the target afterwards. Everything is checked before the first byte is copied."""
    files = {path: _file(path, leaf) for path, leaf in wanted if type(leaf) not in SCALARS}
    found = tensors.match(wanted, strict=strict)
    pairs = [(path, leaf, found[path]) for path, leaf in wanted if path in found]
    wrong = [told for path, leaf, given in pairs if (told := _difference(tensors, path, leaf, given, files.get(path)))]
    if wrong:
        raise InvalidPayload(where="weights", reason="; ".join(wrong))
    loaded = dict(wanted)
    for path, leaf, given in pairs:
        if path in files:
            loaded[path] = files[path].load(leaf, tensors.root, tensors.spec(given))
        elif repr(leaf) != repr(given):  # not ==, to which NaN is another and True is 1
            loaded[path] = given
    return loaded


def _file(path: Path, leaf: object) -> ModuleType:
    file = framework(type(leaf))
    if file is None:
        refuse(path, f"nothing can be loaded into a {type(leaf).__module__}.{type(leaf).__qualname__}")
    return file


def _difference(tensors: Tensors, path: Path, leaf: Any, given: Any, file: ModuleType | None) -> str | None:
    """Why `given` cannot go where `leaf` is, if so."""
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
