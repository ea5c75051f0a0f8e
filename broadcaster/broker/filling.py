"""Uploads whose client writes into the slot itself: it says how far it is, and is hashed behind, piece by piece."""

from __future__ import annotations

from broadcaster.broker.memory import where
from broadcaster.broker.rooms import Front
from broadcaster.broker.uploads import Stage, Upload, Uploads
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import CHUNK
from broadcaster.protocol.messages import Commit, Filled, Grant
from broadcaster.stats import Stats


class Filling:
    """All granted slots that are being filled."""

    def __init__(self, uploads: Uploads, front: Front, stats: Stats) -> None:
        self._uploads = uploads
        self._front = front
        self._stats = stats
        self.behind: dict[bytes, Upload] = {}
        """Uploads that are not hashed as far as they are filled, in turn."""

    def grant(self, upload: Upload) -> None:
        """The client gets the slot."""
        upload.stage = Stage.FILLING
        self._stats.count("grants")
        upload.caller.reply(_grant(upload, upload.begin.request_id))

    def grant_again(self, upload: Upload, request_id: bytes, now: float) -> None:
        """The client asked again: it is told of the same slot."""
        upload.assembler.filled(0, now)
        upload.caller.reply(_grant(upload, request_id))

    def filled(self, filled: Filled, now: float) -> None:
        """A writer says how far it is. Not answered; what fits no grant is dropped."""
        upload = self._uploads.under_way.get(filled.upload_id)
        if upload is None or upload.stage is not Stage.FILLING or filled.size > upload.begin.size:
            self._stats.count("fills_dropped")
            return
        self._begins(upload, now)
        upload.assembler.filled(filled.size, now)
        if upload.assembler.behind:
            self.behind[filled.upload_id] = upload

    def filled_to_the_end(self, upload: Upload, commit: Commit, now: float) -> None:
        """The writer is done: `follow` returns it once all of it is hashed."""
        self._begins(upload, now)
        upload.stage, upload.granted, upload.declared = Stage.VERIFYING, False, commit.digest
        upload.assembler.filled(upload.begin.size, now)
        self.behind[commit.upload_id] = upload

    @staticmethod
    def _begins(upload: Upload, now: float) -> None:
        """A slot that was granted ahead waited for its payload: that is not the time that a publication takes."""
        if upload.assembler.is_idle(now):
            upload.begun = now

    def follow(self) -> Upload | None:
        """Hashes one piece behind one writer, and forwards its chunks. Returns the upload that is hashed to its end by that."""
        while self.behind:
            upload_id, upload = next(iter(self.behind.items()))
            del self.behind[upload_id]
            if not self._uploads.has(upload) or upload.stage not in (Stage.FILLING, Stage.VERIFYING):
                continue
            for index in upload.assembler.follow():
                self._forward(upload, index)
            if upload.assembler.behind:
                self.behind[upload_id] = upload  # behind the others
            elif upload.stage is Stage.VERIFYING:
                return upload
            return None
        return None

    def _forward(self, upload: Upload, index: int) -> None:
        """Cut-through: a chunk goes from the slot to who wants it, while the rest is still written."""
        assembly = upload.assembler.assembly
        data = assembly.view(index)
        header = ChunkHeader(upload.transfer, assembly.size, index * CHUNK, len(data), upload.attempt)
        frame = self._front.push_chunk(upload.key, header, data)
        if frame is not None:
            upload.place.lend(frame)


def _grant(upload: Upload, request_id: bytes) -> Grant:
    return Grant(request_id=request_id, upload_id=upload.begin.upload_id, **where(upload.place))
