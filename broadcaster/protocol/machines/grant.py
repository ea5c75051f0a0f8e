"""An upload through a slot, seen from the learner on the broadcaster's host.

    SlotUploader (learner)                     broadcaster
    BEGINNING  ── begin host_token ───────────▶
               ◀───────────── grant slot ───────
    FILLING    ── filled, filled, ... ────────▶  (hashes behind it)
    COMMITTING ── commit digest ──────────────▶
               ◀───────────── done ─────────────
    DONE

Whatever speaks against the slot (no grant, a slot that cannot be used, a broadcaster that was restarted) leads to CHUNKS: the
same payload goes on under the same upload id, with an `Uploader` and from the beginning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum

from broadcaster.protocol.errors import Aborted as UploadAborted
from broadcaster.protocol.errors import BroadcasterError, LocalProtocolError, RemoteProtocolError
from broadcaster.protocol.limits import FILLED, RETRY
from broadcaster.protocol.machines.upload import is_forgotten
from broadcaster.protocol.messages import LAST_WORDS, Abort, Begin, Commit, Credit, Done, Error, Filled, Grant, Message
from broadcaster.protocol.version import VersionInfo

KEEP = 20.0
"""Seconds after which a grant that nothing is written to is asked to be kept."""


class SlotUploaderState(Enum):
    BEGINNING = "beginning"
    FILLING = "filling"
    COMMITTING = "committing"
    DONE = "done"
    FAILED = "failed"
    CHUNKS = "chunks"


class SlotUploader:
    """Brings one payload to the broadcaster through the slot that it grants. `begin` has the host's token.

    When `state` is FILLING, `grant` names the slot; when DONE, `version` is what came of it; when FAILED, `error` says why; when
    CHUNKS, the payload is to be sent by an `Uploader` that gets `plain`.
    """

    def __init__(self, begin: Begin, *, retry: float = RETRY, keep: float = KEEP) -> None:
        if begin.host_token is None:
            raise LocalProtocolError(reason="a slot is granted to who shows the host's token")
        self.begin = begin
        self.state = SlotUploaderState.BEGINNING
        self.grant: Grant | None = None
        self.version: VersionInfo | None = None
        self.error: BroadcasterError | None = None
        self._filled = 0
        self._told = 0
        self._commit: Commit | None = None
        self._retry = retry
        self._keep = keep
        self._since = math.inf
        """When something was said last."""

    @property
    def over(self) -> bool:
        """Nothing more comes of this machine; in CHUNKS the upload itself goes on."""
        return self.state in (SlotUploaderState.DONE, SlotUploaderState.FAILED, SlotUploaderState.CHUNKS)

    @property
    def plain(self) -> Begin:
        """The same upload without a slot."""
        begin = replace(self.begin, host_token=None)
        if self._commit is None:
            return begin
        given = {name: getattr(self._commit, name) for name in LAST_WORDS}
        return replace(begin, **{name: value for name, value in given.items() if value is not None})

    def start(self, now: float) -> list[Message]:
        self._since = now
        return [self.begin]

    def filled(self, size: int, now: float) -> list[Message]:
        """The first `size` bytes are in the slot. Said at most every 4 MiB."""
        self._filled = size
        if self.state is not SlotUploaderState.FILLING or size - self._told < FILLED:
            return []
        self._told, self._since = size, now
        return [Filled(upload_id=self.begin.upload_id, size=size)]

    def finish(
        self,
        digest: str,
        now: float,
        *,
        user_data: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        creation_timestamp: int | None = None,
    ) -> list[Message]:
        """The payload is whole, and this is its digest of the kind that `begin` declared; what else is given takes the place of
        what `begin` said."""
        self._filled = self.begin.size
        self._commit = Commit(
            request_id=self.begin.request_id,
            namespace=self.begin.namespace,
            upload_id=self.begin.upload_id,
            digest=digest,
            user_data=user_data,
            metrics=metrics,
            creation_timestamp=creation_timestamp,
        )
        return self._commit_now(now)

    def receive(self, message: Message, now: float) -> list[Message]:
        if self.over:
            return []
        match message:
            case Grant():
                return self._granted(message, now)
            case Credit():
                return self.refuse()
            case Done():
                self.state, self.version = SlotUploaderState.DONE, message.version
                return []
            case Error() if is_forgotten(message):
                return self.refuse()  # Another life of the broadcaster got our commit: it never granted anything.
            case Error() if message.code == UploadAborted.code and self.grant is not None:
                return self.refuse()  # Withdrawn, as nothing was heard of us for long: what is in the slot goes in chunks.
            case Error():
                self.state = SlotUploaderState.FAILED
                self.error = message.to_raise()
                return []
        raise RemoteProtocolError(reason=f"{message.KIND.decode()} does not belong to an upload that is {self.state.value}")

    def refuse(self) -> list[Message]:
        """The slot cannot be used, or there is none: an `Uploader` of `plain` goes on."""
        if not self.over:
            self.state = SlotUploaderState.CHUNKS
        return []

    def abort(self, error: BroadcasterError) -> list[Message]:
        """Gives up, because of `error`. The slot may be granted to others from here on: nothing may be written to it."""
        if self.over:
            return []
        self.state, self.error = SlotUploaderState.FAILED, error
        return [Abort(request_id=self.begin.request_id, namespace=self.begin.namespace, upload_id=self.begin.upload_id)]

    @property
    def deadline(self) -> float | None:
        """When `expire` wants to be called."""
        if self.over or self._since == math.inf:
            return None
        return self._since + (self._keep if self.state is SlotUploaderState.FILLING else self._retry)

    def expire(self, now: float) -> list[Message]:
        """Nothing heard: asks again. While the slot is being filled, nothing is awaited: the grant is kept."""
        if self.deadline is None or now < self.deadline:
            return []
        self._since = now
        if self.state is SlotUploaderState.FILLING:
            return [Filled(upload_id=self.begin.upload_id, size=self._filled)]
        return [self.begin]

    def _granted(self, grant: Grant, now: float) -> list[Message]:
        if self.grant is None:
            self.grant, self.state, self._since = grant, SlotUploaderState.FILLING, now
            return self._commit_now(now)
        if (grant.slot, grant.generation) != (self.grant.slot, self.grant.generation):
            return self.refuse()  # The first one was withdrawn: what is in it goes in chunks.
        return self._commit_now(now) if self.state is SlotUploaderState.COMMITTING else []

    def _commit_now(self, now: float) -> list[Message]:
        if self._commit is None or self.grant is None or self.over:
            return []
        self.state, self._since = SlotUploaderState.COMMITTING, now
        return [self._commit]
