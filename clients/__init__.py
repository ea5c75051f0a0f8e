"""Publish weights from a learner, follow them in actors, read them from the registry.

    with connect("tcp://localhost:5552") as client:
        client.publisher("policy").publish(weights)
        snapshot = client.subscriber("policy").wait(timeout=30)

`clients.aio` has the same for asyncio.
"""

from __future__ import annotations

from broadcaster.protocol.errors import (
    Aborted,
    AccessDenied,
    AlreadyExists,
    BroadcasterError,
    BudgetExceeded,
    Busy,
    Closed,
    Conflict,
    DigestMismatch,
    EventsGone,
    Fenced,
    ForkError,
    InvalidName,
    InvalidPayload,
    InvalidRequest,
    LocalProtocolError,
    MissingDependency,
    NoBroadcaster,
    NoSpace,
    PayloadTooLarge,
    PinsExceeded,
    ProtocolError,
    Refused,
    RemoteProtocolError,
    RequestError,
    RequestTimeout,
    SizeMismatch,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
    TransportError,
    UnknownModel,
    UnknownVersion,
    UnsupportedProtocol,
    VersionDeleted,
    VersionEvicted,
    VersionSuperseded,
)
from broadcaster.protocol.hops import ErrorDetail, Hop
from broadcaster.protocol.keyfile import Key
from broadcaster.protocol.retention import RetentionPolicy
from broadcaster.protocol.subscriber import SubscriberInfo
from broadcaster.protocol.version import DIRECTORY, OPAQUE, TENSORS, ModelInfo, VersionInfo
from clients.client import Client, connect
from clients.draft import Draft
from clients.publisher import AckCounts, Publisher
from clients.registry import Registry, StoredVersion
from clients.retention import PruneResult
from clients.snapshot import Snapshot
from clients.subscriber import Every, Lag, Subscriber, SubscriberStats
from clients.timing import Timed

__all__ = [
    "DIRECTORY",
    "OPAQUE",
    "TENSORS",
    "Aborted",
    "AckCounts",
    "AccessDenied",
    "AlreadyExists",
    "BroadcasterError",
    "BudgetExceeded",
    "Busy",
    "Client",
    "Closed",
    "Conflict",
    "DigestMismatch",
    "Draft",
    "ErrorDetail",
    "EventsGone",
    "Every",
    "Fenced",
    "ForkError",
    "Hop",
    "InvalidName",
    "InvalidPayload",
    "InvalidRequest",
    "Key",
    "Lag",
    "LocalProtocolError",
    "MissingDependency",
    "ModelInfo",
    "NoBroadcaster",
    "NoSpace",
    "PayloadTooLarge",
    "PinsExceeded",
    "ProtocolError",
    "PruneResult",
    "Publisher",
    "Refused",
    "Registry",
    "RemoteProtocolError",
    "RequestError",
    "RequestTimeout",
    "RetentionPolicy",
    "SizeMismatch",
    "Snapshot",
    "StoreCorrupt",
    "StoreError",
    "StoreUnavailable",
    "StoredVersion",
    "Subscriber",
    "SubscriberInfo",
    "SubscriberStats",
    "Timed",
    "TransportError",
    "UnknownModel",
    "UnknownVersion",
    "UnsupportedProtocol",
    "VersionDeleted",
    "VersionEvicted",
    "VersionInfo",
    "VersionSuperseded",
    "connect",
]
