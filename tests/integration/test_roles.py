"""Every request, by every role, for every kind of model, over real sockets: what stands in no row is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from broadcaster.protocol.keyfile import parse_key
from broadcaster.protocol.messages import KINDS, Request
from broadcaster.security import Grant, KeyDirectory
from tests.bare_peer import heard
from tests.broadcaster_process import BroadcasterProcess

VECTORS = Path(__file__).parent.parent / "conformance" / "vectors"
ROLES = {
    "actor": {"follow", "read"},
    "relay": {"follow", "read"},
    "learner": {"follow", "read", "publish"},
    "admin": {"follow", "read", "publish", "administer"},
}
VERBS = {
    "anybody": ["hello", "ping", "get-stats"],
    "follow": ["follow", "replay"],
    "read": [
        *("read", "get-version", "get-model", "list-models", "list-versions", "best", "search", "await-acks", "list-subscribers"),
    ],
    "publish": [
        *("begin", "publish", "take-term", "create-model", "update-model", "describe", "set-tags", "add-metrics", "set-alias"),
        *("archive", "pin"),
    ],
    "administer": ["delete-version", "set-retention", "prune", "give-up-term", "delete-model"],
}
"""As docs/security.md has it. A `commit` and an `abort` are their upload's, and are tested with that."""
OF_UPLOAD = {"begin", "publish"}
WHOLE = {"list-models", "search", "replay"}
"""Asked without a model, they are about the whole namespace."""
MODELS = [("default", "policy-a"), ("default", "value"), ("lab", "policy-a"), ("default", None)]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    directory = tmp_path_factory.mktemp("roles")
    keys = KeyDirectory(directory / "archive" / "keys")
    for role in ROLES:
        keys.make(role, Grant(role, "default", "policy-*"))
        keys.make(f"{role}-of-all", Grant(role, "*", "*"))
    with BroadcasterProcess(directory) as process:
        yield process


def request(kind: str, namespace: str, model: str | None) -> dict[str, Any]:
    """The fields that such a request must have, as they are frozen, for that model."""
    bare = json.loads((VECTORS / f"{kind}.json").read_text())["vectors"]["bare"]
    fields: dict[str, Any] = msgpack.unpackb(bytes.fromhex(bare["map"]))
    fields |= {name: os.urandom(16) for name in ("request_id", "upload_id", "publisher") if name in fields}
    fields |= {"namespace": namespace, "budget_ms": 200}
    if model is not None:
        fields["model_id"] = model
    return fields


def allowed(who: str, kind: str, namespace: str, model: str | None) -> bool:
    verb = next(verb for verb, kinds in VERBS.items() if kind in kinds)
    role = who.removesuffix("-of-all")
    if verb == "anybody":
        return True
    fits = who != role or (namespace == "default" and model is not None and model.startswith("policy-"))
    return verb in ROLES[role] and fits


def test_every_request_of_the_protocol_is_looked_at() -> None:
    known = {name.decode() for name, kind in KINDS.items() if issubclass(kind, Request)}
    assert known == {kind for kinds in VERBS.values() for kind in kinds} | {"commit", "abort"}


@pytest.mark.parametrize("who", [name for role in ROLES for name in (role, f"{role}-of-all")])
def test_each_role_may_make_the_requests_of_its_row_and_no_other(keyed: BroadcasterProcess, who: str) -> None:
    key = parse_key((keyed.archive_dir / "keys" / f"{who}.key").read_text(), who)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    found, wanted = {}, {}
    try:
        lines = {}
        for channel in ("upload", "data"):
            lines[channel] = one = context.socket(zmq.DEALER)
            one.linger = 0
            one.curve_publickey, one.curve_secretkey = key.public.encode(), key.secret.encode()
            one.curve_serverkey = key.server.encode()
            one.connect(keyed.ready[channel])
        for namespace, model in MODELS:
            for kind in [kind for kinds in VERBS.values() for kind in kinds]:
                if model is None and kind not in WHOLE or model is not None and kind == "list-models":
                    continue
                line, envelope = (lines["upload"], 0) if kind in OF_UPLOAD else (lines["data"], 1)
                fields = request(kind, namespace, model)
                line.send_multipart([b""] * envelope + [kind.encode(), msgpack.packb(fields)])
                said = heard(line, f"an answer to {kind}", 10, envelope=envelope)
                while said.fields["request_id"] != fields["request_id"]:  # More of what came of an upload before.
                    said = heard(line, f"an answer to {kind}", 10, envelope=envelope)
                found[kind, namespace, model] = said.code != "access-denied"
                wanted[kind, namespace, model] = allowed(who, kind, namespace, model)
        assert found == wanted
    finally:
        context.destroy(linger=0)
