"""The conversation on the upload channel: a learner's payload becomes a version. docs/protocol.md draws it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from broadcaster.protocol.messages.rules import (
    XXH3,
    Message,
    Reply,
    Request,
    a_version,
    flag,
    identity,
    number_map,
    rule,
    text,
    text_map,
    uint,
    write_value,
)
from broadcaster.protocol.version import OPAQUE, VersionInfo

LAST_WORDS = ("user_data", "metrics", "creation_timestamp")
"""Fields of a version that `begin` says, and `commit` or a later `begin` may say otherwise."""
AS_IT_LIES = ""
"""Instead of a digest, in the commit of a slot: what lies there is the payload, whatever it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin(Request):
    """A payload is about to come; asked again with the same upload id, it resumes or names the version that came of it."""

    KIND: ClassVar[bytes] = b"begin"
    model_id: str = rule(text)
    upload_id: bytes = rule(identity)
    size: int = rule(uint)
    digest_kind: str = rule(text, default=XXH3)
    archived: bool = rule(flag, default=False)
    content_type: str = rule(text, default=OPAQUE)
    user_data: Mapping[str, str] = rule(text_map, default_factory=dict)
    metrics: Mapping[str, float] = rule(number_map, default_factory=dict)
    creation_timestamp: int | None = rule(uint, default=None)
    host_token: str | None = rule(text, default=None)
    term: int | None = rule(uint, default=None)
    number: int | None = rule(uint, default=None)
    """The number that this payload had as a version in an earlier life of the broadcaster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(Reply):
    """Instead of credit, to a learner on the host: the payload goes into this slot, right behind its header."""

    KIND: ClassVar[bytes] = b"grant"
    upload_id: bytes = rule(identity)
    slot: str = rule(text)
    generation: int = rule(uint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled(Message):
    """The first `size` bytes of the payload are in the granted slot. Not answered."""

    KIND: ClassVar[bytes] = b"filled"
    upload_id: bytes = rule(identity)
    size: int = rule(uint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit(Reply):
    """Chunks with an index below `until` may be sent; `received` are held; with `rewind` sending goes back to `received`."""

    KIND: ClassVar[bytes] = b"credit"
    upload_id: bytes = rule(identity)
    received: int = rule(uint)
    until: int = rule(uint)
    rewind: bool = rule(flag, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit(Request):
    """All chunks are sent, and this is the digest of the payload in lower-case hex."""

    KIND: ClassVar[bytes] = b"commit"
    upload_id: bytes = rule(identity)
    digest: str = rule(text)
    user_data: Mapping[str, str] | None = rule(text_map, default=None)
    metrics: Mapping[str, float] | None = rule(number_map, default=None)
    creation_timestamp: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish(Begin):
    """Begin, the payload (at most 1 MiB, in the third frame) and Commit in one message."""

    KIND: ClassVar[bytes] = b"publish"
    digest: str = rule(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Reply):
    """The version exists, as durable as was asked."""

    KIND: ClassVar[bytes] = b"done"
    upload_id: bytes = rule(identity)
    version: VersionInfo = rule(a_version, write_value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort(Request):
    """The client gives the upload up."""

    KIND: ClassVar[bytes] = b"abort"
    upload_id: bytes = rule(identity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted(Reply):
    """The upload is forgotten."""

    KIND: ClassVar[bytes] = b"aborted"
    upload_id: bytes = rule(identity)
