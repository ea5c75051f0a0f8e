"""What is known of a version and of a model: frozen values that travel on the wire and reach the user as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broadcaster.protocol.errors import Fact

TENSORS = "application/vnd.safetensors"
"""Content type of a payload of tensors: a safetensors file, byte for byte."""
OPAQUE = "application/octet-stream"
"""Content type of bytes that nobody looks into."""
DIRECTORY = "application/x-tar"
"""Content type of a packed directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionInfo:
    """One immutable payload of a model, and what was said of it when it was published.

    `number` starts at 1 and only grows; `creation_timestamp` is in nanoseconds since 1970; `size` is in bytes; `digest` is the
    xxh3-128 of the payload and `sha256` its SHA-256, both in lower-case hex (`sha256` is None until it is known: it
    is for archived versions). `pinned`: nothing deletes it unless it is forced.
    """

    namespace: str
    model_id: str
    number: int
    size: int
    digest: str
    creation_timestamp: int
    archived: bool = False
    sha256: str | None = None
    content_type: str = OPAQUE
    user_data: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A named line of versions. `newest` is the number of the newest version that can be fetched, or None; `retention` says which
    archived versions are kept ({}: all)."""

    namespace: str
    model_id: str
    user_data: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, int] = field(default_factory=dict)
    newest: int | None = None
    versions: int = 0
    creation_timestamp: int = 0
    description: str = ""
    retention: Mapping[str, Fact] = field(default_factory=dict)
