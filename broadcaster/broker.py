"""The life of a version: begun, received, committed, announced, archived, read, evicted.

Effects happen in one visible order, here and nowhere else. The broker runs on the loop's thread; what may wait for a disk is
a job for a worker, and its end comes back through `front.post`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Protocol

from broadcaster.beacons import Beacons
from broadcaster.catalog import Catalog, Kept
from broadcaster.eventlog import EventLog
from broadcaster.numbers import Numbers
from broadcaster.protocol.errors import (
    Aborted,
    AlreadyExists,
    BroadcasterError,
    BudgetExceeded,
    DigestMismatch,
    InvalidRequest,
    PayloadTooLarge,
    RequestTimeout,
    SizeMismatch,
    StoreUnavailable,
    UnknownVersion,
)
from broadcaster.protocol.frames import Chunk, ChunkHeader, encoded_size
from broadcaster.protocol.limits import ANNOTATIONS, CHUNK, EAGER, IDLE_UPLOAD, INLINE, MAX_PAYLOAD, PAGE
from broadcaster.protocol.machines.upload import Assembler
from broadcaster.protocol.messages import (
    DIGEST_KINDS,
    Abandon,
    Abort,
    Begin,
    Commit,
    Done,
    Event,
    Filled,
    Grant,
    Message,
    Publish,
    Read,
)
from broadcaster.protocol.names import check_name
from broadcaster.protocol.slot import SlotHeader
from broadcaster.protocol.version import ModelInfo, VersionInfo
from broadcaster.slots import Inline, Slot, SlotPool, Tracker
from broadcaster.stats import Stats
from broadcaster.store.archive import Archive
from broadcaster.store.blobs import Staged
from broadcaster.store.values import ArchivedVersion
from broadcaster.store.worker import Worker

Key = tuple[str, str]
Place = Slot | Inline

MOMENT = 0.01
"""Seconds that the chunks of a small upload have to arrive before they are asked for."""
QUIET = 0.05
"""Seconds after a version within which the next one may begin: later, there is time to make a slot for it ahead."""
RIDING = 1000
"""Numbers of evicted versions in one event, which has to fit a control map."""
FINISHED = 4096
"""Finished uploads whose id is remembered, so that a retry gets the version that came of it."""


class Caller(Protocol):
    """Whoever waits for an answer: a peer on a channel, and the request that it made."""

    @property
    def expires(self) -> float:
        """When its time is over: work that has not begun by then is not begun."""
        ...

    def reply(self, message: Message, payload: memoryview | None = None) -> None: ...
    def chunk(self, header: ChunkHeader, data: memoryview, *, track: bool) -> Tracker | None: ...
    def refuse(self, error: BroadcasterError) -> None: ...


class Front(Protocol):
    """What the broker needs of the sockets and the loop."""

    def push_event(self, event: Event, payload: memoryview | None) -> None: ...
    def push_chunk(self, key: Key, header: ChunkHeader, data: memoryview) -> Tracker | None:
        """From where the bytes are, to who wants chunks; None when nobody does."""
        ...

    def push_abandon(self, key: Key, abandon: Abandon) -> None: ...
    def post(self, done: Callable[[], None]) -> None: ...


class Stage(Enum):
    """Where an upload is."""

    RESERVING = "reserving"
    RECEIVING = "receiving"
    FILLING = "filling"
    """Its writer has the slot."""
    VERIFYING = "verifying"
    """Its writer is done with the slot; not all of it is hashed."""
    NUMBERING = "numbering"
    ARCHIVING = "archiving"


@dataclass(slots=True, eq=False)
class Upload:
    """One payload on its way to becoming a version."""

    begin: Begin
    caller: Caller
    place: Place
    transfer: bytes
    attempt: int
    stage: Stage
    assembler: Assembler
    begun: float
    granted: bool = False
    """Whether the client is to write into the slot itself."""
    staged: Staged | None = None
    declared: str = ""
    """The digest, from the commit of a granted upload on."""

    @property
    def key(self) -> Key:
        return self.begin.namespace, self.begin.model_id

    def pushed(self, header: ChunkHeader) -> ChunkHeader:
        """The header under which subscribers get an uploaded chunk: upload ids are their owner's secret."""
        return ChunkHeader(self.transfer, header.size, header.offset, header.length, self.attempt)


Forward = Callable[[Upload, ChunkHeader], None]


@dataclass(slots=True)
class Rooms:
    """Everything that the broker works with."""

    catalog: Catalog
    numbers: Numbers
    log: EventLog
    beacons: Beacons
    slots: SlotPool
    archive: Archive
    writer: Worker
    """One thread: blobs, manifests, rows, in order."""
    reserver: Worker
    """One thread: numbers and disk space, which must not wait behind a large blob."""
    readers: Worker
    stats: Stats


class Broker:
    """All uploads and all payloads of one broadcaster. `make_id` makes 16 random bytes, `wall` tells ns since 1970.

    Who shows `host_token` is on this host, and is granted slots. Uploads without progress for `idle` seconds are given up.
    """

    def __init__(
        self,
        rooms: Rooms,
        front: Front,
        *,
        max_payload: int,
        host_token: str,
        make_id: Callable[[], bytes],
        clock: Callable[[], float],
        wall: Callable[[], int],
        idle: float = IDLE_UPLOAD,
    ) -> None:
        self.rooms = rooms
        self._front = front
        self._host_token = host_token
        self._idle = idle
        self._max_payload = min(max_payload, MAX_PAYLOAD)
        self._make_id = make_id
        self._clock = clock
        self._wall = wall
        self._quiet: float | None = None
        """When to look whether a slot is missing."""
        self._on_disk: set[Key] = set()
        """Models that the archive knows."""
        self._uploads: dict[bytes, Upload] = {}
        self._unanswered: list[Upload] = []
        self._behind: dict[bytes, Upload] = {}
        """Granted uploads that are not hashed as far as they are filled, in turn."""
        self._parked: dict[Key, list[Upload]] = {}
        self._attempts: OrderedDict[bytes, int] = OrderedDict()
        self._finished: OrderedDict[bytes, tuple[Key, VersionInfo]] = OrderedDict()
        self._archived_uploads: dict[bytes, tuple[Key, int]] = {}
        self._places: dict[tuple[Key, int], Place] = {}
        self.archived: dict[tuple[Key, int], ArchivedVersion] = {}
        self.in_flight = 0
        """Bytes of memory that uploads hold."""

    def load(self, models: list[ModelInfo], versions: Iterable[ArchivedVersion]) -> None:
        """What the archive knew at the start."""
        for model in models:
            key = (model.namespace, model.model_id)
            self.rooms.catalog.create(key, model.creation_timestamp, user_data=model.user_data, tags=model.tags)
            self._on_disk.add(key)
        for version in sorted(versions, key=lambda one: one.info.number):
            key = (version.info.namespace, version.info.model_id)
            self.rooms.catalog.load(version.info, version.upload_id)
            self.archived[key, version.info.number] = version
            self._archived_uploads[version.upload_id] = key, version.info.number
        for model in models:
            self.rooms.catalog.load_aliases((model.namespace, model.model_id), model.aliases)

    # --- upload ----------------------------------------------------------------------------------------------------

    def begin(self, begin: Begin, caller: Caller, now: float) -> None:
        """A new upload is reserved; one that is known goes on, or is answered with the version that came of it."""
        if self._again(begin, caller, now):
            return
        upload = self._reserve(begin, caller, now)
        upload.granted = self._is_here(begin) and isinstance(upload.place, Slot) and upload.place.reachable
        if begin.archived:
            self._stage(upload, now)
        elif begin.host_token is None:
            self._unanswered.append(upload)
        else:  # Nothing follows such a `begin`: there is nothing to wait for.
            self._welcome(upload, now)

    def settle(self, now: float) -> None:
        """All that came has been looked at: uploads that were begun and are not done yet get their first credit, and one piece of
        what a client wrote into its slot is hashed.

        One whose chunks may all come without credit gets a moment: it is answered with `done` alone then.
        """
        self._follow(now)
        if self._quiet is not None and now >= self._quiet:
            self._prepare()
        waiting: list[Upload] = []
        for upload in self._unanswered:
            if upload.stage is not Stage.RECEIVING or self._uploads.get(upload.begin.upload_id) is not upload:
                continue
            if upload.assembler.assembly.count <= EAGER and now < upload.begun + MOMENT:
                waiting.append(upload)
            else:
                self._send(upload, upload.assembler.start(now))
        self._unanswered = waiting

    @property
    def deadline(self) -> float | None:
        """When `settle` has something to do, whatever comes."""
        if self._behind:
            return 0.0
        moment = self._unanswered[0].begun + MOMENT if self._unanswered else None
        return min((when for when in (moment, self._quiet) if when is not None), default=None)

    def publish(self, message: Publish, payload: memoryview, caller: Caller, now: float, forward: Forward) -> None:
        """A payload of at most one chunk, begun and committed in one message. `forward` pushes it to who wants chunks."""
        if self._again(message, caller, now):
            return
        if len(payload) != message.size or message.size > CHUNK:
            raise SizeMismatch(model_id=message.model_id, size=message.size, found=f"a frame of {len(payload)} bytes came")
        upload = self._reserve(message, caller, now)
        header = ChunkHeader(upload.transfer, message.size, 0, message.size)
        if message.size:
            upload.assembler.placed(header, now, payload)
        try:
            upload.assembler.verify(message.digest)
        except DigestMismatch as error:
            self._fail(upload, error)
            return
        if message.size > INLINE:
            forward(upload, upload.pushed(header))  # Just before its event: subscribers are woken once.
        self._commit(upload, now)

    def wants(self, header: ChunkHeader, caller: Caller) -> Upload | None:
        """The upload that an arriving chunk belongs to; None when it is not wanted."""
        upload = self._uploads.get(header.transfer)
        if upload is None or upload.stage is not Stage.RECEIVING:
            self.rooms.stats.count("chunks_dropped")
            return None
        upload.caller = caller
        try:
            view = upload.assembler.place(header)
        except BroadcasterError as error:
            self._fail(upload, error)
            return None
        return None if view is None else upload

    def put(self, upload: Upload, header: ChunkHeader, data: memoryview, now: float) -> None:
        """The bytes of a chunk that `wants` wanted go to their place."""
        self._send(upload, upload.assembler.placed(header, now, data))

    def dropped(self, header: ChunkHeader, now: float) -> None:
        """A chunk was not wanted: a hole is answered with a rewind, a repetition not at all."""
        upload = self._uploads.get(header.transfer)
        if upload is not None and upload.stage is Stage.RECEIVING:
            self.rooms.stats.count("chunks_dropped")
            self._send(upload, upload.assembler.dropped(header, now))

    def commit(self, commit: Commit, caller: Caller, now: float) -> None:
        upload = self._uploads.get(commit.upload_id)
        if upload is None:
            raise InvalidRequest(field="upload_id", reason="there is no such upload: begin it again")
        upload.caller = caller
        if upload.stage not in (Stage.RECEIVING, Stage.FILLING):
            return  # The commit was sent again; its answer is on the way.
        try:
            upload.begin = _with_last_words(upload.begin, commit)
            if upload.stage is Stage.FILLING:
                self._filled_to_the_end(upload, commit, now)
                return
            missing = upload.assembler.commit(commit, now)
        except BroadcasterError as error:
            upload.granted = False  # The writer has spoken: nothing more is written to its slot.
            self._fail(upload, error)
            return
        if missing:
            self._send(upload, missing)
        else:
            self._commit(upload, now)

    # --- a slot that the client fills ------------------------------------------------------------------------------

    def filled(self, filled: Filled, now: float) -> None:
        """A writer says how far it is. Not answered; what fits no grant is dropped."""
        upload = self._uploads.get(filled.upload_id)
        if upload is None or upload.stage is not Stage.FILLING or filled.size > upload.begin.size:
            self.rooms.stats.count("fills_dropped")
            return
        upload.assembler.filled(filled.size, now)
        if upload.assembler.behind:
            self._behind[filled.upload_id] = upload

    def _is_here(self, begin: Begin) -> bool:
        """Whether the client is on this host."""
        return begin.host_token == self._host_token

    def _welcome(self, upload: Upload, now: float, *, rewind: bool = False) -> None:
        """All is reserved: the client gets the slot, or credit for chunks."""
        if upload.granted:
            upload.stage = Stage.FILLING
            self.rooms.stats.count("grants")
            upload.caller.reply(_grant(upload, upload.begin.request_id))
        else:
            upload.stage = Stage.RECEIVING
            self._send(upload, upload.assembler.start(now, rewind=rewind))

    def _filled_to_the_end(self, upload: Upload, commit: Commit, now: float) -> None:
        """The writer is done: it is committed once all of it is hashed."""
        upload.stage, upload.granted, upload.declared = Stage.VERIFYING, False, commit.digest
        upload.assembler.filled(upload.begin.size, now)
        self._behind[commit.upload_id] = upload

    def _follow(self, now: float) -> None:
        """Hashes one piece behind one writer, forwards its chunks, and commits what is whole."""
        while self._behind:
            upload_id, upload = next(iter(self._behind.items()))
            del self._behind[upload_id]
            if self._uploads.get(upload_id) is not upload or upload.stage not in (Stage.FILLING, Stage.VERIFYING):
                continue
            for index in upload.assembler.follow():
                self._forward(upload, index)
            if upload.assembler.behind:
                self._behind[upload_id] = upload  # behind the others
            elif upload.stage is Stage.VERIFYING:
                self._verify(upload, now)
            return

    def _forward(self, upload: Upload, index: int) -> None:
        """Cut-through: a chunk goes from the slot to who wants it, while the rest is still written."""
        assembly = upload.assembler.assembly
        data = assembly.view(index)
        header = ChunkHeader(upload.transfer, assembly.size, index * CHUNK, len(data), upload.attempt)
        frame = self._front.push_chunk(upload.key, header, data)
        if frame is not None:
            upload.place.lend(frame)

    def _verify(self, upload: Upload, now: float) -> None:
        try:
            upload.assembler.verify(upload.declared)
        except DigestMismatch as error:
            self._fail(upload, error)
        else:
            self._commit(upload, now)

    def _without_slot(self, upload: Upload, begin: Begin, now: float) -> None:
        """The client cannot use its slot: what it wrote is withdrawn, and the payload comes in chunks, from the start."""
        staged, upload.staged = upload.staged, None
        self._forget(upload)
        try:
            again = self._reserve(replace(upload.begin, host_token=None), upload.caller, now)
        except BroadcasterError:
            if staged is not None:
                staged.discard()
            raise
        again.staged, again.stage = staged, Stage.RECEIVING
        self._send(again, again.assembler.resume(begin.request_id, now))

    def abort(self, abort: Abort, caller: Caller) -> None:
        """The client gives up; what was committed already stays. It writes to its slot no more, so others may have it."""
        upload = self._uploads.get(abort.upload_id)
        if upload is not None and upload.stage in (Stage.RESERVING, Stage.RECEIVING, Stage.FILLING, Stage.VERIFYING):
            upload.granted = False
            self._forget(upload)

    def tick(self, now: float) -> None:
        """Gives up uploads without progress, lets expired versions go, and looks which slots are read no more."""
        for upload in [one for one in self._uploads.values() if one.stage in (Stage.RECEIVING, Stage.FILLING)]:
            try:
                upload.assembler.expire(now)
            except Aborted as error:
                self._fail(upload, error)
        self._evict(self.rooms.catalog.expired(now), now)
        self.rooms.slots.survey()

    def close(self) -> None:
        """Gives up what is under way: its files go while the archive is still open."""
        for upload in self._uploads.values():
            if upload.staged is not None:
                upload.staged.discard()

    # --- commit ----------------------------------------------------------------------------------------------------

    def _commit(self, upload: Upload, now: float) -> None:
        """The payload is whole and right. From here on, in this order and no other."""
        rooms, key, begin = self.rooms, upload.key, upload.begin
        number = rooms.numbers.take(key)  # from a block that is durable already: never handed out twice
        if number is None:
            upload.stage = Stage.NUMBERING
            self._parked.setdefault(key, []).append(upload)
            self._want_numbers(key, now)
            return
        self._ensure_model(key, now)
        digest = upload.assembler.assembly.digest
        info = VersionInfo(
            namespace=begin.namespace,
            model_id=begin.model_id,
            number=number,
            size=begin.size,
            digest=digest,
            creation_timestamp=begin.creation_timestamp or self._wall(),
            content_type=begin.content_type,
            sha256=upload.assembler.assembly.sha256,
            user_data=begin.user_data,
            metrics=begin.metrics,
        )
        upload.place.seal(_slot_header(rooms.log.epoch, info, upload.place))
        self._places[key, number] = upload.place
        self.in_flight -= upload.place.charge
        kept, leaving = rooms.catalog.add(info, begin.upload_id, upload.place.charge, now)
        if begin.archived:
            rooms.catalog.pin(kept)  # until it is on disk
        evicted = self._evict(leaving, now, announcing=key)
        facts = {"number": number, "version": info, "evicted": evicted, "transfer": upload.transfer, "attempt": upload.attempt}
        event = self.emit(key, "published", now, **facts, **_where(upload.place))
        self._front.push_event(event, upload.place.view if info.size <= INLINE else None)  # fetchable from here on
        rooms.stats.count("publishes")
        rooms.stats.count("bytes_in", info.size)
        self._remember(begin.upload_id, key, info)
        if begin.archived:
            upload.stage = Stage.ARCHIVING
            self._keep(upload, kept, now)
        else:
            self._done(upload, info)
        self._want_numbers(key, now)

    def _keep(self, upload: Upload, kept: Kept, now: float) -> None:
        """Blob, manifest, row: on the archive thread. `Done` comes after that."""
        staged, upload.staged = upload.staged, None

        def finished(result: ArchivedVersion | BaseException) -> None:
            self.rooms.catalog.unpin(kept)
            if isinstance(result, BaseException):
                error = store_error(result, "archiving")
                error.facts["number"] = kept.info.number
                self._fail(upload, error)
            else:
                self._done(upload, self._became_archived(kept, result))

        try:
            self.keep(kept, staged, finished)
        except BroadcasterError as error:
            if staged is not None:
                staged.discard()
            finished(error)

    def keep(self, kept: Kept, staged: Staged | None, finished: Callable[[ArchivedVersion | BaseException], None]) -> None:
        """Archives a resident version; `finished` is called on the loop. The place is held until then. Raises Busy or Closed."""
        key = (kept.info.namespace, kept.info.model_id)
        place = self._places[key, kept.info.number]
        place.jobs += 1
        archive, epoch, info = self.rooms.archive, self.rooms.log.epoch, kept.info
        model = None if key in self._on_disk else self.rooms.catalog.model(key)

        def job() -> ArchivedVersion:
            if model is not None:
                archive.set_model(model)
            return archive.keep(staged, place.view, replace(info, archived=True), kept.upload_id, epoch)

        def over(result: ArchivedVersion | BaseException) -> None:
            place.jobs -= 1
            if not isinstance(result, BaseException):
                self._on_disk.add(key)
            finished(result)

        try:
            self.rooms.writer.submit(job, lambda result: self._front.post(lambda: over(result)))
        except BroadcasterError:
            place.jobs -= 1
            raise

    def _became_archived(self, kept: Kept, version: ArchivedVersion) -> VersionInfo:
        key = (version.info.namespace, version.info.model_id)
        number = version.info.number
        if not self.rooms.catalog.holds(kept):
            return version.info  # Deleted meanwhile: the delete is behind this job in the writer's queue.
        self.rooms.catalog.replace(kept, archived=True, sha256=version.info.sha256)
        self.archived[key, number] = replace(version, info=kept.info)
        self._archived_uploads[version.upload_id] = key, number
        self._remember(version.upload_id, key, kept.info)
        self.rooms.stats.count("archived")
        event = self.emit(key, "archived", 0.0, number=number, version=kept.info)
        self._front.push_event(event, None)
        return kept.info

    def archive(self, key: Key, ref: int | str, done: Callable[[VersionInfo | BaseException], None]) -> None:
        """A transient version is persisted; `done` is called with what it became, or with why not."""
        kept = self.rooms.catalog.find(key, ref)
        if kept.leaving:
            raise UnknownVersion(model_id=key[1], number=kept.info.number)
        if kept.info.archived:
            done(kept.info)
            return
        self.rooms.catalog.pin(kept)

        def finished(result: ArchivedVersion | BaseException) -> None:
            self.rooms.catalog.unpin(kept)
            done(store_error(result, "archiving") if isinstance(result, BaseException) else self._became_archived(kept, result))

        try:
            self.keep(kept, None, finished)
        except BroadcasterError as error:
            finished(error)

    # --- read ------------------------------------------------------------------------------------------------------

    def read(self, read: Read, caller: Caller) -> None:
        """Bytes of a version: zero-copy out of memory, verified out of the archive."""
        key = (read.namespace, read.model_id)
        kept = self.rooms.catalog.find(key, read.number)
        if read.length > CHUNK or read.offset > kept.info.size:
            raise InvalidRequest(field="offset and length", reason=f"at most {CHUNK} bytes inside a payload of {kept.info.size}")
        length = min(read.length, kept.info.size - read.offset)
        self.rooms.stats.count("reads")
        self.rooms.stats.count("bytes_read", length)
        header = ChunkHeader(read.request_id, kept.info.size, read.offset, length)
        if kept.resident:
            place = self._places[key, read.number]
            tracker = caller.chunk(header, place.view[read.offset : read.offset + length], track=True)
            if tracker is not None:
                place.lend(tracker)
            return
        version, archive = self.archived[key, read.number], self.rooms.archive
        cached = archive.read_cached(version, read.offset, length)
        if cached is not None:
            caller.chunk(header, cached, track=False)
            return

        def job() -> memoryview:
            self.require_time(caller)
            return archive.read(version, read.offset, length)

        def finished(result: memoryview | BaseException) -> None:
            if isinstance(result, BaseException):
                caller.refuse(store_error(result, "reading"))
            else:
                caller.chunk(header, result, track=False)  # the frame alone keeps the bytes

        self.rooms.readers.submit(job, lambda result: self._front.post(lambda: finished(result)))

    def require_time(self, caller: Caller) -> None:
        """Raises RequestTimeout when the caller's time is over: nobody waits for what would be done now."""
        if self._clock() > caller.expires:
            self.rooms.stats.count("requests_expired")
            raise RequestTimeout(what="the request", timeout="its budget of time")

    def inline_payload(self, key: Key, kept: Kept) -> memoryview | None:
        """The payload of a small version that is in memory."""
        return self._places[key, kept.info.number].view if kept.resident and kept.info.size <= INLINE else None

    def slot_of(self, key: Key, kept: Kept) -> tuple[str, int] | None:
        """Name and generation of the slot in which a version lies; None for one that is inline or not in memory."""
        place = self._places.get((key, kept.info.number))
        return (place.path.name, place.generation) if isinstance(place, Slot) else None

    # --- leaving ---------------------------------------------------------------------------------------------------

    def model_is_leaving(self, key: Key) -> None:
        """The archive is about to forget the model: who archives a version of it from now on brings the model along."""
        self._on_disk.discard(key)

    def forget(self, key: Key, kept: Iterable[Kept]) -> None:
        """These versions were deleted from the catalog: their memory and their place in the archive's list go."""
        if not self.rooms.catalog.has(key):
            self._on_disk.discard(key)
        for one in kept:
            place = self._places.pop((key, one.info.number), None)
            if place is not None:
                self._release(place)
            self.archived.pop((key, one.info.number), None)
            self._archived_uploads.pop(one.upload_id, None)
            self._finished.pop(one.upload_id, None)

    def _evict(self, leaving: list[Kept], now: float, announcing: Key | None = None) -> tuple[int, ...]:
        """Frees the memory of these versions. Those of `announcing` ride in its next event; the others get one of their own."""
        gone: dict[Key, list[int]] = {}
        for kept in leaving:
            key = (kept.info.namespace, kept.info.model_id)
            self._release(self._places.pop((key, kept.info.number)))
            if not kept.info.archived:
                self.rooms.stats.count("evicted")
                gone.setdefault(key, []).append(kept.info.number)
        riding = gone.get(announcing, [])[:PAGE] if announcing else []
        for key, numbers in gone.items():
            for at in range(len(riding) if key == announcing else 0, len(numbers), PAGE):  # as many as fit into one message
                self._front.push_event(self.emit(key, "evicted", now, evicted=tuple(numbers[at : at + PAGE])), None)
        return tuple(riding)

    # --- inside ----------------------------------------------------------------------------------------------------

    def post(self, done: Callable[[], None]) -> None:
        """Runs `done` on the loop's thread; safe from any thread."""
        self._front.post(done)

    def push(self, event: Event) -> None:
        """To the model's subscribers, without a payload."""
        self._front.push_event(event, None)

    def emit(self, key: Key, event: str, now: float, **facts: Any) -> Event:
        """Appends to the log. Who pushes it, and with what, is the caller's."""
        self.rooms.stats.count("events")
        if now:
            self.rooms.beacons.news(key, now)
        return self.rooms.log.append(key, event, **facts)

    def _again(self, begin: Begin, caller: Caller, now: float) -> bool:
        """Whether this upload id is known; it is answered then. Raises AlreadyExists when it is another payload's."""
        upload = self._uploads.get(begin.upload_id)
        if upload is not None:
            _require_same(begin, upload.key, upload.begin.size)
            upload.caller = caller
            self.rooms.stats.count("uploads_resumed")
            if upload.stage is Stage.RECEIVING:
                self._send(upload, upload.assembler.resume(begin.request_id, now))
            elif upload.stage is Stage.RESERVING and not self._is_here(begin):
                upload.granted = False  # It was not told of its slot yet.
            elif upload.stage in (Stage.FILLING, Stage.VERIFYING) and self._is_here(begin):
                upload.assembler.filled(0, now)
                caller.reply(_grant(upload, begin.request_id))
            elif upload.stage is Stage.FILLING:
                self._without_slot(upload, begin, now)
            return True
        found = self._finished.get(begin.upload_id) or self._archived_before(begin.upload_id)
        if found is None:
            return False
        key, info = found
        _require_same(begin, key, info.size)
        if not begin.archived or info.archived:
            caller.reply(Done(request_id=begin.request_id, upload_id=begin.upload_id, version=info))
            return True

        def done(result: VersionInfo | BaseException) -> None:
            if isinstance(result, BaseException):
                caller.refuse(store_error(result, "archiving"))
            else:
                caller.reply(Done(request_id=begin.request_id, upload_id=begin.upload_id, version=result))

        self.archive(key, info.number, done)
        return True

    def _archived_before(self, upload_id: bytes) -> tuple[Key, VersionInfo] | None:
        found = self._archived_uploads.get(upload_id)
        return (found[0], self.archived[found].info) if found is not None else None

    def _reserve(self, begin: Begin, caller: Caller, now: float) -> Upload:
        """Room in memory for the payload, before a byte moves. Raises what `check_begin` and the budget say."""
        check_begin(begin, self._max_payload)
        charge = self.rooms.slots.charge(begin.size)
        while leaving := self._leaving(begin.model_id, charge):
            self._evict(leaving, now)  # What readers hold of it is pinned now: perhaps more must leave.
        place = self.rooms.slots.grant(begin.size)
        self.in_flight += place.charge
        attempt = self._attempts.pop(begin.upload_id, -1) + 1
        stage = Stage.RESERVING if begin.archived else Stage.RECEIVING
        assembler = Assembler(begin, place.view, now, idle=self._idle)
        upload = Upload(begin, caller, place, self._make_id(), attempt, stage, assembler, now)
        self._uploads[begin.upload_id] = upload
        self.rooms.stats.count("uploads_begun")
        self._want_numbers(upload.key, now)
        return upload

    def _leaving(self, model_id: str, charge: int) -> list[Kept]:
        """What must leave memory so that `charge` bytes fit. Raises BudgetExceeded."""
        catalog, slots = self.rooms.catalog, self.rooms.slots
        try:
            return catalog.reserve(model_id, charge, self.in_flight, slots.pinned_bytes)
        except BudgetExceeded:
            if not slots.survey():  # A reader may have let go since the last look.
                raise
        return catalog.reserve(model_id, charge, self.in_flight, slots.pinned_bytes)

    def _prepare(self) -> None:
        """Nothing is under way: a thread that has time makes the slot that the next payload will need."""
        self._quiet = None
        job = None if self._uploads else self.rooms.slots.spare()
        if job is None:
            return

        def finished(result: Slot | BaseException) -> None:
            self.rooms.slots.keep(result)
            self._quiet = self._clock()  # Perhaps one of another size is missing too.

        try:
            self.rooms.readers.submit(job, lambda result: self._front.post(lambda: finished(result)))
        except BroadcasterError as error:
            finished(error)

    def _stage(self, upload: Upload, now: float) -> None:
        """Room on disk for the payload."""
        archive, size = self.rooms.archive, upload.begin.size

        def finished(result: Staged | BaseException) -> None:
            if self._uploads.get(upload.begin.upload_id) is not upload:
                if not isinstance(result, BaseException):
                    result.discard()
            elif isinstance(result, BaseException):
                self._fail(upload, store_error(result, "reserving"))
            else:
                upload.staged = result
                self._welcome(upload, self._clock(), rewind=upload.begin.host_token is None)

        try:
            self.rooms.reserver.submit(lambda: archive.reserve(size), lambda result: self._front.post(lambda: finished(result)))
        except BroadcasterError as error:
            self._fail(upload, error)

    def reserve_all(self, now: float) -> None:
        """A block of numbers for every model that is known, in one transaction, so that the live path is ready at once."""
        wanted = {key: self.rooms.numbers.wants(key, now) for key in self._on_disk}
        ceilings = [(*key, ceiling) for key, ceiling in wanted.items() if ceiling is not None]
        archive = self.rooms.archive

        def finished(result: None | BaseException) -> None:
            for namespace, model_id, ceiling in ceilings:
                self._numbers_came((namespace, model_id), ceiling, result, now)

        if ceilings:
            self.rooms.reserver.submit(
                lambda: archive.reserve_numbers(ceilings), lambda result: self.post(lambda: finished(result))
            )

    def _want_numbers(self, key: Key, now: float) -> None:
        """Makes the next block of numbers durable when half of this one is used."""
        ceiling = self.rooms.numbers.wants(key, now)
        if ceiling is None:
            return
        archive, wanted = self.rooms.archive, ceiling

        def finished(result: None | BaseException) -> None:
            self._numbers_came(key, wanted, result, now)

        try:
            self.rooms.reserver.submit(
                lambda: archive.reserve_numbers([(*key, wanted)]), lambda result: self._front.post(lambda: finished(result))
            )
        except BroadcasterError as error:
            finished(error)

    def _numbers_came(self, key: Key, ceiling: int, result: None | BaseException, now: float) -> None:
        """A block is durable, or is not to be had: uploads that wait for a number go on, or end."""
        parked = self._parked.pop(key, [])
        if isinstance(result, BaseException):
            self.rooms.numbers.failed(key)
            for upload in parked:
                self._fail(upload, store_error(result, "reserving version numbers"))
            return
        self.rooms.numbers.reserved(key, ceiling, now)
        for upload in parked:
            self._commit(upload, now)

    def _ensure_model(self, key: Key, now: float) -> None:
        """Publishing creates the model: visible at once, durable soon."""
        if self.rooms.catalog.has(key):
            return
        model = self.rooms.catalog.create(key, self._wall())
        self._front.push_event(self.emit(key, "created", now), None)
        archive = self.rooms.archive
        try:
            self.rooms.writer.submit(
                lambda: archive.set_model(model), lambda result: self.post(lambda: self._model_kept(key, result))
            )
        except BroadcasterError:
            self.rooms.stats.count("archive_failures")

    def _model_kept(self, key: Key, result: object) -> None:
        if isinstance(result, BaseException):
            self.rooms.stats.count("archive_failures")  # It is written again with its first archived version.
        else:
            self._on_disk.add(key)

    def _done(self, upload: Upload, info: VersionInfo) -> None:
        self._uploads.pop(upload.begin.upload_id, None)
        begin = upload.begin
        if begin.size > INLINE:
            self._quiet = self._clock() + QUIET
        upload.caller.reply(Done(request_id=begin.request_id, upload_id=begin.upload_id, version=info))

    def _send(self, upload: Upload, messages: Iterable[Message | Chunk]) -> None:
        for message in messages:
            assert isinstance(message, Message), "the broadcaster's side of an upload sends no chunks"
            upload.caller.reply(message)

    def _fail(self, upload: Upload, error: BroadcasterError) -> None:
        self.rooms.stats.count("uploads_refused")
        self._forget(upload)
        upload.caller.refuse(error)

    def _forget(self, upload: Upload) -> None:
        """An upload that leads to nothing (more): its memory, its disk space and its subscribers' buffers are free again."""
        upload_id = upload.begin.upload_id
        if self._uploads.pop(upload_id, None) is None:
            return
        if upload.stage is not Stage.ARCHIVING:
            self.in_flight -= upload.place.charge
            self._give_back(upload)
            self._front.push_abandon(upload.key, Abandon(transfer=upload.transfer, attempt=upload.attempt))
            self._attempts[upload_id] = upload.attempt
            if len(self._attempts) > FINISHED:
                self._attempts.popitem(last=False)
        if upload.staged is not None:
            upload.staged.discard()

    def _give_back(self, upload: Upload) -> None:
        """A place that no version came to lie in. One that a writer has and said nothing of may still be written to."""
        if upload.stage is Stage.FILLING and upload.granted:
            self.rooms.stats.count("grants_withdrawn")
            self.rooms.slots.withdraw(upload.place)
        else:
            self._release(upload.place)

    def _release(self, place: Place) -> None:
        unlinked = self.rooms.slots.release(place)
        if unlinked:
            self.rooms.stats.count("slots_unlinked", unlinked)

    def _remember(self, upload_id: bytes, key: Key, info: VersionInfo) -> None:
        self._finished[upload_id] = key, info
        self._finished.move_to_end(upload_id)
        if len(self._finished) > FINISHED:
            self._finished.popitem(last=False)


def check_begin(begin: Begin, max_payload: int) -> None:
    """Raises InvalidName, InvalidRequest or PayloadTooLarge for a payload that will never be taken."""
    check_name("namespace", begin.namespace)
    check_name("model", begin.model_id)
    if begin.digest_kind not in DIGEST_KINDS:
        raise InvalidRequest(field="digest_kind", reason=f"must be one of {', '.join(DIGEST_KINDS)}")
    if begin.size > max_payload:
        raise PayloadTooLarge(model_id=begin.model_id, size=begin.size, limit=max_payload, what="the largest payload")
    if len(begin.content_type) > 128:
        raise InvalidRequest(field="content_type", reason="must have at most 128 characters")
    check_annotations(begin.user_data, begin.metrics)


def _with_last_words(begin: Begin, commit: Commit) -> Begin:
    """`begin` with what `commit` says instead. Raises InvalidRequest."""
    said = {name: getattr(commit, name) for name in ("user_data", "metrics", "creation_timestamp")}
    given = {name: value for name, value in said.items() if value is not None}
    if not given:
        return begin
    changed = replace(begin, **given)
    check_annotations(changed.user_data, changed.metrics)
    return changed


def _require_same(begin: Begin, key: Key, size: int) -> None:
    """An upload id is one payload's: answering for another one would lose it without a word."""
    if (begin.namespace, begin.model_id, begin.size) != (*key, size):
        what = f"an upload with this id, of {size} bytes for {'/'.join(key)},"
        raise AlreadyExists(model_id=begin.model_id, what=what)


def check_annotations(*maps: Mapping[str, Any]) -> None:
    """Raises InvalidRequest when user data, metrics and tags take more than their limit together."""
    size = sum(encoded_size(one) for one in maps)
    if size > ANNOTATIONS:
        raise InvalidRequest(field="user_data, metrics and tags", reason=f"{size} bytes are over {ANNOTATIONS}")


def _grant(upload: Upload, request_id: bytes) -> Grant:
    return Grant(request_id=request_id, upload_id=upload.begin.upload_id, **_where(upload.place))


def _where(place: Place) -> dict[str, Any]:
    """What an event says of where a payload lies on this host."""
    return {"slot": place.path.name, "generation": place.generation} if isinstance(place, Slot) else {}


def _slot_header(epoch: int, info: VersionInfo, place: Place) -> SlotHeader:
    generation = place.generation if isinstance(place, Slot) else 0
    name = f"{info.namespace}/{info.model_id}"
    return SlotHeader(epoch, info.number, info.size, bytes.fromhex(info.digest), generation, name)


def store_error(error: BaseException, operation: str) -> BroadcasterError:
    if isinstance(error, BroadcasterError):
        return error
    return StoreUnavailable(operation=operation, where="the archive", reason=repr(error)[:200], hint="See the broadcaster's log")
