"""What the frameworks' files tell of a tensor, and how the right file is found without importing a framework."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from clients.codec.pieces import Bytes


class Writer(Protocol):
    """A tensor that numpy cannot view, for instance one on a device. `nbytes` is what `write` writes."""

    nbytes: int

    def write(self, target: Bytes) -> None:
        """Fills `target`, which has the tensor's size, with its elements in C order, little-endian; done when it returns."""


class Described(NamedTuple):
    """One tensor: its safetensors dtype, its shape, and where its elements come from."""

    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[Any] | Writer


def framework(kind: type) -> ModuleType | None:
    """The file that knows leaves of type `kind`, or None. A framework is imported only when one of its objects is at hand."""
    for base in kind.__mro__:
        match base.__module__.partition(".")[0]:
            case "numpy":
                from clients.codec import numpy

                return numpy
            case "torch":
                from clients.codec import torch

                return torch
            case "jax" | "jaxlib":
                from clients.codec import jax

                return jax
    return None


def is_plain(data: object) -> bool:
    """Whether the elements are numpy's to copy."""
    return type(data) is np.ndarray
