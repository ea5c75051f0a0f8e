"""The life of a version: begun, received, committed, announced, archived.

Effects happen in one visible order, here and nowhere else. The broker runs on the loop's thread; what may wait for a disk is
a job for a worker, and its end comes back through `front.post`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from broadcaster.broker.acknowledging import Acknowledging
from broadcaster.broker.archiving import Archiving
from broadcaster.broker.checks import require_same, store_error, with_last_words
from broadcaster.broker.chunks import Chunks
from broadcaster.broker.filling import Filling
from broadcaster.broker.memory import Memory, where
from broadcaster.broker.numbering import Numbering
from broadcaster.broker.pruning import Pruning
from broadcaster.broker.reading import Reading
from broadcaster.broker.rooms import Caller, Front, Key, Place, Rooms, submit
from broadcaster.broker.settling import Settling
from broadcaster.broker.terms import Terms
from broadcaster.broker.uploads import Stage, Upload, Uploads
from broadcaster.broker.waiting import Waiting
from broadcaster.catalog import Kept
from broadcaster.protocol.errors import Aborted, BroadcasterError, Conflict, DigestMismatch, InvalidRequest, SizeMismatch
from broadcaster.protocol.limits import CHUNK, IDLE_UPLOAD, INLINE, MAX_PAYLOAD
from broadcaster.protocol.messages import AS_IT_LIES, Abort, Begin, Commit, Done, Publish
from broadcaster.protocol.slot import SlotHeader
from broadcaster.protocol.version import VersionInfo
from broadcaster.slots import Slot
from broadcaster.store.blobs import Staged

Forward = Callable[[Upload, bytes], None]


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
        self._clock = clock
        self._wall = wall
        limit = min(max_payload, MAX_PAYLOAD)
        self.memory = Memory(rooms, front, clock)
        self._uploads = Uploads(self.memory, front, rooms.stats, max_payload=limit, make_id=make_id, idle=idle)
        self.chunks = Chunks(self._uploads, rooms.stats)
        self.filling = Filling(self._uploads, front, rooms.stats)
        self.waiting = Waiting(front, rooms.stats, clock)
        self.terms = Terms(rooms, front, self._uploads, self.waiting)
        self.acknowledging = Acknowledging(rooms)
        self._numbering = Numbering(rooms, front, go=self._commit_in_time, fail=self._uploads.fail)
        self.archiving = Archiving(rooms, front, self.memory, self._uploads, self.waiting)
        self.pruning = Pruning(rooms, front, self.archiving, self.waiting, self.forget, clock=clock, wall=wall)
        self.settling = Settling(rooms, front, self.archiving, self.forget, clock)
        self.reading = Reading(rooms, front, self.memory, self.archiving, self.waiting)

    def reserve_all(self, now: float) -> None:
        """A block of numbers for every model that is known, in one transaction, so that the live path is ready at once."""
        self._numbering.want_all(self.archiving.models, now)

    # --- begun -----------------------------------------------------------------------------------------------------

    def begin(self, begin: Begin, caller: Caller, now: float) -> None:
        """A new upload is reserved; one that is known goes on, or is answered with the version that came of it."""
        if self._again(begin, caller, now):
            return
        if now >= caller.expires:
            raise self.waiting.expired()
        upload = self._reserve(begin, caller, now)
        upload.granted = self._is_here(begin) and isinstance(upload.place, Slot) and upload.place.reachable
        if begin.archived:
            self._stage(upload)
        elif begin.host_token is None:
            self.chunks.expect(upload)
        else:  # Nothing follows such a `begin`: there is nothing to wait for.
            self._welcome(upload, now)

    def _is_here(self, begin: Begin) -> bool:
        """Whether the client is on this host."""
        return begin.host_token == self._host_token

    def _reserve(self, begin: Begin, caller: Caller, now: float) -> Upload:
        """Room in memory, and numbers soon. Raises Fenced, and what `Uploads.reserve` does."""
        self.terms.require(begin)
        self._require_renewable(begin)
        if begin.archived:
            self.rooms.archive.require_writable()  # Before a byte moves, and before anything is announced.
        upload = self._uploads.reserve(begin, caller, now)
        self._numbering.want(upload.key, now)
        return upload

    def _require_renewable(self, begin: Begin) -> None:
        """Raises Conflict when it names a number that it cannot have (again)."""
        if begin.number is not None:
            key = begin.namespace, begin.model_id
            self.rooms.catalog.require_renewable(key, begin.number, self.rooms.numbers.floor(key))

    def _stage(self, upload: Upload) -> None:
        """Room on disk for the payload."""
        archive, size = self.rooms.archive, upload.begin.size

        def finished(result: Staged | BaseException) -> None:
            if not self._uploads.has(upload):
                if not isinstance(result, BaseException):
                    result.discard()
            elif isinstance(result, BaseException):
                self._uploads.fail(upload, store_error(result, "reserving"))
            else:
                upload.staged = result
                self._welcome(upload, self._clock(), rewind=upload.begin.host_token is None)

        try:
            submit(self.rooms.reserver, self._front, self.waiting.in_time(upload, lambda: archive.reserve(size)), finished)
        except BroadcasterError as error:
            self._uploads.fail(upload, error)

    def _welcome(self, upload: Upload, now: float, *, rewind: bool = False) -> None:
        """All is reserved: the client gets the slot, or credit for chunks."""
        if upload.granted:
            self.filling.grant(upload)
        else:
            upload.stage = Stage.RECEIVING
            upload.send(upload.assembler.start(now, rewind=rewind))

    # --- begun again -----------------------------------------------------------------------------------------------

    def _again(self, begin: Begin, caller: Caller, now: float) -> bool:
        """Whether this upload id is known; it is answered then. Raises AlreadyExists when it is another payload's, VersionDeleted
        when what came of it was deleted."""
        upload = self._uploads.under_way.get(begin.upload_id)
        if upload is not None:
            first = upload.begin
            require_same(begin, upload.key, first.size, {first.digest} if isinstance(first, Publish) else ())
            upload.caller = caller
            self.rooms.stats.count("uploads_resumed")
            self._resume(upload, begin, now)
            return True
        found = self.archiving.outcome(begin.upload_id) or self._uploads.outcome(begin.upload_id)
        if found is None:
            return False
        key, info = found
        info = self.rooms.catalog.known(key, info.number) or info  # With what was said of it since.
        require_same(begin, key, info.size, {info.digest, info.sha256})

        def done(result: VersionInfo | BroadcasterError) -> None:
            if isinstance(result, VersionInfo):
                caller.reply(Done(request_id=begin.request_id, upload_id=begin.upload_id, version=result))
            else:
                caller.refuse(result)

        if begin.archived and not info.archived:
            self.archiving.archive(key, info.number, done, caller)
        else:
            done(info)
        return True

    def _resume(self, upload: Upload, begin: Begin, now: float) -> None:
        """It goes on from where it is."""
        if upload.stage in (Stage.RESERVING, Stage.RECEIVING, Stage.FILLING):
            upload.begin = with_last_words(upload.begin, begin)
        if upload.stage is Stage.RECEIVING:
            upload.send(upload.assembler.resume(begin.request_id, now))
        elif upload.stage is Stage.RESERVING and not self._is_here(begin):
            upload.granted = False  # It was not told of its slot yet.
        elif upload.stage in (Stage.FILLING, Stage.VERIFYING) and self._is_here(begin):
            self.filling.grant_again(upload, begin.request_id, now)
        elif upload.stage is Stage.FILLING:
            self._without_slot(upload, begin, now)

    def _without_slot(self, upload: Upload, begin: Begin, now: float) -> None:
        """The client cannot use its slot: what it wrote is withdrawn, and the payload comes in chunks, from the start."""
        staged, upload.staged = upload.staged, None
        self._uploads.forget(upload)
        try:
            again = self._reserve(replace(upload.begin, host_token=None), upload.caller, now)
        except BroadcasterError:
            if staged is not None:
                staged.discard()
            raise
        again.staged, again.stage = staged, Stage.RECEIVING
        again.send(again.assembler.resume(begin.request_id, now))

    # --- whole -----------------------------------------------------------------------------------------------------

    def publish(self, message: Publish, payload: memoryview, caller: Caller, now: float, forward: Forward) -> None:
        """A payload of at most one chunk, begun and committed in one message. `forward` pushes it to who wants chunks."""
        if self._again(message, caller, now):
            return
        if now >= caller.expires:
            raise self.waiting.expired()
        if len(payload) != message.size or message.size > CHUNK:
            raise SizeMismatch(model_id=message.model_id, size=message.size, found=f"a frame of {len(payload)} bytes came")
        upload = self._reserve(message, caller, now)
        header = b""
        if message.size:
            header = upload.pushed_header
            upload.assembler.placed_next(payload, now)
        try:
            upload.assembler.verify(message.digest)
        except DigestMismatch as error:
            self._uploads.fail(upload, error)
            return
        if message.size > INLINE:
            forward(upload, header)  # Just before its event: subscribers are woken once.
        self._commit(upload, now)

    def commit(self, commit: Commit, caller: Caller, now: float) -> None:
        """The client says that all was sent, or written into the slot."""
        upload = self._uploads.under_way.get(commit.upload_id)
        if upload is None:
            raise InvalidRequest(field="upload_id", reason="there is no such upload: begin it again")
        upload.caller = caller
        if upload.stage not in (Stage.RECEIVING, Stage.FILLING):
            return  # The commit was sent again; its answer is on the way.
        try:
            if now >= caller.expires:
                raise self.waiting.expired()
            upload.begin = with_last_words(upload.begin, commit)
            if upload.stage is Stage.FILLING:
                self.filling.filled_to_the_end(upload, commit, now)
                return
            missing = upload.assembler.commit(commit, now)
        except BroadcasterError as error:
            upload.granted = False  # The writer has spoken: nothing more is written to its slot.
            self._uploads.fail(upload, error)
            return
        if missing:
            upload.send(missing)
        else:
            self._commit(upload, now)

    def _verify(self, upload: Upload, now: float) -> None:
        """All of a slot is hashed: it is committed, or refused."""
        try:
            # What was computed where it lies was copied nowhere: there is nothing to compare with.
            upload.assembler.verify(upload.assembler.found if upload.declared == AS_IT_LIES else upload.declared)
        except DigestMismatch as error:
            self._uploads.fail(upload, error)
        else:
            self._commit(upload, now)

    # --- committed -------------------------------------------------------------------------------------------------

    def _commit(self, upload: Upload, now: float) -> None:
        """The payload is whole and right. From here on, in this order and no other."""
        rooms, key, begin = self.rooms, upload.key, upload.begin
        if self.terms.held.get(key) != begin.term:  # Another publisher took over while this one waited for its number.
            self._uploads.fail(upload, self.terms.fenced(begin))
            return
        number = begin.number
        if number is None:
            number = rooms.numbers.take(key)  # from a block that is durable already: never handed out twice
        else:
            try:
                self._require_renewable(begin)  # Something newer may have come while it arrived.
            except Conflict as error:
                self._uploads.fail(upload, error)
                return
        if number is None:
            upload.stage = Stage.NUMBERING
            if upload.timing is not None:
                upload.timing.waits()
            self._numbering.park(upload, now)
            return
        self._ensure_model(key, now)
        info = VersionInfo(
            namespace=begin.namespace,
            model_id=begin.model_id,
            number=number,
            size=begin.size,
            digest=upload.assembler.assembly.digest,
            creation_timestamp=begin.creation_timestamp or self._wall(),
            content_type=begin.content_type,
            sha256=upload.assembler.assembly.sha256,
            user_data=begin.user_data,
            metrics=begin.metrics,
        )
        upload.place.seal(_slot_header(rooms.log.epoch, info, upload.place))
        self.memory.hold(key, number, upload.place)
        kept, leaving = rooms.catalog.add(info, begin.upload_id, upload.place.charge, now)
        evicted = self.memory.evict(leaving, now, announcing=key)
        facts = {"number": number, "version": info, "evicted": evicted, "transfer": upload.transfer, "attempt": upload.attempt}
        event = rooms.emit(key, "published", now, **facts, **where(upload.place))
        self._front.push_event(event, upload.place.view if info.size <= INLINE else None)  # fetchable from here on
        rooms.acks.published(key, number, now)
        rooms.stats.count("publishes")
        rooms.stats.count("bytes_in", info.size)
        rooms.stats.took("publish_seconds", self._clock() - upload.begun)
        self._uploads.remember(begin.upload_id, key, info)
        if begin.archived:
            upload.stage = Stage.ARCHIVING
            self._keep(upload, kept)
        else:
            self._done(upload, info)
        self._numbering.want(key, now)

    def _commit_in_time(self, upload: Upload, now: float) -> None:
        """It waited for its number; perhaps nobody waits for it any more."""
        if self._clock() >= upload.expires:
            self._uploads.fail(upload, self.waiting.expired())
            return
        if upload.timing is not None:
            upload.timing.begins()
        self._commit(upload, now)

    def _ensure_model(self, key: Key, now: float) -> None:
        """Publishing creates the model: visible at once, durable soon."""
        if self.rooms.catalog.has(key):
            return
        model = self.rooms.catalog.create(key, self._wall())
        self._front.push_event(self.rooms.emit(key, "created", now), None)
        self.archiving.keep_model(model)

    def _keep(self, upload: Upload, kept: Kept) -> None:
        """Blob, manifest, row. `Done` comes after that."""
        staged, upload.staged = upload.staged, None

        def done(result: VersionInfo | BroadcasterError) -> None:
            if isinstance(result, VersionInfo):
                self._done(upload, result)
            else:
                result.facts["number"] = kept.info.number
                self._uploads.fail(upload, result)

        self.archiving.keep(kept, staged, done, upload)

    def _done(self, upload: Upload, info: VersionInfo) -> None:
        begin = upload.begin
        self._uploads.under_way.pop(begin.upload_id, None)
        self.memory.committed(begin.size)
        done = Done(request_id=begin.request_id, hops=upload.hops, upload_id=begin.upload_id, version=info)
        upload.caller.reply(done)

    # --- given up, deleted -----------------------------------------------------------------------------------------

    def abort(self, abort: Abort) -> None:
        """The client gives up; what was committed already stays. It writes to its slot no more, so others may have it."""
        upload = self._uploads.under_way.get(abort.upload_id)
        if upload is not None and upload.stage in (Stage.RESERVING, Stage.RECEIVING, Stage.FILLING, Stage.VERIFYING):
            upload.granted = False
            self._uploads.forget(upload)

    def forget(self, key: Key, deleted: Iterable[Kept]) -> None:
        """These versions were deleted from the catalog: their memory and their place in the archive's list go."""
        if not self.rooms.catalog.has(key):
            self.archiving.model_left(key)
        for kept in deleted:
            self.memory.forget(key, kept.info.number)
            self.archiving.forget(key, kept)

    # --- time ------------------------------------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """All that came has been looked at: one piece of what a client wrote into its slot is hashed, a slot that will be missed
        is made, and uploads that wait for their first credit get it."""
        whole = self.filling.follow()
        if whole is not None:
            self._verify(whole, now)
        self.memory.prepare(now, self._uploads.carries)
        self.chunks.settle(now)
        if self.acknowledging.deadline is not None:
            self.acknowledging.settle(now)

    @property
    def deadline(self) -> float | None:
        """When `settle` has something to do, whatever comes."""
        if self.filling.behind:
            return 0.0
        deadlines = (self.chunks.deadline, self.memory.quiet, self.acknowledging.deadline)
        return min((when for when in deadlines if when is not None), default=None)

    def uploads(self, now: float) -> int:
        """How many payloads are on their way; slots that were granted ahead are none."""
        return self._uploads.moving(now)

    def tick(self, now: float) -> None:
        """Gives up uploads without progress, lets expired versions go, and looks which slots are read no more."""
        for upload in [one for one in self._uploads.under_way.values() if one.stage in (Stage.RECEIVING, Stage.FILLING)]:
            try:
                upload.assembler.expire(now)
            except Aborted as error:
                self._uploads.fail(upload, error)
        self.reading.tick(now)
        self.memory.evict(self.rooms.catalog.expired(now), now)
        self.rooms.slots.survey()
        self.acknowledging.tick(now)
        self.pruning.tick(now)
        self.settling.tick()

    def close(self) -> None:
        """Gives up what is under way: its files go while the archive is still open."""
        self._uploads.discard_staged()


def _slot_header(epoch: int, info: VersionInfo, place: Place) -> SlotHeader:
    generation = place.generation if isinstance(place, Slot) else 0
    name = f"{info.namespace}/{info.model_id}"
    return SlotHeader(epoch, info.number, info.size, bytes.fromhex(info.digest), generation, name)
