"""How an error is told over gRPC: the only table from errors to status codes."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from broadcaster.protocol.errors import (
    Aborted,
    AccessDenied,
    BroadcasterError,
    BudgetExceeded,
    Busy,
    Closed,
    DigestMismatch,
    Fenced,
    InvalidName,
    InvalidPayload,
    InvalidRequest,
    NoBroadcaster,
    NoSpace,
    PayloadTooLarge,
    Refused,
    RequestError,
    RequestTimeout,
    SizeMismatch,
    StoreCorrupt,
    StoreUnavailable,
    TransportError,
    UnknownModel,
    UnknownVersion,
)

STATUS: Sequence[tuple[type[BroadcasterError], grpc.StatusCode]] = (
    (UnknownModel, grpc.StatusCode.NOT_FOUND),
    (UnknownVersion, grpc.StatusCode.NOT_FOUND),
    (InvalidName, grpc.StatusCode.INVALID_ARGUMENT),
    (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (InvalidPayload, grpc.StatusCode.INVALID_ARGUMENT),
    (SizeMismatch, grpc.StatusCode.INVALID_ARGUMENT),
    (DigestMismatch, grpc.StatusCode.INVALID_ARGUMENT),
    (PayloadTooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (BudgetExceeded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (NoSpace, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Busy, grpc.StatusCode.UNAVAILABLE),
    (AccessDenied, grpc.StatusCode.PERMISSION_DENIED),
    (Refused, grpc.StatusCode.FAILED_PRECONDITION),
    (Fenced, grpc.StatusCode.FAILED_PRECONDITION),
    (Aborted, grpc.StatusCode.ABORTED),
    (StoreCorrupt, grpc.StatusCode.DATA_LOSS),
    (StoreUnavailable, grpc.StatusCode.UNAVAILABLE),
    (RequestTimeout, grpc.StatusCode.DEADLINE_EXCEEDED),
    (NoBroadcaster, grpc.StatusCode.UNAVAILABLE),
    (Closed, grpc.StatusCode.UNAVAILABLE),
    (TransportError, grpc.StatusCode.UNAVAILABLE),
    (RequestError, grpc.StatusCode.FAILED_PRECONDITION),
    (BroadcasterError, grpc.StatusCode.INTERNAL),
)
"""The status by class of error; the first that fits."""


class Refusal(Exception):
    """What the interface itself refuses, with the status that it names for that."""

    def __init__(self, status: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


def malformed(sentence: str) -> Refusal:
    """A request that says nothing that could be done."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, sentence)


def status_of(error: BroadcasterError) -> grpc.StatusCode:
    """The status that fits an error."""
    return next(status for kind, status in STATUS if isinstance(error, kind))


def told(error: BroadcasterError) -> str:
    """The sentence that goes with the status."""
    return f"{error} ({error.code})"
