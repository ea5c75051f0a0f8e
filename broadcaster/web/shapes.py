"""What models, versions, subscribers and events look like as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from broadcaster.protocol.messages import Event
from broadcaster.protocol.subscriber import SubscriberInfo
from broadcaster.protocol.version import ModelInfo, VersionInfo


def of_model(model: ModelInfo) -> dict[str, Any]:
    """A model. `newest` is the number of its newest version, null for none."""
    return {
        "namespace": model.namespace,
        "model_id": model.model_id,
        "newest": model.newest,
        "versions": model.versions,
        "aliases": dict(model.aliases),
        "tags": dict(model.tags),
        "user_data": dict(model.user_data),
        "description": model.description,
        "retention": dict(model.retention),
        "creation_timestamp": model.creation_timestamp,
        "created": of_time(model.creation_timestamp),
    }


def of_version(version: VersionInfo, aliases: Mapping[str, int]) -> dict[str, Any]:
    """A version, with those of the model's aliases that name it, and where its payload is."""
    place = f"/v1/models/{quote(version.model_id)}/versions/{version.number}/data?namespace={quote(version.namespace)}"
    return {
        "namespace": version.namespace,
        "model_id": version.model_id,
        "number": version.number,
        "size": version.size,
        "digest": version.digest,
        "sha256": version.sha256,
        "content_type": version.content_type,
        "archived": version.archived,
        "pinned": version.pinned,
        "aliases": sorted(alias for alias, number in aliases.items() if number == version.number),
        "metrics": {name: of_number(value) for name, value in version.metrics.items()},
        "tags": dict(version.tags),
        "user_data": dict(version.user_data),
        "description": version.description,
        "creation_timestamp": version.creation_timestamp,
        "created": of_time(version.creation_timestamp),
        "data": place,
    }


def of_subscriber(one: SubscriberInfo) -> dict[str, Any]:
    """A subscriber, and how far it is: `lag` in versions, times in seconds."""
    return {
        "subscriber": one.subscriber.hex(),
        "name": one.name,
        "received": one.received,
        "applied": one.applied,
        "lag": one.lag,
        "lag_seconds": one.lag_ms / 1000,
        "seen_seconds": one.seen_ms / 1000,
    }


def of_event(event: Event) -> dict[str, Any]:
    """An event; members that do not concern its kind are left out."""
    told: dict[str, Any] = {
        "epoch": event.epoch,
        "offset": event.offset,
        "event": event.event,
        "namespace": event.namespace,
        "model_id": event.model_id,
    }
    if event.number is not None:
        told["number"] = event.number
    if event.version is not None:
        told["version"] = {name: value for name, value in of_version(event.version, {}).items() if name != "aliases"}
    if event.evicted:
        told["evicted"] = list(event.evicted)
    if event.alias is not None:
        told["alias"] = event.alias
    return told


def of_number(value: float) -> float | str:
    """A number; as text ("NaN", "Infinity", "-Infinity") where JSON has none for it."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def of_time(nanoseconds: int) -> str | None:
    """A time since 1970 as people and browsers read it, in UTC; null where it is none that a calendar has."""
    try:
        return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None
