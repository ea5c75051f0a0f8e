"""What the routes answer, as OpenAPI 3.1: schemas written by hand, routes from their table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from broadcaster import __version__
from broadcaster.protocol.limits import PAGE as MOST
from broadcaster.protocol.names import DEFAULT_NAMESPACE, PATTERN
from broadcaster.web.limits import PAGE

if TYPE_CHECKING:
    from broadcaster.web.routes import Route

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_FLAG: Schema = {"type": "boolean"}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}
_NAME: Schema = {"type": "string", "pattern": f"^{PATTERN}$"}
_SECONDS: Schema = {"type": "number", "minimum": 0}


def _or_null(schema: Schema) -> Schema:
    return schema | {"type": [schema["type"], "null"]}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None, **more: Any) -> Schema:
    closed = {"type": "object", "required": sorted(required), "additionalProperties": False}
    return closed | {"properties": required | (optional or {})} | more


def _page(name: str, of: str) -> Schema:
    following = _or_null(_TEXT) | {"description": "`after` of the next page; null: this was the last"}
    return _object({name: {"type": "array", "items": _ref(of)}, "next": following})


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_VERSION: dict[str, Schema] = {
    "namespace": _NAME,
    "model_id": _NAME,
    "number": {"type": "integer", "minimum": 1},
    "size": _WHOLE | {"description": "bytes"},
    "digest": {"type": "string", "pattern": "^[0-9a-f]{32}$", "description": "xxh3-128 of the payload"},
    "sha256": {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$", "description": "null until it is known"},
    "content_type": _TEXT,
    "archived": _FLAG,
    "pinned": _FLAG,
    "metrics": {
        "type": "object",
        "additionalProperties": {"type": ["number", "string"]},
        "description": "a value that is not finite is text: NaN, Infinity, -Infinity",
    },
    "tags": _TEXTS,
    "user_data": _TEXTS,
    "description": _TEXT,
    "creation_timestamp": _WHOLE | {"description": "nanoseconds since 1970"},
    "created": _or_null(_TEXT) | {"description": "the same in UTC, as ISO 8601, to the millisecond"},
    "data": _TEXT | {"description": "where the payload is"},
}

SCHEMAS: dict[str, Schema] = {
    "Problem": _object(
        {"type": _TEXT, "title": _TEXT, "status": _WHOLE, "code": _TEXT, "detail": _TEXT, "request_id": _TEXT},
        {"facts": {"type": "object"}, "retryable": _FLAG},
        description="RFC 9457. `code` is stable: those of docs/protocol.md, and a few of HTTP's own",
    ),
    "Health": _object(
        {
            "ready": _FLAG,
            "checks": {
                "type": "array",
                "items": _object({"name": _TEXT, "ok": _FLAG, "latency_ms": _SECONDS}, {"detail": _TEXT}),
            },
        }
    ),
    "Model": _object(
        {
            "namespace": _NAME,
            "model_id": _NAME,
            "newest": {"type": ["integer", "null"], "minimum": 1, "description": "newest version that can be fetched"},
            "versions": _WHOLE | {"description": "how many there are"},
            "aliases": {"type": "object", "additionalProperties": _WHOLE},
            "tags": _TEXTS,
            "user_data": _TEXTS,
            "description": _TEXT,
            "retention": {"type": "object", "description": "which archived versions are kept; empty: all"},
            "creation_timestamp": _WHOLE,
            "created": _or_null(_TEXT),
        }
    ),
    "Models": _page("models", "Model"),
    "Version": _object(_VERSION | {"aliases": {"type": "array", "items": _NAME}}),
    "Versions": _page("versions", "Version"),
    "Subscriber": _object(
        {
            "subscriber": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
            "name": _or_null(_TEXT),
            "received": _WHOLE | {"description": "highest number that is verified and visible there; 0: none"},
            "applied": _WHOLE | {"description": "highest number that was handed to its user; 0: none"},
            "lag": _WHOLE | {"description": "versions newer than the one applied"},
            "lag_seconds": _SECONDS,
            "seen_seconds": _SECONDS | {"description": "how long ago it was heard"},
        }
    ),
    "Subscribers": _page("subscribers", "Subscriber"),
    "Address": _object({"host": _or_null(_TEXT), "data_port": _WHOLE}, description="where clients connect"),
    "Disk": _object(
        {"ok": _FLAG, "free_bytes": _or_null(_WHOLE), "size_bytes": _or_null(_WHOLE)}, description="where the archive lies"
    ),
    "Stats": _object(
        {
            "epoch": _WHOLE,
            "offset": _WHOLE,
            "server_version": _TEXT,
            "values": {"type": "object", "additionalProperties": _NUMBER, "description": "the core's counters and gauges"},
            "per_second": {"type": "object", "additionalProperties": _or_null(_NUMBER), "description": "over some seconds"},
            "quantiles": {
                "type": "object",
                "additionalProperties": _object(
                    {"count": _WHOLE, "p50_seconds": _or_null(_NUMBER), "p99_seconds": _or_null(_NUMBER)}
                ),
                "description": "of the core's histograms over the last minute",
            },
        }
    ),
    "Event": _object(
        {"epoch": _WHOLE, "offset": _WHOLE, "event": _TEXT, "namespace": _NAME, "model_id": _NAME},
        {"number": _WHOLE, "version": _object(_VERSION), "evicted": {"type": "array", "items": _WHOLE}, "alias": _NAME},
    ),
    "OpenAPI": {"type": "object", "required": ["openapi", "info", "paths"]},
}

PARAMETERS: dict[str, Schema] = {
    "namespace": {"schema": _NAME | {"default": DEFAULT_NAMESPACE}},
    "after": {"schema": _TEXT, "description": "what was `next` on the page before; of events, the id of the last one seen"},
    "limit": {"schema": {"type": "integer", "minimum": 1, "maximum": MOST, "default": PAGE}},
    "order": {"schema": {"type": "string", "enum": ["asc", "desc"], "default": "asc"}},
    "model": {"schema": _NAME, "description": "events of this model only"},
    "token": {"schema": _TEXT, "description": "is exchanged for a cookie"},
}
PLACES: dict[str, Schema] = {
    "model": {"schema": _NAME},
    "ref": {"schema": _TEXT, "description": "a number, -n for the n-th newest, `latest`, or an alias"},
    "name": {"schema": _TEXT},
}


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "model-broadcaster", "version": __version__},
        "paths": {route.path: _path(route) for route in routes},
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _path(route: Route) -> Schema:
    told = {
        "summary": (route.handler.__doc__ or "").strip().partition("\n")[0],
        "parameters": [
            *({"name": name, "in": "path", "required": True} | PLACES[name] for name in re.findall(r"\{(\w+)\}", route.path)),
            *({"name": name, "in": "query"} | PARAMETERS[name] for name in route.parameters),
        ],
        "responses": {str(status): _response(status, what) for status, what in sorted(route.answers.items())},
        "security": [] if route.role is None else [{"token": []}],
    }
    name = re.sub(r"\W+", "-", route.path).strip("-") or "index"
    methods = {"get": told | {"operationId": f"get-{name}"}}
    return methods | ({"head": told | {"operationId": f"head-{name}"}} if route.head else {})


def _response(status: int, what: str) -> Schema:
    told: Schema = {"description": HTTPStatus(status).phrase}
    if what in SCHEMAS:
        told["content"] = {content_type(what): {"schema": _ref(what)}}
    elif what:
        told["content"] = {what: {"schema": _TEXT}}
    return told


def content_type(schema: str) -> str:
    return "application/problem+json" if schema == "Problem" else "application/json"
