"""One whole, verified version in this process's memory, never changing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broadcaster.protocol.version import VersionInfo
from clients import codec
from clients.buffers import Bytes, view_of_array

if TYPE_CHECKING:
    import torch


class Snapshot:
    """A version and its payload. Everything it gives is a read-only view of one piece of memory, which stays as it is for as
    long as the snapshot or any view of it lives."""

    __slots__ = ("version", "_root", "_tensors")

    def __init__(self, version: VersionInfo, root: Bytes) -> None:
        self.version = version
        """What is known of the version."""
        self._root = root
        self._tensors: codec.Tensors | None = None

    @property
    def payload(self) -> memoryview:
        """The whole payload, read-only, as bytes."""
        return view_of_array(self._root)

    @property
    def tensors(self) -> codec.Tensors:
        """The tensors by name, as read-only arrays. Raises InvalidPayload when the payload is not of tensors."""
        if self._tensors is None:
            self._tensors = codec.decode(self._root, self.version.content_type)
        return self._tensors

    def tree(self, like: object = None) -> Any:
        """The tree that was published, with read-only arrays; with `like`, in its classes. Raises InvalidPayload where they
        differ."""
        return self.tensors.tree(like)

    def torch(self) -> dict[str, torch.Tensor]:
        """The tensors by name, as torch tensors without a copy: not to be written to."""
        return self.tensors.torch()

    def jax(self, like: object = None) -> Any:
        """The tree that was published, with jax arrays on the default device."""
        return self.tensors.jax(like)

    def load_into(self, target: object, *, strict: bool = True) -> Any:
        """Copies the tensors into a torch module or a tree of arrays, and returns it; a tree with jax arrays comes back as a new
        one.

        Raises InvalidPayload naming what does not fit, before anything is changed; with `strict=False` what only one side has is
        left.
        """
        return codec.load_into(self.tensors, target, strict=strict)

    def attach(self, module: object, *, strict: bool = True) -> None:
        """Makes the parameters and persistent buffers of a torch module in evaluation mode views of this version: nothing is
        copied, and the version's memory lives as long as the module uses it.

        That memory is read-only, which torch does not know: whatever writes to such a parameter in place (an optimizer, `init`,
        `fill_`, a hook) ends the process with SIGSEGV. Evaluation and `state_dict()` only read; so do gradients, but do not train
        an attached module. `load_into(module)`, or moving it (`module.to("cuda")`, `module.double()`), gives it memory of its own
        again.

        Raises InvalidRequest for what is no torch module, is (with any part) in training mode or not in main memory, and
        InvalidPayload naming what does not fit, before anything is changed; with `strict=False` what only one side has is left.
        """
        codec.attach(self.tensors, module, strict=strict)

    def __repr__(self) -> str:
        return f"<Snapshot of {self.version.model_id} {self.version.number}: {self.version.size} bytes>"
