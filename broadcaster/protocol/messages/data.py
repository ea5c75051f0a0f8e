"""Requests and replies of the data channel: everything that can be asked of a broadcaster, each answered once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from broadcaster.protocol.condition import Condition
from broadcaster.protocol.errors import CODES, BroadcasterError, Fact, from_wire
from broadcaster.protocol.hops import ErrorDetail
from broadcaster.protocol.messages.push import Event, some_events, write_events
from broadcaster.protocol.messages.rules import (
    Reply,
    Request,
    a_model,
    a_version,
    fact_map,
    flag,
    identity,
    number_map,
    reference,
    rule,
    some_details,
    some_models,
    some_versions,
    text,
    text_map,
    text_or_nil_map,
    uint,
    uint_map,
    write_details,
    write_value,
    write_values,
)
from broadcaster.protocol.messages.search import some_conditions, write_conditions
from broadcaster.protocol.version import ModelInfo, VersionInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Request):
    """The first request of a client."""

    KIND: ClassVar[bytes] = b"hello"
    client_name: str | None = rule(text, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome(Reply):
    """Where everything is, and which numbers hold here."""

    KIND: ClassVar[bytes] = b"welcome"
    protocol: int = rule(uint)
    epoch: int = rule(uint)
    offset: int = rule(uint)
    server_version: str = rule(text)
    endpoints: Mapping[str, int] = rule(uint_map)
    host: str | None = rule(text, default=None)
    host_token: str | None = rule(text, default=None)
    slot_dir: str | None = rule(text, default=None)
    limits: Mapping[str, int] = rule(uint_map, default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListModels(Request):
    """The models of the namespace in order of name, from the one after `after`."""

    KIND: ClassVar[bytes] = b"list-models"
    after: str | None = rule(text, default=None)
    limit: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Models(Reply):
    """One page; `next` is the `after` of the following one, absent on the last."""

    KIND: ClassVar[bytes] = b"models"
    models: tuple[ModelInfo, ...] = rule(some_models, write_values)
    next: str | None = rule(text, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GetModel(Request):
    """What is known of one model."""

    KIND: ClassVar[bytes] = b"get-model"
    model_id: str = rule(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Reply):
    """One model."""

    KIND: ClassVar[bytes] = b"model"
    model: ModelInfo = rule(a_model, write_value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListVersions(Request):
    """The versions of a model that can be fetched, ascending, from the number after `after`."""

    KIND: ClassVar[bytes] = b"list-versions"
    model_id: str = rule(text)
    after: int | None = rule(uint, default=None)
    limit: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions(Reply):
    """One page; `next` is the `after` of the following one, absent on the last."""

    KIND: ClassVar[bytes] = b"versions"
    versions: tuple[VersionInfo, ...] = rule(some_versions, write_values)
    next: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GetVersion(Request):
    """A version by number (-1 is the newest, -n the n-th newest that can be fetched) or by alias."""

    KIND: ClassVar[bytes] = b"get-version"
    model_id: str = rule(text)
    ref: int | str = rule(reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version(Reply):
    """One version."""

    KIND: ClassVar[bytes] = b"version"
    version: VersionInfo = rule(a_version, write_value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow(Request):
    """What is newest, and up to which event that is known; asked after subscribing."""

    KIND: ClassVar[bytes] = b"follow"
    model_id: str = rule(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class State(Reply):
    """The newest version (absent when there is none), with its payload in the third frame when that is at most 64 KiB."""

    KIND: ClassVar[bytes] = b"state"
    epoch: int = rule(uint)
    offset: int = rule(uint)
    model_offset: int = rule(uint)
    newest: VersionInfo | None = rule(a_version, write_value, default=None)
    slot: str | None = rule(text, default=None)
    generation: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(Request):
    """Bytes of a payload: at most 4 MiB from `offset`. Answered with a chunk for each MiB, not with a map."""

    KIND: ClassVar[bytes] = b"read"
    model_id: str = rule(text)
    number: int = rule(uint)
    offset: int = rule(uint)
    length: int = rule(uint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay(Request):
    """The events after offset `after` of that epoch, of one model or of the whole namespace."""

    KIND: ClassVar[bytes] = b"replay"
    epoch: int = rule(uint)
    after: int = rule(uint)
    model_id: str | None = rule(text, default=None)
    limit: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Events(Reply):
    """One page of the log in order; `next` is the `after` of the following one, absent when the log ends here at `offset`."""

    KIND: ClassVar[bytes] = b"events"
    epoch: int = rule(uint)
    offset: int = rule(uint)
    events: tuple[Event, ...] = rule(some_events, write_events)
    next: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateModel(Request):
    """Makes a model without versions."""

    KIND: ClassVar[bytes] = b"create-model"
    model_id: str = rule(text)
    user_data: Mapping[str, str] = rule(text_map, default_factory=dict)
    tags: Mapping[str, str] = rule(text_map, default_factory=dict)
    exist_ok: bool = rule(flag, default=False)
    description: str | None = rule(text, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateModel(Request):
    """Replaces a model's user data, and its description where that is given."""

    KIND: ClassVar[bytes] = b"update-model"
    model_id: str = rule(text)
    user_data: Mapping[str, str] = rule(text_map)
    description: str | None = rule(text, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteModel(Request):
    """Deletes a model and all its versions; refused while an alias points into it, unless forced."""

    KIND: ClassVar[bytes] = b"delete-model"
    model_id: str = rule(text)
    force: bool = rule(flag, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteVersion(Request):
    """Deletes one version; refused while an alias names it, unless forced."""

    KIND: ClassVar[bytes] = b"delete-version"
    model_id: str = rule(text)
    number: int = rule(uint)
    force: bool = rule(flag, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted(Reply):
    """It is gone, and stays gone after a restart."""

    KIND: ClassVar[bytes] = b"deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive(Request):
    """Persists a transient version for ever. Answered with the version once it is durable."""

    KIND: ClassVar[bytes] = b"archive"
    model_id: str = rule(text)
    ref: int | str = rule(reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAlias(Request):
    """Moves an alias, or removes it where `number` is absent; `expect` makes it compare-and-set (0: no alias yet)."""

    KIND: ClassVar[bytes] = b"set-alias"
    model_id: str = rule(text)
    alias: str = rule(text)
    number: int | None = rule(uint, default=None)
    expect: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTags(Request):
    """Sets tags of a version, or of the model where `number` is absent; a nil value removes the tag."""

    KIND: ClassVar[bytes] = b"set-tags"
    model_id: str = rule(text)
    number: int | None = rule(uint, default=None)
    tags: Mapping[str, str | None] = rule(text_or_nil_map)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddMetrics(Request):
    """Adds metrics to a version, or overwrites those of the same name."""

    KIND: ClassVar[bytes] = b"add-metrics"
    model_id: str = rule(text)
    number: int = rule(uint)
    metrics: Mapping[str, float] = rule(number_map)


@dataclass(frozen=True, slots=True, kw_only=True)
class Best(Request):
    """Of the versions for which all of `where` holds, the one with the greatest (`max`) or least (`min`) value of a metric;
    ties go to the newest, NaN never wins."""

    KIND: ClassVar[bytes] = b"best"
    model_id: str = rule(text)
    metric: str = rule(text)
    mode: str = rule(text, default="max")
    where: tuple[Condition, ...] | None = rule(some_conditions, write_conditions, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GetStats(Request):
    """The broadcaster's counters and gauges."""

    KIND: ClassVar[bytes] = b"get-stats"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(Reply):
    """Counters and gauges by name."""

    KIND: ClassVar[bytes] = b"stats"
    values: Mapping[str, float] = rule(number_map)


@dataclass(frozen=True, slots=True, kw_only=True)
class Error(Reply):
    """No, and why: a stable code, a sentence, and the facts that the sentence was built from."""

    KIND: ClassVar[bytes] = b"error"
    upload_id: bytes | None = rule(identity, default=None)
    code: str = rule(text)
    message: str = rule(text)
    facts: Mapping[str, Fact] = rule(fact_map, default_factory=dict)
    details: tuple[ErrorDetail, ...] | None = rule(some_details, write_details, default=None)

    def to_raise(self) -> BroadcasterError:
        """The typed error that this tells of."""
        error = from_wire(self.code, self.message, dict(self.facts))
        error.request_id, error.details, error.hops = self.request_id.hex(), self.details or (), self.hops or ()
        if self.code not in CODES and error.details:
            error.retryable = error.details[-1].retryable  # A newer peer knows more about its codes than we do.
        return error
