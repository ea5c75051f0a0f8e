"""The parts of the front that answer calls."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from broadcaster.cogment.hashes import Hashes
from broadcaster.cogment.limits import DOWNLOADS, UPLOADS
from broadcaster.cogment.link import Link
from broadcaster.cogment.pacing import Pacing
from broadcaster.cogment.places import Places
from broadcaster.cogment.schema import Message, Schema
from broadcaster.protocol.version import ModelInfo, VersionInfo


@dataclass(slots=True)
class House:
    """Everything that answers calls. `threads` are for what would hold the event loop up: hashing, mapping memory."""

    link: Link
    schema: Schema
    places: Places
    hashes: Hashes
    threads: ThreadPoolExecutor
    chunk_size: int
    version: str
    uploads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(UPLOADS))
    downloads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(DOWNLOADS))
    pacing: Pacing = field(default_factory=Pacing)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def model(self, info: ModelInfo) -> Message:
        return self.schema["ModelInfo"](model_id=info.model_id, user_data=info.user_data)

    def described(self, info: VersionInfo, sha256: str) -> Message:
        """What is told of a version; `sha256` in base64, empty where it is not known."""
        return self.schema["ModelVersionInfo"](
            model_id=info.model_id,
            version_number=info.number,
            creation_timestamp=info.creation_timestamp,
            archived=info.archived,
            data_hash=sha256,
            data_size=info.size,
            user_data=info.user_data,
        )

    def made(self, name: str, /, **fields: object) -> Message:
        """A message of this name."""
        return self.schema[name](**fields)
