"""Every way in which a request can end badly, each with a stable code and the facts that explain it.

An error is made from named facts only: `PayloadTooLarge(model_id="policy", size=9, limit=8)`. The sentence is built from
them, the facts are attributes, and both travel on the wire as `code` + `facts`, so that the class a client raises is the
class the broadcaster meant. Where a built-in exists that a user would catch (`LookupError`, `TimeoutError`, ...), the class
inherits it too.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from broadcaster.protocol.hops import ErrorDetail, Hop

Fact = str | int | float | bool | None

_FIELD = re.compile(r"\{(\w+)\}")


class BroadcasterError(Exception):
    """The root of all errors of this product. `code` is stable and kebab-case: on the wire, in logs, in metrics."""

    code: ClassVar[str] = "error"
    sentence: ClassVar[str] = "{reason}"
    retryable: bool = False
    """Whether the same request may succeed later without a change by the caller."""
    request_id: str | None = None
    """The request that this answers, in hex: what the broadcaster's log calls it. None when no request was made."""
    details: tuple[ErrorDetail, ...] = ()
    """What led to it where it happened, innermost first. Empty when it was not a broadcaster that said it."""
    hops: tuple[Hop, ...] = ()
    """Where the request was, when that was asked for; the node that refused it is the first."""

    def __init__(self, /, **facts: Fact) -> None:
        for name, value in facts.items():
            if not hasattr(type(self), name):  # A peer names its facts as it likes: none hides what an error is made of.
                setattr(self, name, value)
        self.facts: dict[str, Fact] = facts
        super().__init__(_FIELD.sub(lambda field: str(facts.get(field[1], "?")), self.sentence))

    def __reduce__(self) -> tuple[Any, ...]:
        told = {name: value for name in ("retryable", "request_id", "details", "hops") if (value := vars(self).get(name))}
        return _rebuild, (type(self), self.facts, told)

    def __getattr__(self, name: str) -> Any:
        # Reached only for a fact that was not given; known to mypy as "any attribute may exist".
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _FIELD.findall(type(self).sentence):
            return None
        raise AttributeError(f"{type(self).__name__} has no fact {name!r}")


def _rebuild(kind: type[BroadcasterError], facts: dict[str, Fact], told: dict[str, Any]) -> BroadcasterError:
    error = kind(**facts)
    vars(error).update(told)
    return error


# --- the protocol itself -------------------------------------------------------------------------------------------


class ProtocolError(BroadcasterError):
    """The conversation broke its own rules."""

    code = "protocol-error"


class LocalProtocolError(ProtocolError):
    """This process misused the protocol: a bug here."""

    code = "local-protocol-error"


class RemoteProtocolError(ProtocolError, ValueError):
    """The peer broke the rules: its message is rejected or dropped, and the process stays up."""

    code = "remote-protocol-error"


class UnsupportedProtocol(ProtocolError):
    """The peers speak different versions of the protocol."""

    code = "unsupported-protocol"
    sentence = "the peer speaks protocol {theirs}, this side speaks {ours}: upgrade the older one"


# --- a fair request, answered no -----------------------------------------------------------------------------------


class RequestError(BroadcasterError):
    """A fair request, answered no; normal life."""

    code = "request-error"


class UnknownModel(RequestError, LookupError):
    code = "unknown-model"
    sentence = "there is no model {model_id} in namespace {namespace}"


class UnknownVersion(RequestError, LookupError):
    code = "unknown-version"
    sentence = "{model_id}: there is no version {number}"


class VersionEvicted(UnknownVersion):
    """The version existed, was transient, and its memory was given to newer ones."""

    code = "version-evicted"
    sentence = "{model_id}: version {number} was evicted from memory and never archived, or a restart left its number out"


class VersionDeleted(UnknownVersion):
    """The version existed, and somebody, or the model's retention policy, deleted it. It does not come back."""

    code = "version-deleted"
    sentence = "{model_id}: version {number} was deleted"


class VersionSuperseded(RequestError):
    """A `publish_nowait` that had not started when a newer one took its place."""

    code = "version-superseded"
    sentence = "{model_id}: this version was not sent because a newer one took its place"


class AlreadyExists(RequestError):
    code = "already-exists"
    sentence = "{model_id}: {what} already exists"


class Conflict(RequestError):
    """A compare-and-set found something else than expected."""

    code = "conflict"
    sentence = "{model_id}: expected {expected}, found {found}"


class Refused(RequestError):
    """An alias or a pin holds what was to be deleted."""

    code = "refused"
    sentence = "{model_id}: {reason}"


class InvalidName(RequestError, ValueError):
    code = "invalid-name"
    sentence = "{what} {name} is not valid: it must match {pattern}"


class InvalidRequest(RequestError, ValueError):
    """A field is missing, has the wrong type or a value out of range."""

    code = "invalid-request"
    sentence = "{field}: {reason}"


class InvalidPayload(RequestError, ValueError):
    """The payload is not what its content type says, or the weights cannot be represented."""

    code = "invalid-payload"
    sentence = "{where}: {reason}"


class MissingDependency(RequestError, ImportError):
    """An optional library is needed; the sentence names the extra that brings it."""

    code = "missing-dependency"
    sentence = "{what} needs {library}: pip install 'model-broadcaster[{extra}]'"


class DigestMismatch(RequestError, ValueError):
    code = "digest-mismatch"
    sentence = "{model_id}: the payload's {digest_kind} is {found}, but {declared} was declared"


class SizeMismatch(RequestError, ValueError):
    code = "size-mismatch"
    sentence = "{model_id}: {size} bytes were declared, but {found}"


class PayloadTooLarge(RequestError, ValueError):
    code = "payload-too-large"
    sentence = "{model_id}: payload of {size} bytes is over the limit of {limit} bytes ({what})"


class BudgetExceeded(RequestError):
    """The memory budget cannot hold this payload beside what may not be evicted; the facts are the terms of the sum."""

    code = "budget-exceeded"
    retryable = True
    sentence = (
        "{model_id}: payload of {size} bytes does not fit: uploads in flight {in_flight} + newest versions {newest} "
        "+ pinned {pinned} + this payload is over the memory budget of {budget} bytes"
    )


class PinsExceeded(BudgetExceeded):
    """Transient versions may be pinned up to a part of the memory budget, and up to a number."""

    code = "pins-exceeded"
    sentence = (
        "{model_id}: version {number} of {size} bytes cannot be pinned in memory: {count} transient versions of {pinned} bytes "
        "are, and at most {most} of {budget} bytes may be; archive it, or unpin another one"
    )


class NoSpace(RequestError):
    code = "no-space"
    retryable = True
    sentence = "no space for {size} bytes in {where}: free some, or point it elsewhere"


class AccessDenied(RequestError, PermissionError):
    code = "access-denied"
    sentence = "{what} is not allowed: {reason}"


class Busy(RequestError):
    """Load is shed; try again after `retry_after` seconds."""

    code = "busy"
    retryable = True
    sentence = "{what} is busy: try again in {retry_after} s"


class Aborted(RequestError):
    """The upload was given up, by its own client or because it made no progress."""

    code = "aborted"
    retryable = True
    sentence = "{model_id}: the upload was aborted: {reason}"


class EventsGone(RequestError, LookupError):
    """The event log no longer holds what was asked for, or it belongs to another epoch."""

    code = "events-gone"
    sentence = "events after offset {offset} of epoch {epoch} are gone: the log holds {oldest} to {newest} of epoch {current}"


class Fenced(RequestError):
    """Another publisher is the model's only one, or this one's term was given up: `term` is its own, `current` the model's."""

    code = "fenced"
    sentence = (
        "{model_id}: a publisher with term {term} may not publish: the model's term is {current} (0: none); "
        "an exclusive publisher takes over, give-up-term ends it"
    )


# --- the way there -------------------------------------------------------------------------------------------------


class TransportError(BroadcasterError):
    code = "transport-error"
    retryable = True


class RequestTimeout(TransportError, TimeoutError):
    """The deadline passed; for a publication the outcome is unknown, and a retry with the same upload id is safe."""

    code = "request-timeout"
    sentence = "{what} did not finish within {timeout} s"


class NoBroadcaster(TransportError, ConnectionError):
    code = "no-broadcaster"
    sentence = "no broadcaster answered at {address} within {timeout} s: start one with `broadcaster serve`, or check the address"


class Closed(TransportError, ConnectionError):
    code = "closed"
    retryable = False
    sentence = "{what} is closed"


class ForkError(TransportError, RuntimeError):
    code = "fork"
    retryable = False
    sentence = "this {what} was made in process {parent}, before a fork: call connect() again in the child"


# --- the disk ------------------------------------------------------------------------------------------------------


class StoreError(BroadcasterError):
    code = "store-error"
    sentence = "{operation} failed in {where}: {reason}. {hint}"


class StoreUnavailable(StoreError):
    """Retrying may help; health is red until a write works."""

    code = "store-unavailable"
    retryable = True


class StoreCorrupt(StoreError):
    """The digest of what is on disk is wrong; retrying will not help, and the damage is never served."""

    code = "store-corrupt"


# --- starting up ---------------------------------------------------------------------------------------------------


class ConfigError(BroadcasterError, ValueError):
    code = "config"
    sentence = "{key}: {reason}"


class PortInUse(ConfigError):
    code = "port-in-use"
    sentence = "{key}: {address} is in use by another process: choose another port, or 0 to pick a free one"


class DirectoryUnusable(ConfigError):
    """A directory cannot be written, is not a directory, or is in use by another broadcaster."""

    code = "directory-unusable"
    sentence = "{key}: {where} cannot be used: {reason}"


def _all_kinds(kind: type[BroadcasterError]) -> list[type[BroadcasterError]]:
    return [kind] + [found for child in kind.__subclasses__() for found in _all_kinds(child)]


CODES: dict[str, type[BroadcasterError]] = {kind.code: kind for kind in _all_kinds(BroadcasterError)}
"""Class by code; `kind.code` is the way back. A test fails when two classes share a code."""
RETRYABLE = frozenset(code for code, kind in CODES.items() if kind.retryable)
"""Codes after which the same request may succeed later, unchanged."""


def from_wire(code: str, message: str, facts: dict[str, Fact]) -> BroadcasterError:
    """The error that a peer described. An unknown code (a newer peer) becomes a RequestError with the peer's sentence."""
    kind = CODES.get(code)
    if kind is None:
        return RequestError(reason=f"{code}: {message}")
    return kind(**facts)
