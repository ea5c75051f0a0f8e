"""Writes the vector files that are not there yet. A file that is there is never changed: old bytes must decode for ever.

    python -m tests.conformance.make_vectors

One file for each kind of message, and one each for chunk headers and slot headers. A vector is the hex of the bytes on the wire
and the fields that they mean; bytes among the fields are written as {"hex": ...}. The three vectors of a message:

- `bare`: only the fields that must be there, as a small program might send it;
- `minimal`: the same as our own encoder writes it, defaults spelled out;
- `full`: every field.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import msgpack

from broadcaster.protocol.condition import Condition
from broadcaster.protocol.frames import ChunkHeader, encode
from broadcaster.protocol.hops import ErrorDetail, Hop
from broadcaster.protocol.limits import CHUNK
from broadcaster.protocol.messages import KINDS, Event, Message, acks, push, rules, search
from broadcaster.protocol.slot import SlotHeader
from broadcaster.protocol.subscriber import SubscriberInfo
from broadcaster.protocol.version import ModelInfo, VersionInfo

FOLDER = Path(__file__).parent / "vectors"
ID = bytes(range(16))
DIGEST = "99aa06d3014798d86001c324468d497f"

VERSION = VersionInfo(
    namespace="lab",
    model_id="policy",
    number=1205,
    size=67108864,
    digest=DIGEST,
    creation_timestamp=1_700_000_000_123_456_789,
    archived=True,
    sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    content_type="application/vnd.safetensors",
    user_data={"step": "1000"},
    metrics={"return": 212.5},
    tags={"stage": "smoke"},
    description="naïve ✓",
    pinned=True,
)
MODEL = ModelInfo(
    namespace="lab",
    model_id="policy",
    user_data={"task": "CartPole-v1"},
    tags={"team": "red"},
    aliases={"champion": 1200},
    newest=1205,
    versions=17,
    creation_timestamp=1_700_000_000_000_000_000,
    description="What it is for.",
    retention={"keep_last": 5, "metric": "return", "nothing": None},
)
EVENT = Event(
    epoch=3,
    offset=41,
    previous=40,
    namespace="lab",
    model_id="policy",
    event="published",
    number=1205,
    version=VERSION,
    evicted=(1190, 1191),
    transfer=ID,
    attempt=1,
)
SAMPLES: dict[Any, Any] = {
    rules.uint: 4711,
    rules.text: "naïve ✓",
    rules.flag: True,
    rules.identity: ID,
    rules.reference: -2,
    rules.text_map: {"key": "value"},
    rules.text_or_nil_map: {"old": None, "new": "value"},
    rules.number_map: {"loss": 0.25},
    rules.uint_map: {"upload": 5550},
    rules.uint_list: (1, 65535, (1 << 63) - 1),
    rules.fact_map: {"text": "a", "integer": -1, "float": 1.5, "bool": True, "nil": None},
    rules.a_version: VERSION,
    rules.a_model: MODEL,
    rules.some_versions: (VERSION,),
    rules.some_models: (MODEL,),
    push.some_events: (EVENT,),
    search.some_conditions: (
        Condition(field="metrics.return", op=">=", value=200.5),
        Condition(field="tags.stage", op="=", value="naïve ✓"),
        Condition(field="archived", op="!=", value=False),
        Condition(field="alias", op="exists"),
    ),
    acks.some_subscribers: (
        SubscriberInfo(subscriber=ID, name="node-7:4711 ✓", received=1205, applied=1203, lag=2, lag_ms=1500, seen_ms=40),
        SubscriberInfo(subscriber=ID[::-1], received=0, applied=0, lag=1, lag_ms=0, seen_ms=29999),
    ),
    rules.some_hops: (Hop(node="lab-7", role="broadcaster", received=1_700_000_000_123_456_789, sent=1, queued=250_000),),
    rules.some_details: (
        ErrorDetail(node="lab-7", role="broadcaster", error_class="OSError", message="no", retryable=False, traceback="at 1"),
        ErrorDetail(node="lab-7", role="broadcaster", error_class="StoreUnavailable", message="naïve ✓", retryable=True),
    ),
}
"""A value for each rule."""


def with_fields(kind: type[Message], *, full: bool) -> Message:
    """A message with every field, or with those that must be there."""
    given = {rule.name: SAMPLES[rule.check] for rule in kind.RULES}
    if "protocol" in given:
        given["protocol"] = 1
    needed = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    message: Message = kind(**{name: value for name, value in given.items() if full or name in needed})
    return message


def bare(kind: type[Message]) -> bytes:
    """The map of a message with nothing in it that could be left out."""
    written = with_fields(kind, full=False).write()
    needed = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    packed: bytes = msgpack.packb({name: value for name, value in written.items() if name in needed})
    return packed


def plain(value: Any) -> Any:
    """`value` as JSON can say it."""
    match value:
        case bytes():
            return {"hex": value.hex()}
        case dict():
            return {key: plain(one) for key, one in value.items()}
        case list() | tuple():
            return [plain(one) for one in value]
    return value


def of_kind(kind: type[Message]) -> dict[str, Any]:
    minimal, full = with_fields(kind, full=False), with_fields(kind, full=True)
    packed = {"bare": bare(kind), "minimal": encode(minimal)[1], "full": encode(full)[1]}
    meant = {"bare": minimal, "minimal": minimal, "full": full}
    return {
        "kind": kind.KIND.decode(),
        "vectors": {name: {"map": packed[name].hex(), "fields": plain(meant[name].write())} for name in packed},
    }


HEADERS = {
    "first chunk": ChunkHeader(ID, 3 * CHUNK + 5, 0, CHUNK),
    "last chunk, second attempt": ChunkHeader(ID, 3 * CHUNK + 5, 3 * CHUNK, 5, 1),
    "with its digest": ChunkHeader(ID, 1000, 0, 1000, 0, bytes.fromhex(DIGEST)),
    "largest values": ChunkHeader(b"\xff" * 16, (1 << 63) - 1, (1 << 63) - 2, 1, (1 << 32) - 1, b"\xff" * 16),
    "nothing": ChunkHeader(ID, 0, 0, 0),
}
SLOTS = {
    "a version": SlotHeader(3, 1205, 67108864, bytes.fromhex(DIGEST), 17, "lab/policy"),
    "longest name": SlotHeader(1, 1, 1, bytes(16), 0, "n" * 128 + "/" + "m" * 128),
}


EVERY_REQUEST, EVERY_REPLY = ("timing",), ("hops",)
"""Fields that all requests and all replies got later: frozen with a few of them."""
LATER: dict[str, dict[str, tuple[str, ...]]] = {
    "slots": {
        "begin": ("host_token",),
        "publish": ("host_token",),
        "commit": ("user_data", "metrics", "creation_timestamp"),
        "welcome": ("slot_dir",),
        "event": ("slot", "generation"),
        "state": ("slot", "generation"),
    },
    "again": {
        "begin": ("number",),
        "publish": ("number",),
    },
    "age": {
        "ack": ("age_us",),
    },
    "pace": {
        "beacon": ("ack_ms",),
    },
    "terms": {
        "begin": ("term",),
        "publish": ("term",),
    },
    "timing": {
        "begin": EVERY_REQUEST,
        "done": EVERY_REPLY,
        "error": (*EVERY_REPLY, "details"),
        "get-stats": EVERY_REQUEST,
        "stats": EVERY_REPLY,
    },
    "search": {
        "create-model": ("description",),
        "update-model": ("description",),
        "best": ("where",),
        "version": (),
        "model": (),
    },
}
"""Fields that came after the vectors of their kinds were frozen, by what brought them: `full` again, in `KIND+slots.json`."""


def with_later_fields(kind: type[Message], brought_by: str) -> dict[str, Any]:
    made = of_kind(kind)
    return {"kind": made["kind"], "vectors": {f"full with {brought_by}": made["vectors"]["full"]}}


def of_headers(headers: dict[str, Any]) -> dict[str, Any]:
    return {
        "vectors": {
            name: {"bytes": header.pack().hex(), "fields": {one.name: plain(getattr(header, one.name)) for one in fields(header)}}
            for name, header in headers.items()
        }
    }


def main() -> None:
    wanted = {kind.decode(): of_kind(KINDS[kind]) for kind in sorted(KINDS)}
    wanted |= {f"{kind}+{by}": with_later_fields(KINDS[kind.encode()], by) for by, kinds in LATER.items() for kind in kinds}
    wanted |= {"chunk-header": of_headers(HEADERS), "slot-header": of_headers(SLOTS)}
    for name, content in wanted.items():
        path = FOLDER / f"{name}.json"
        if path.exists():
            print(f"kept {path.name}")
            continue
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
