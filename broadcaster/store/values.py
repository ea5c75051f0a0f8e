"""What the archive hands out: frozen values, and nothing that is still tied to a file."""

from __future__ import annotations

from dataclasses import dataclass, field

from broadcaster.protocol.ranges import Ranges
from broadcaster.protocol.version import ModelInfo, VersionInfo

CHUNK = 1 << 20
"""Bytes per chunk of a blob: each has its own xxh3-128, checked on every read."""
CHUNK_DIGEST = 16
"""Bytes of one chunk's digest."""

ModelKey = tuple[str, str]
"""(namespace, model_id)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedVersion:
    """A version that is durable: its `info` (archived, with `sha256`), and what is needed to find and to check its blob.

    `upload_id` (16 bytes) makes a retry exactly-once across restarts; `epoch` is the life of the core that committed it;
    `chunk_digests` holds the xxh3-128 of each `chunk_size` bytes, 16 bytes each, one after the other.
    """

    info: VersionInfo
    upload_id: bytes
    epoch: int
    chunk_digests: bytes
    chunk_size: int = CHUNK

    @property
    def sha256(self) -> str:
        """The name of the blob, in lower-case hex."""
        assert self.info.sha256 is not None  # set by everyone who makes one
        return self.info.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedModel:
    """A model that is durable, and the numbers of its archived versions that were deleted."""

    info: ModelInfo
    tombstones: Ranges = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """All that the archive knew when it was opened.

    `tombstones` are the numbers of archived versions that were deleted, for models that have any. `floors` says, for every
    model that ever had a number (deleted ones too), the number that the next one must be above.
    `terms` says which term of a model is held.
    `deleted_uploads` names the versions that came of the newest upload ids whose versions were deleted, `ended` the highest
    number that went with each model that was deleted.
    `lost` are versions of which only a manifest is left that cannot be read: damaged, not unknown.
    `notes` are sentences for the operator's log: what was found damaged and what was done about it.
    """

    epoch: int
    models: list[ModelInfo]
    versions: list[ArchivedVersion]
    floors: dict[ModelKey, int]
    terms: dict[ModelKey, int] = field(default_factory=dict)
    tombstones: dict[ModelKey, Ranges] = field(default_factory=dict)
    deleted_uploads: dict[bytes, tuple[ModelKey, int]] = field(default_factory=dict)
    ended: dict[ModelKey, int] = field(default_factory=dict)
    lost: dict[ModelKey, set[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What the archive holds of one model, and of those of its versions that were asked for; what it has not is missing."""

    model: ModelInfo | None
    versions: dict[int, ArchivedVersion]


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the archive takes writes; if not, `reason` says why in a sentence."""

    writable: bool
    reason: str = ""


def chunk_count(size: int, chunk_size: int = CHUNK) -> int:
    """How many chunks a payload of `size` bytes has; an empty one has none."""
    return -(-size // chunk_size)
