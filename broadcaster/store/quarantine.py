"""What was found damaged: never served, moved aside, told once, and healed when the same payload is kept again.

Whatever finds damage, a read, the scrub or a start, brings it here. Nothing is copied into the quarantine, only moved: it holds
at most what the archive held.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from broadcaster.protocol.errors import BroadcasterError, Closed, NoSpace, StoreCorrupt, StoreUnavailable, UnknownVersion
from broadcaster.store.blobs import Blobs
from broadcaster.store.gate import Gate
from broadcaster.store.manifests import Manifests, key_of, read_version
from broadcaster.store.metadata import Metadata
from broadcaster.store.reading import OpenBlob, Reader
from broadcaster.store.values import ArchivedVersion

Identity = tuple[int, int]
"""(device, inode): which file it was that somebody read."""


@dataclass(frozen=True, slots=True)
class Damage:
    """`what` was found, in a sentence. `sha256` names the payload that is not served any more; None when nothing was lost."""

    what: str
    sha256: str | None = None


class Quarantine:
    """Safe from several threads; what it moves, it moves under the lock of all writes.

    `on_damage` is called once for each thing found, on whichever thread found it. `writing` is the archive's way to write.
    """

    def __init__(
        self,
        gate: Gate,
        index: Metadata,
        manifests: Manifests,
        blobs: Blobs,
        writing: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self.on_damage: Callable[[Damage], None] = lambda damage: None
        self.reader = Reader(blobs, self._read_wrong)
        self._gate = gate
        self._index = index
        self._manifests = manifests
        self._blobs = blobs
        self._writing = writing

    def load(self) -> list[str]:
        """What lies in quarantine is not served, unless it was healed since; returns a sentence for each payload that is not."""
        notes = []
        for sha256 in list(self._blobs.quarantined()):
            if self._blobs.size(sha256) is not None:
                self._blobs.quarantine.discard(sha256)  # Whoever healed it was stopped before this.
            else:
                self.reader.condemn(sha256)
                notes.append(f"payload {sha256} is damaged and in quarantine: its versions are not served")
        return notes

    def missing(self, version: ArchivedVersion) -> BroadcasterError:
        """The blob of `version` is not there: what to answer, as the version is gone, or as the blob should be there."""
        info = version.info
        with self._gate.lock:
            if not self._index.versions(key_of(info.namespace, info.model_id), info.number):
                return UnknownVersion(model_id=info.model_id, number=info.number)
            if self._blobs.size(version.sha256) is None:
                self._condemn(version.sha256, f"payload {version.sha256} is missing")
        return StoreCorrupt(
            operation=f"reading {info.model_id} version {info.number}",
            where=self._blobs.folder.where,
            reason=f"the blob {version.sha256} is missing",
            hint="Restore it from a backup, or publish the same payload again.",
            model_id=info.model_id,
            number=info.number,
        )

    def wrong(self, sha256: str, found: Identity) -> None:
        """The file `found` does not hash to the name that it had. If it still has it, it is set aside."""
        with self._gate.lock:
            if self._identity(sha256) == found:
                self._set_aside(sha256)

    def right(self, sha256: str, found: Identity) -> None:
        """The file `found` is whole and has its name: it is served again if it was not."""
        with self._gate.lock:
            if self.reader.is_bad(sha256) and self._identity(sha256) == found:
                self.reader.heal(sha256)

    def acquit(self, sha256: str) -> None:
        """What lies in quarantine under this name was read again, and is right: it goes back, and is served."""
        with self._gate.lock, self._writing("restoring"):
            if self._blobs.size(sha256) is None:
                self._blobs.restore(sha256)
            self.reader.heal(sha256)

    def manifest_wrong(self, key: str, number: int) -> None:
        """A version's manifest cannot be read: it is written anew from the index, which holds the same."""
        with self._gate.lock, self._writing("writing a manifest anew"):
            rows = self._index.versions(key, number)
            if not rows:
                return  # It was deleted meanwhile.
            try:
                with self._manifests.folder.folder(key, create=False) as model:
                    read_version(model, number)
            except FileNotFoundError:
                pass
            except StoreCorrupt as error:
                if error.facts.get("newer"):
                    raise
            else:
                return  # It was written since.
            self._index.put_version(rows[0], self._manifests.put_version(rows[0]))
            name = f"{rows[0].info.namespace}/{rows[0].info.model_id} version {number}"
        self.on_damage(Damage(f"{name}: its manifest was lost or damaged, and is written anew from the index"))

    def _read_wrong(self, sha256: str, blob: OpenBlob) -> bool:
        """A reader found `blob` wrong. Whether that is still what the name means: it may have been healed meanwhile."""
        with self._gate.lock:
            if blob.dropped:
                return False
            self._set_aside(sha256)
            return True

    def _set_aside(self, sha256: str) -> None:
        self._condemn(sha256, f"payload {sha256} is damaged")
        try:
            with self._writing("quarantining"):
                self._blobs.set_aside(sha256)
        except (StoreUnavailable, NoSpace, Closed):
            pass  # It is served no more, and that is the promise; the move lets the next life know it without a read.

    def _condemn(self, sha256: str, what: str) -> None:
        known = self.reader.is_bad(sha256)
        self.reader.condemn(sha256)
        if not known:
            self.on_damage(Damage(what, sha256))

    def _identity(self, sha256: str) -> Identity | None:
        try:
            fd = self._blobs.open(sha256)
        except (FileNotFoundError, StoreCorrupt):
            return None
        try:
            return identity_of(fd)
        finally:
            os.close(fd)


def identity_of(fd: int) -> Identity:
    """Which file it is."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
