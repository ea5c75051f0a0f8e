"""What a client is told when the broadcaster's disk fails: what led to it, and nothing that is only this machine's."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from broadcaster.protocol.errors import CODES
from broadcaster.store import failpoints
from broadcaster.store.archive import Archive
from clients import ErrorDetail, StoreCorrupt, StoreUnavailable, connect
from tests.bare_peer import BarePeer, Said
from tests.broadcaster_process import BroadcasterProcess
from tests.integration.cores import serving

CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("create-model", {"model_id": "new"}),
    ("update-model", {"model_id": "policy", "user_data": {"a": "b"}}),
    ("set-alias", {"model_id": "policy", "alias": "champion", "number": 1}),
    ("set-tags", {"model_id": "policy", "number": 1, "tags": {"a": "b"}}),
    ("add-metrics", {"model_id": "policy", "number": 1, "metrics": {"return": 1.0}}),
    ("archive", {"model_id": "policy", "ref": 2}),
    ("delete-version", {"model_id": "policy", "number": 1, "force": True}),
    ("delete-model", {"model_id": "policy", "force": True}),
]
FAILURES = [(errno.EIO, "sync"), (errno.EIO, "write"), (errno.ENOSPC, "write"), (errno.EACCES, "create"), (errno.EROFS, "rename")]


@contextmanager
def failing(point: str, code: int, directory: Path) -> Iterator[None]:
    """Every step of that name fails, as the kernel says it: with the path."""

    def hook(name: str) -> None:
        if name == point:
            raise OSError(code, os.strerror(code), f"{directory}/archive/somewhere/file")

    failpoints.arm(hook)
    try:
        yield
    finally:
        failpoints.arm(None)


def told(said: Said) -> str:
    """All text of an error. Not its ids, whose random bytes may look like a path."""
    return repr({name: value for name, value in said.fields.items() if not isinstance(value, bytes)})


def refusals(peer: BarePeer) -> dict[str, Said]:
    """What every change, and an archived upload of either size, is told while the disk fails."""
    answers = {kind: peer.ask(kind, **request) for kind, request in CHANGES}
    answers["publish"] = peer.publish("policy", b"three", archived=True)
    answers["begin"] = peer.publish("policy", os.urandom(100 << 10), archived=True)
    return answers


@pytest.mark.parametrize(("code", "point"), FAILURES, ids=lambda value: errno.errorcode.get(value, value))
def test_whatever_the_disk_does_no_path_and_no_traceback_is_told(tmp_path: Path, code: int, point: str) -> None:
    with serving(tmp_path) as (_, peer):
        assert peer.publish("policy", b"one", archived=True).kind == "done"
        assert peer.publish("policy", b"two").kind == "done"
        with failing(point, code, tmp_path):
            answers = refusals(peer)
        refused = {kind: said for kind, said in answers.items() if said.kind == "error"}
        assert len(refused) >= 3, "the disk did fail"
        for kind, said in refused.items():
            assert said.code in ("store-unavailable", "no-space"), (kind, said)
            assert str(tmp_path) not in told(said) and "Traceback" not in told(said) and ".py" not in told(said), (kind, said)
            assert not re.search(r"[\s'\"(]/\w", told(said)), (kind, said)
            details = said.fields["details"]
            assert {(one["node"], one["role"]) for one in details} == {("lab-7", "broadcaster")}
            assert details[-1]["class"] == CODES[said.code].__name__ and details[-1]["retryable"] is True
            assert all("traceback" not in one for one in details)
        chains = [[one["class"] for one in said.fields["details"]] for said in refused.values()]
        assert any(len(chain) > 1 and CODES["store-unavailable"].__name__ not in chain[0] for chain in chains), chains


def test_with_debug_the_details_have_paths_and_tracebacks(tmp_path: Path) -> None:
    with serving(tmp_path, debug=True) as (_, peer), failing("write", errno.EACCES, tmp_path):
        said = peer.publish("policy", b"one", archived=True)
    inner = said.fields["details"][0]
    assert inner["class"] == "PermissionError" and str(tmp_path) in inner["message"]
    assert "archive.py" in inner["traceback"] and inner["traceback"].endswith(inner["message"] + "\n")
    assert str(tmp_path) in said.message


def broken(directory: Path, damage: Callable[[Path], None]) -> None:
    """Damages the only payload of an archive."""
    (blob,) = [path for path in (directory / "archive" / "blobs").rglob("*") if path.is_file()]
    damage(blob)


def flipped(blob: Path) -> None:
    content = bytearray(blob.read_bytes())
    content[10] ^= 1
    blob.write_bytes(content)


@pytest.mark.parametrize("damage", [flipped, Path.unlink, lambda blob: os.truncate(blob, 5)], ids=["flipped", "gone", "short"])
def test_damage_is_told_without_paths(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    with serving(tmp_path) as (_, peer):
        assert peer.publish("policy", os.urandom(3000), archived=True).kind == "done"
    with serving(tmp_path) as (core, peer):
        broken(tmp_path, damage)
        with connect(core.endpoints["data"]) as client, pytest.raises(StoreCorrupt) as found:
            client.registry.get("policy", 1).read()
    error = found.value
    assert str(tmp_path) not in f"{error} {error.facts} {error.details}" and "archive/blobs" in str(error)
    assert not error.retryable and error.details[-1].error_class == "StoreCorrupt"
    assert error.request_id is not None


def test_a_client_has_what_led_to_an_error_as_values(tmp_path: Path) -> None:
    with serving(tmp_path) as (core, _), connect(core.endpoints["data"]) as client:
        client.publisher("policy").publish(b"first", archived=True)
        with failing("write", errno.EACCES, tmp_path), pytest.raises(StoreUnavailable) as failed:
            client.publisher("policy").publish(b"second", archived=True)
    inner, *_, outer = failed.value.details
    assert inner == ErrorDetail(
        node="lab-7", role="broadcaster", error_class="PermissionError", message="Permission denied", retryable=False
    )
    assert outer.error_class == "StoreUnavailable" and outer.retryable and outer.message == str(failed.value)
    assert failed.value.number == 2, "it was announced, and the error says which version it is"


def test_what_no_room_knows_is_told_by_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(self: Archive, model: object) -> None:
        raise KeyError(f"{tmp_path}/secret")

    with serving(tmp_path) as (_, peer):
        monkeypatch.setattr(Archive, "set_model", bug)
        said = peer.ask("create-model", model_id="policy")
    assert said.code == "store-unavailable"
    assert [one["class"] for one in said.fields["details"]] == ["KeyError", "StoreUnavailable"]
    assert str(tmp_path) not in told(said)


def test_the_node_has_the_name_that_it_is_given(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path, environment={"BROADCASTER_NODE_NAME": "hub"}, options=["--debug"]) as process:
        with BarePeer(process.ready) as peer:
            (detail,) = peer.ask("get-model", model_id="nobody").fields["details"]
            assert (detail["node"], detail["class"]) == ("hub", "UnknownModel") and "Traceback" in detail["traceback"]
            assert peer.ask("ping", timing=True).fields["hops"][0]["node"] == "hub"
