"""How an error is told over HTTP: application/problem+json with its code, and the status that fits it."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from broadcaster.protocol.errors import (
    AccessDenied,
    AlreadyExists,
    BroadcasterError,
    Busy,
    Closed,
    Conflict,
    EventsGone,
    InvalidName,
    InvalidRequest,
    NoBroadcaster,
    NoSpace,
    Refused,
    RemoteProtocolError,
    RequestError,
    RequestTimeout,
    StoreUnavailable,
    TransportError,
    UnknownModel,
    UnknownVersion,
    VersionDeleted,
    VersionEvicted,
)

STATUS: tuple[tuple[type[BroadcasterError], int], ...] = (
    (VersionEvicted, 410),
    (VersionDeleted, 410),
    (EventsGone, 410),
    (UnknownModel, 404),
    (UnknownVersion, 404),
    (InvalidName, 400),
    (InvalidRequest, 400),
    (AccessDenied, 403),
    (AlreadyExists, 409),
    (Conflict, 409),
    (Refused, 409),
    (NoSpace, 507),
    (Busy, 503),
    (RequestTimeout, 504),
    (NoBroadcaster, 503),
    (Closed, 503),
    (TransportError, 503),
    (StoreUnavailable, 503),
    (RemoteProtocolError, 502),
    (RequestError, 422),
    (BroadcasterError, 500),
)
"""The status by class of error; the first that fits."""

CODES = {
    400: "bad-request",
    401: "token-needed",
    403: "access-denied",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    413: "body-too-large",
    414: "target-too-long",
    416: "range-not-satisfiable",
    421: "misdirected-request",
    429: "too-many",
    431: "headers-too-large",
    500: "internal-error",
    503: "unavailable",
}
"""Codes of what HTTP itself refuses; all others are those of the protocol."""


class Problem(Exception):
    """What HTTP itself refuses."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


def status_of(error: BroadcasterError) -> int:
    """The status that fits an error."""
    return next(status for kind, status in STATUS if isinstance(error, kind))


def problem(status: int, code: str, detail: str, request_id: str, **more: Any) -> JSONResponse:
    """The response; `more` are further members."""
    told = {"type": "about:blank", "title": _title(status), "status": status, "code": code, "detail": detail}
    headers = {"Cache-Control": "no-store"}
    return JSONResponse(
        told | {"request_id": request_id} | more, status_code=status, media_type="application/problem+json", headers=headers
    )


def problem_of(error: BroadcasterError, request_id: str) -> JSONResponse:
    """What the core, or our client of it, refused."""
    status = status_of(error)
    told = problem(status, error.code, str(error), request_id, facts=error.facts, retryable=error.retryable)
    if status == 503:
        told.headers["Retry-After"] = "1"
    return told


def _title(status: int) -> str:
    return http.HTTPStatus(status).phrase
