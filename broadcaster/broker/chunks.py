"""Uploads that come in chunks, under credit: what arrives is wanted, put into its place, and answered."""

from __future__ import annotations

from broadcaster.broker.rooms import Caller
from broadcaster.broker.uploads import Stage, Upload, Uploads
from broadcaster.protocol.errors import BroadcasterError
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import EAGER
from broadcaster.stats import Stats

MOMENT = 0.01
"""Seconds that the chunks of a small upload have to arrive before they are asked for."""


class Chunks:
    """The chunks of all uploads."""

    def __init__(self, uploads: Uploads, stats: Stats) -> None:
        self._uploads = uploads
        self._stats = stats
        self._unanswered: list[Upload] = []

    def expect(self, upload: Upload) -> None:
        """Its first chunks may follow its `begin` unasked: `settle` answers it, unless it is done by then."""
        self._unanswered.append(upload)

    def wants(self, header: ChunkHeader, caller: Caller) -> Upload | None:
        """The upload that an arriving chunk belongs to; None when it is not wanted."""
        upload = self._uploads.under_way.get(header.transfer)
        if upload is None or upload.stage is not Stage.RECEIVING:
            self._stats.count("chunks_dropped")
            return None
        upload.caller = caller
        try:
            view = upload.assembler.place(header)
        except BroadcasterError as error:
            self._uploads.fail(upload, error)
            return None
        return None if view is None else upload

    def going_on(self, upload_id: bytes, header: bytes, length: int) -> Upload | None:
        """This upload, if it still is under way and these are the header and the length of the chunk that it needs next."""
        upload = self._uploads.under_way.get(upload_id)
        if upload is None or upload.stage is not Stage.RECEIVING or not upload.assembler.expects(header, length):
            return None
        return upload

    def put_next(self, upload: Upload, data: memoryview, now: float) -> None:
        """The bytes of a chunk with which an upload is `going_on` go to their place."""
        out = upload.assembler.placed_next(data, now)
        if out:
            upload.send(out)

    def put(self, upload: Upload, header: ChunkHeader, data: memoryview, now: float) -> None:
        """The bytes of a chunk that `wants` wanted go to their place."""
        upload.send(upload.assembler.placed(header, now, data))

    def dropped(self, header: ChunkHeader, now: float) -> None:
        """A chunk was not wanted: a hole is answered with a rewind, a repetition not at all."""
        upload = self._uploads.under_way.get(header.transfer)
        if upload is not None and upload.stage is Stage.RECEIVING:
            self._stats.count("chunks_dropped")
            upload.send(upload.assembler.dropped(header, now))

    def settle(self, now: float) -> None:
        """All that came has been looked at: uploads that were begun and are not done yet get their first credit.

        One whose chunks may all come without credit gets a moment: it is answered with `done` alone then.
        """
        waiting: list[Upload] = []
        for upload in self._unanswered:
            if upload.stage is not Stage.RECEIVING or not self._uploads.has(upload):
                continue
            if upload.assembler.assembly.count <= EAGER and now < upload.begun + MOMENT:
                waiting.append(upload)
            else:
                upload.send(upload.assembler.start(now))
        self._unanswered = waiting

    @property
    def deadline(self) -> float | None:
        """When somebody has waited long enough."""
        return self._unanswered[0].begun + MOMENT if self._unanswered else None
