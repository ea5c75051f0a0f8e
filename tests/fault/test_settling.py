"""A change that the disk refuses halfway: what a running broadcaster shows is what its next life would find."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import xxhash

from broadcaster.broker import Rooms
from broadcaster.protocol import messages as m
from broadcaster.protocol.errors import BroadcasterError
from broadcaster.protocol.messages import Message, Request
from broadcaster.server.core import Core
from broadcaster.store import Archive, failpoints
from broadcaster.store.quarantine import Damage
from tests.bare_peer import wait_until
from tests.fault.archives import NOW, fail
from tests.integration.cores import core, rooms, serving

MODELS = ("user_data", "tags", "aliases", "description", "retention")


class Inline:
    """A worker that does at once what it is given."""

    pending = waiting = 0

    def submit(self, job: Callable[[], object], done: Callable[[object], None]) -> None:
        result: object
        try:
            result = job()
        except BaseException as error:
            result = error
        done(result)

    def close(self, timeout: float = 0.0) -> bool:
        return True


class Asker:
    """Whoever waits for an answer, and what it got last."""

    expires, timing = float("inf"), None

    def __init__(self) -> None:
        self.got: Any = None

    def reply(self, message: Message, payload: memoryview | None = None) -> None:
        self.got = message

    def refuse(self, error: BroadcasterError) -> None:
        self.got = error


class Desk:
    """A core whose loop and threads a test takes the place of: all is done when a call returns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.core: Core = core(folder)
        self.core._upkeep.close()
        self.rooms: Rooms = rooms(self.core)
        for name in ("writer", "reserver", "readers"):
            getattr(self.rooms, name).close()
            setattr(self.rooms, name, Inline())
        self.run()

    def run(self) -> None:
        while self.core.loop._posted:
            self.core.loop._posted.popleft()()

    def ask(self, kind: type[Request], **fields: Any) -> Any:
        asker = Asker()
        self.core._requests.answer(kind(request_id=os.urandom(16), **fields), asker, time.monotonic())
        self.run()
        return asker.got

    def publish(self, model: str, *, archived: bool, upload_id: bytes | None = None) -> Any:
        data, asker = f"{model}{time.monotonic_ns()}".encode(), Asker()
        facts = {"model_id": model, "size": len(data), "digest": xxhash.xxh3_128_hexdigest(data), "archived": archived}
        message = m.Publish(request_id=os.urandom(16), upload_id=upload_id or os.urandom(16), **facts)
        self.core._broker.publish(message, memoryview(data), asker, time.monotonic(), lambda upload, header: None)
        self.run()
        return asker.got

    def settle(self) -> None:
        """The disk works again, and the broadcaster had its time."""
        assert self.rooms.archive.probe().writable
        for _ in range(5):
            self.core._broker.tick(time.monotonic())
            self.run()
        assert not self.core._broker.archiving.doubts

    def alive(self) -> tuple[Any, Any]:
        """What is told of models, and of archived versions."""
        catalog = self.rooms.catalog
        models = {info.model_id: {name: getattr(info, name) for name in MODELS} for info in catalog.models("default", None)}
        return models, sorted((info for name in models for info in catalog.archived(("default", name))), key=place)

    def found(self) -> tuple[Any, Any]:
        """The same, as the next life would have it."""
        copy = self.folder / "copy"
        shutil.copytree(self.folder / "archive", copy)
        with Archive.open(copy, now_ms=NOW) as archive:
            loaded = archive.load()
        shutil.rmtree(copy)
        models = {info.model_id: {name: getattr(info, name) for name in MODELS} for info in loaded.models}
        return models, sorted((version.info for version in loaded.versions), key=place)


def place(info: Any) -> tuple[str, int]:
    return info.model_id, info.number


@pytest.fixture
def desk(folder: Path) -> Iterator[Desk]:
    desk = Desk(folder)
    try:
        yield desk
    finally:
        failpoints.arm(None)
        desk.core.close()


CHANGES: dict[str, Callable[[Desk, str], Any]] = {
    "publish": lambda desk, model: desk.publish(model, archived=True),
    "publish a new model": lambda desk, model: desk.publish(f"{model}-new", archived=True),
    "archive": lambda desk, model: desk.ask(m.Archive, model_id=model, ref=3),
    "create": lambda desk, model: desk.ask(m.CreateModel, model_id=f"{model}-new", tags={"a": "b"}),
    "describe": lambda desk, model: desk.ask(m.Describe, model_id=model, description="said"),
    "metrics": lambda desk, model: desk.ask(m.AddMetrics, model_id=model, number=1, metrics={"loss": 1.0}),
    "alias": lambda desk, model: desk.ask(m.SetAlias, model_id=model, alias="champion", number=2),
    "pin": lambda desk, model: desk.ask(m.Pin, model_id=model, ref=1, pinned=True),
    "delete": lambda desk, model: desk.ask(m.DeleteVersion, model_id=model, number=1),
    "delete a transient one": lambda desk, model: desk.ask(m.DeleteVersion, model_id=model, number=3),
    "delete the model": lambda desk, model: desk.ask(m.DeleteModel, model_id=model, force=True),
    "prune": lambda desk, model: desk.ask(m.Prune, model_id=model, retention={"last": 1}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_after_a_change_that_failed_halfway_the_running_broadcaster_shows_what_its_next_life_would(desk: Desk, name: str) -> None:
    sweep(desk, name, first=3, stride=7)


@pytest.mark.fault_long
@pytest.mark.parametrize("name", CHANGES)
def test_wherever_a_change_failed_the_running_broadcaster_shows_what_its_next_life_would(desk: Desk, name: str) -> None:
    sweep(desk, name, first=1, stride=1)


def sweep(desk: Desk, name: str, first: int, stride: int) -> None:
    """The change again and again, a later step of it failing each time."""
    point, refused = first - stride, True
    while refused:
        point += stride
        model = f"model-{point}"
        for archived in (True, True, False):
            assert isinstance(desk.publish(model, archived=archived), m.Done)
        refused = fails_at(point, lambda model=model: CHANGES[name](desk, model))
        desk.settle()
        assert desk.alive() == desk.found(), f"{name} failed at step {point}"
        if refused:
            again = CHANGES[name](desk, model)
            assert isinstance(again, Message) or not again.retryable, f"{name} failed at step {point}, and then: {again}"
            assert desk.alive() == desk.found(), f"{name} failed at step {point}, and was asked for again"
        for left in list(desk.alive()[0]):
            assert isinstance(desk.ask(m.DeleteModel, model_id=left, force=True), m.Deleted)
    assert point >= 4 or stride > 1


def fails_at(point: int, act: Callable[[], Any]) -> bool:
    """Whether the change was refused when its step of that number failed, and every one after it."""
    met = 0

    def hook(_name: str) -> None:
        nonlocal met
        met += 1
        if met >= point:
            fail(errno.EIO)

    failpoints.arm(hook)
    try:
        got = act()
    finally:
        failpoints.arm(None)
    if isinstance(got, Message):
        assert met < point, "an error of the disk was passed over"
        return False
    assert isinstance(got, BroadcasterError) and got.retryable, got
    return True


def test_what_left_memory_meanwhile_is_there_again(desk: Desk) -> None:
    assert isinstance(desk.publish("policy", archived=False), m.Done)
    failpoints.arm(lambda name: fail(errno.EIO) if name == "index" else None)
    assert isinstance(desk.publish("policy", archived=True), BroadcasterError)
    failpoints.arm(None)
    desk.rooms.catalog.retention = desk.rooms.catalog.retention.__class__(keep=1)
    assert isinstance(desk.publish("policy", archived=False), m.Done)
    assert desk.rooms.catalog.numbers(("default", "policy")) == [3]
    desk.settle()
    assert desk.rooms.catalog.numbers(("default", "policy")) == [2, 3]
    assert desk.alive() == desk.found()
    info = desk.rooms.catalog.find(("default", "policy"), 2).info
    assert info.archived and info.sha256
    assert isinstance(desk.ask(m.SetTags, model_id="policy", number=2, tags={"a": "b"}), m.Version)
    assert isinstance(desk.publish("policy", archived=True), m.Done), "numbers go on above it"


def test_damage_that_is_found_while_the_disk_takes_no_writes_is_mended_when_it_does(desk: Desk) -> None:
    assert isinstance(desk.publish("policy", archived=True), m.Done)
    archive, (version,) = desk.rooms.archive, desk.core._broker.archiving.versions.values()
    (archive.directory / "blobs" / version.sha256[:2] / version.sha256[2:]).unlink()
    failpoints.arm(lambda name: fail(errno.EIO) if name == "sync" else None)
    assert isinstance(desk.ask(m.Describe, model_id="policy", number=1, description="no"), BroadcasterError)
    desk.core._broker.archiving.damaged(Damage("found by a read", version.sha256))
    archive.tell_damage(lambda damage: None)
    assert isinstance(desk.rooms.archive._quarantine.missing(version), BroadcasterError)
    desk.run()
    assert archive.quarantined == 1
    failpoints.arm(None)
    desk.settle()
    assert archive.quarantined == 0 and bytes(archive.read(version, 0, 5)) == b"polic"


def test_a_transient_version_that_is_deleted_takes_what_is_left_of_it_on_the_disk_along(desk: Desk) -> None:
    assert isinstance(desk.publish("policy", archived=True), m.Done)
    failpoints.arm(lambda name: fail(errno.EIO) if name == "index" else None)
    assert isinstance(desk.publish("policy", archived=True), BroadcasterError)
    failpoints.arm(None)
    assert desk.rooms.archive.probe().writable
    assert isinstance(desk.ask(m.DeleteVersion, model_id="policy", number=2), m.Deleted)
    assert [info.number for info in desk.found()[1]] == [1], "a kill now must not bring it back"


def test_a_broadcaster_that_serves_settles_by_itself_and_says_so(folder: Path) -> None:
    with serving(folder) as (made, peer):
        assert peer.publish("policy", b"one", archived=True).kind == "done"
        failpoints.arm(lambda name: fail(errno.EIO) if name == "index" else None)
        failed = peer.publish("policy", b"two", archived=True)
        assert failed.code == "store-unavailable" and failed.fields["facts"]["number"] == 2
        version = peer.ask("get-version", model_id="policy", ref=2).fields["version"]
        assert not version["archived"] and peer.stats()["archive_doubts"] == 1
        failpoints.arm(None)
        rooms(made).archive.probe()
        wait_until(lambda: peer.stats()["archive_doubts"] == 0, "it is settled")
        version = peer.ask("get-version", model_id="policy", ref=2).fields["version"]
        assert version["archived"] and version["sha256"] and peer.stats()["archived"] == 2
        log = rooms(made).log
        events, _ = log.replay(log.epoch, 0, "default", "policy", 100)
        assert [(event.event, event.number) for event in events][-1] == ("archived", 2)
    with serving(folder) as (made, peer):
        assert peer.numbers("policy") == [1, 2] and peer.read("policy", 2) == b"two"
