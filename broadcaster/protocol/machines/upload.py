"""An upload, seen from both ends.

    Uploader (learner)                         Assembler (broadcaster)
    BEGINNING  ── begin ──────────────────────▶
               ◀───────────── credit 0..until ──  RECEIVING
    SENDING    ── chunk, chunk, ... ──────────▶
               ◀───────────── credit ───────────
    COMMITTING ── commit digest ──────────────▶  COMPLETE
               ◀───────────── done ─────────────
    DONE

A hole, a lost connection or a lost answer leads back to SENDING: `begin` again, and `credit ... rewind` says from where.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from broadcaster.protocol.assembly import Assembly, chunks_of
from broadcaster.protocol.errors import (
    Aborted as UploadAborted,
)
from broadcaster.protocol.errors import (
    BroadcasterError,
    DigestMismatch,
    InvalidRequest,
    LocalProtocolError,
    RemoteProtocolError,
    SizeMismatch,
)
from broadcaster.protocol.frames import Chunk, ChunkHeader
from broadcaster.protocol.limits import CHUNK, EAGER, FILLED, IDLE_UPLOAD, RETRY, WINDOW
from broadcaster.protocol.messages import SHA256, Abort, Begin, Commit, Credit, Done, Error, Message
from broadcaster.protocol.version import VersionInfo

Out = list[Message | Chunk]

MOMENT = 0.25
"""Seconds without a word after which a granted slot that nothing was written to is idle."""


class UploaderState(Enum):
    BEGINNING = "beginning"
    SENDING = "sending"
    COMMITTING = "committing"
    DONE = "done"
    FAILED = "failed"


class Uploader:
    """Brings one payload to the broadcaster. `payload` is filled by somebody else, who says so with `filled` and `finish`.

    When `state` is DONE, `version` is what came of it; when FAILED, `error` says why.
    """

    def __init__(self, begin: Begin, payload: memoryview, *, retry: float = RETRY, eager: int = EAGER) -> None:
        """`eager` chunks may follow `begin` before its answer."""
        self.begin = begin
        self.state = UploaderState.BEGINNING
        self.version: VersionInfo | None = None
        self.error: BroadcasterError | None = None
        self._payload = payload
        self._chunks = chunks_of(len(payload))
        self._filled = 0
        self._commit: Commit | None = None
        self._next = 0
        self._until = min(eager, self._chunks)
        self._retry = retry
        self._heard = 0.0
        self._again = False
        """Whether `begin` was repeated: then only the broadcaster knows from where to go on."""

    @property
    def over(self) -> bool:
        return self.state in (UploaderState.DONE, UploaderState.FAILED)

    def start(self, now: float) -> Out:
        self._heard = now
        return [self.begin]

    def filled(self, size: int, now: float) -> Out:
        """The first `size` bytes of the payload are in place and stay as they are."""
        self._filled = max(self._filled, size)
        return self._send(now)

    def finish(
        self,
        digest: str,
        now: float,
        *,
        user_data: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        creation_timestamp: int | None = None,
    ) -> Out:
        """The payload is whole, and this is its digest of the kind that `begin` declared; what else is given takes the place of
        what `begin` said, or an earlier `begin` of this upload."""
        self._filled = len(self._payload)
        self._commit = Commit(
            request_id=self.begin.request_id,
            namespace=self.begin.namespace,
            upload_id=self.begin.upload_id,
            digest=digest,
            user_data=user_data,
            metrics=metrics,
            creation_timestamp=creation_timestamp,
        )
        return self._send(now)

    def receive(self, message: Message, now: float) -> Out:
        if self.over:
            return []  # A late credit or a second answer to a repeated question is harmless.
        self._heard = now
        match message:
            case Credit():
                return self._credit(message, now)
            case Done():
                self.state, self.version = UploaderState.DONE, message.version
                return []
            case Error() if is_forgotten(message):
                # Another life of the broadcaster got our commit: it is told of the upload, unless `begin` is on its way already.
                return [] if self.state is UploaderState.BEGINNING else self._begin_again()
            case Error():
                self.state = UploaderState.FAILED
                self.error = message.to_raise()
                return []
        raise RemoteProtocolError(reason=f"{message.KIND.decode()} does not belong to an upload that is {self.state.value}")

    def abort(self, error: BroadcasterError) -> Out:
        """Gives up, because of `error`."""
        if self.over:
            return []
        self.state, self.error = UploaderState.FAILED, error
        return [Abort(request_id=self.begin.request_id, namespace=self.begin.namespace, upload_id=self.begin.upload_id)]

    @property
    def deadline(self) -> float | None:
        """When `expire` wants to be called: only while an answer of the broadcaster is awaited."""
        if self.over or self._waits_for_learner():
            return None
        return self._heard + self._retry

    def expire(self, now: float) -> Out:
        """Nothing heard: ask again. The answer says from where to go on, whatever was lost."""
        if self.deadline is None or now < self.deadline:
            return []
        self._heard = now
        return self._begin_again()

    def _begin_again(self) -> Out:
        self.state, self._again = UploaderState.BEGINNING, True
        return [self.begin]

    def _credit(self, credit: Credit, now: float) -> Out:
        if credit.received > self._chunks:
            raise RemoteProtocolError(reason=f"{credit.received} chunks received of a payload of {self._chunks}")
        if credit.rewind or self._again:
            self._next, self._until = credit.received, credit.until
            self._again = False
            self.state = UploaderState.SENDING
        elif self.state is UploaderState.BEGINNING:
            self.state = UploaderState.SENDING
        self._until = max(self._until, credit.until)
        return self._send(now)

    def _waits_for_learner(self) -> bool:
        """Credit is there, but not the bytes (or not the digest)."""
        if self.state is not UploaderState.SENDING:
            return False  # The answer to `begin` is awaited in any case.
        if self._next == self._chunks:
            return self._commit is None
        return self._next < self._until and self._end(self._next) > self._filled

    def _end(self, index: int) -> int:
        return min((index + 1) * CHUNK, len(self._payload))

    def _send(self, now: float) -> Out:
        if self._again or self.state not in (UploaderState.BEGINNING, UploaderState.SENDING):
            return []
        out: Out = []
        while self._next < min(self._until, self._chunks) and self._end(self._next) <= self._filled:
            start, end = self._next * CHUNK, self._end(self._next)
            header = ChunkHeader(self.begin.upload_id, len(self._payload), start, end - start)
            out.append(Chunk(header, self._payload[start:end]))
            self._next += 1
        if self._next == self._chunks and self._commit is not None:
            self.state = UploaderState.COMMITTING
            out.append(self._commit)
        if out:
            self._heard = now  # The wait for an answer begins with the last thing sent.
        return out


def is_forgotten(error: Error) -> bool:
    """Whether this answers a commit of an upload that the broadcaster does not know."""
    return error.code == InvalidRequest.code and error.facts.get("field") == "upload_id"


class AssemblerState(Enum):
    RECEIVING = "receiving"
    COMPLETE = "complete"
    FAILED = "failed"


class Assembler:
    """Takes one payload in. `buffer` has the declared size; the caller copies each chunk to where `place` says.

    Of a payload that the client itself writes into `buffer` (a granted slot), `filled` hears how far it is, and `follow` hashes
    behind it. The broadcaster keeps one for each upload, across the client's connections.
    """

    def __init__(self, begin: Begin, buffer: memoryview, now: float, *, window: int = WINDOW, idle: float = IDLE_UPLOAD) -> None:
        if len(buffer) != begin.size:
            raise LocalProtocolError(reason=f"a buffer of {len(buffer)} bytes for a payload of {begin.size}")
        self.begin = begin
        self.state = AssemblerState.RECEIVING
        self.assembly = Assembly(buffer, also=begin.digest_kind if begin.digest_kind == SHA256 else None)
        self._window = window
        self._until = 0
        self._mark = 0
        """Chunks that the client says are in the buffer."""
        self._idle = idle
        self._progress = now
        self._rewound = -1

    def start(self, now: float, *, rewind: bool = False) -> Out:
        """The first credit. With `rewind` when chunks that came before it were dropped, as nothing was reserved yet."""
        return [self._credit(rewind=rewind)]

    def resume(self, request_id: bytes, now: float) -> Out:
        """`begin` came again, perhaps on another connection: go on from the first missing chunk."""
        self._progress = now
        return [self._credit(rewind=True, request_id=request_id)]

    def place(self, header: ChunkHeader) -> memoryview | None:
        """Where the bytes of this chunk go, or None when they are not wanted (a repetition, or one behind a hole).

        Raises SizeMismatch for a chunk that is not inside the declared payload: the upload is over then.
        """
        if self.state is not AssemblerState.RECEIVING:
            return None
        try:
            index = self.assembly.index_of(header)
        except RemoteProtocolError:
            self.state = AssemblerState.FAILED
            raise SizeMismatch(
                model_id=self.begin.model_id,
                size=self.begin.size,
                found=f"a chunk of {header.length} bytes at {header.offset} of {header.size} came",
            ) from None
        return self.assembly.view(index) if index == self.assembly.front else None

    def expects(self, header: bytes, length: int) -> bool:
        """Whether these are the header of the very chunk that comes next, and the length of its bytes: nearly all are, and
        comparing is cheaper than taking apart and asking `place`."""
        assembly = self.assembly
        if self.state is not AssemblerState.RECEIVING or assembly.complete:
            return False
        return header == assembly.header(self.begin.upload_id, 0) and length == len(assembly.view(assembly.front))

    def placed(self, header: ChunkHeader, now: float, data: memoryview | None = None) -> Out:
        """The bytes are where `place` said; those of `data` are put there now. Returns credit, about every half window."""
        self.assembly.add(header.offset // CHUNK, data)
        return self._came(now)

    def placed_next(self, data: memoryview, now: float) -> Out:
        """The bytes of the chunk that `expects` knew come. Returns credit, as `placed` does."""
        self.assembly.put(data)
        return self._came(now)

    def _came(self, now: float) -> Out:
        self._progress = now
        if self._until - self.assembly.front <= self._window // 2 and self._until < self.assembly.count:
            return [self._credit(rewind=False)]
        return []

    def dropped(self, header: ChunkHeader, now: float) -> Out:
        """A chunk was not wanted. One behind a hole is answered once per hole; a repetition not at all."""
        front = self.assembly.front
        if self.state is AssemblerState.RECEIVING and header.offset // CHUNK > front and self._rewound != front:
            self._rewound = front
            return [self._credit(rewind=True)]
        return []

    def filled(self, size: int, now: float) -> None:
        """The client wrote the first `size` bytes into the buffer. They are hashed by `follow`; less than was said before, and
        more than was declared, changes nothing but that the client lives."""
        self._progress = now
        if size <= self.begin.size:
            self._mark = max(self._mark, self.assembly.count if size == self.begin.size else size // CHUNK)

    @property
    def behind(self) -> bool:
        """Whether `follow` has something to hash."""
        return self.state is AssemblerState.RECEIVING and self.assembly.front < self._mark

    @property
    def is_untouched(self) -> bool:
        """Whether nothing came of it yet, nor was said to lie in its slot."""
        return not self._mark and not self.assembly.front

    def is_idle(self, now: float) -> bool:
        """Whether its client has a slot and has not begun to fill it, and not said anything for a moment."""
        return self.is_untouched and now - self._progress > MOMENT

    def follow(self) -> range:
        """Hashes what the client wrote: whole chunks, at most 4 MiB in one call. Returns the indices of those chunks."""
        front = self.assembly.front
        hashed = range(front, min(self._mark, front + FILLED // CHUNK))
        for index in hashed:
            self.assembly.add(index)
        return hashed

    def commit(self, commit: Commit, now: float) -> Out:
        """The declared digest is right: COMPLETE and nothing to send. Chunks are missing: rewind.

        Raises DigestMismatch: the upload is over then.
        """
        self._progress = now
        if not self.assembly.complete:
            return [self._credit(rewind=True, request_id=commit.request_id)]
        self.verify(commit.digest)
        return []

    def verify(self, digest: str) -> None:
        """The payload is here: COMPLETE if `digest` is its digest. Raises DigestMismatch: the upload is over then."""
        kind, found = self.begin.digest_kind, self.found
        if digest != found:
            self.state = AssemblerState.FAILED
            raise DigestMismatch(model_id=self.begin.model_id, digest_kind=kind, found=found, declared=digest[:64])
        self.state = AssemblerState.COMPLETE

    @property
    def found(self) -> str:
        """The digest of what is here, of the kind that `begin` named."""
        return self.assembly.sha256 or "" if self.begin.digest_kind == SHA256 else self.assembly.digest

    @property
    def deadline(self) -> float | None:
        return self._progress + self._idle if self.state is AssemblerState.RECEIVING else None

    def expire(self, now: float) -> Out:
        """No progress for too long. Raises Aborted: the upload is over then."""
        if self.deadline is None or now < self.deadline:
            return []
        self.state = AssemblerState.FAILED
        raise UploadAborted(model_id=self.begin.model_id, reason=f"no progress for {self._idle:g} s")

    def _credit(self, *, rewind: bool, request_id: bytes | None = None) -> Credit:
        front = self.assembly.front
        self._until = min(front + self._window, self.assembly.count)
        return Credit(
            request_id=request_id or self.begin.request_id,
            upload_id=self.begin.upload_id,
            received=front,
            until=self._until,
            rewind=rewind,
        )
