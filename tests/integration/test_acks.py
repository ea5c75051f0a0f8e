"""Who has which version: acks between real processes, while actors are stopped and killed and the broadcaster is restarted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import numpy as np
import pytest

import clients
from broadcaster.protocol.names import topic
from clients import Client, InvalidRequest, RequestTimeout, SubscriberInfo, UnknownModel, connect
from tests.bare_peer import BarePeer, heard, wait_until
from tests.broadcaster_process import ROOT, BroadcasterProcess
from tests.integration.commands import command, refused

WEIGHTS = {"a": np.arange(10.0)}
ACTOR = """
import sys
from clients import connect
url, name, model = sys.argv[1:]
with connect(url, name=name) as client:
    for snapshot in client.subscriber(model):
        print(snapshot.version.number, flush=True)
"""


@pytest.fixture
def client(shared: BroadcasterProcess) -> Iterator[Client]:
    with connect(shared.url, name="learner") as connected:
        yield connected


@contextmanager
def actor(url: str, name: str, model: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that applies every version that it gets hold of."""
    line = [sys.executable, "-c", ACTOR, url, name, model]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def table(client: Client, model: str) -> dict[str, SubscriberInfo]:
    """The table by name."""
    return {one.name or one.subscriber.hex(): one for one in client.registry.subscribers(model)}


def until(
    client: Client, model: str, condition: Callable[[dict[str, SubscriberInfo]], Any], what: str
) -> dict[str, SubscriberInfo]:
    """The table, once it is as it should be."""

    def look() -> list[dict[str, SubscriberInfo]]:
        try:
            found = table(client, model)
        except UnknownModel:  # Nobody has told of it yet.
            return []
        return [found] if condition(found) else []

    (found,) = wait_until(look, what)
    return dict(found)


# --- the learner waits ---------------------------------------------------------------------------------------------


def test_a_learner_waits_until_its_actors_act_with_a_version(client: Client, shared: BroadcasterProcess, model: str) -> None:
    publisher = client.publisher(model)
    with actor(shared.url, "one", model), actor(shared.url, "two", model):
        for _ in range(3):
            version = publisher.publish(WEIGHTS)
            counts = publisher.wait(version, applied_by=2, timeout=20)
            assert (counts.received, counts.applied) == (2, 2)
        assert {name: one.applied for name, one in table(client, model).items()} == {"one": 3, "two": 3}


def test_received_is_verified_and_visible_and_applied_is_handed_out(client: Client, model: str) -> None:
    publisher, subscriber = client.publisher(model), client.subscriber(model)
    version = publisher.publish(WEIGHTS)
    assert publisher.wait(version, received_by=1, timeout=20).applied == 0
    snapshot = subscriber.latest()
    assert snapshot is not None and snapshot.version.number == 1
    assert publisher.wait(1, timeout=20).applied == 1, "one of them applied it, unless anything else is said"
    assert publisher.wait(0, applied_by=0) == publisher.wait(version, applied_by=1)


def test_every_hands_out_too(client: Client, model: str) -> None:
    publisher = client.publisher(model)
    each = client.subscriber(model, every=True).every()
    for _ in range(3):
        newest = publisher.publish(WEIGHTS)
    assert next(each).version.number == 1 and next(each).version.number == 2
    assert publisher.wait(2, applied_by=1, timeout=20).applied == 1
    (only,) = table(client, model).values()
    assert (only.applied, only.lag) == (2, 1)
    assert publisher.wait(newest, received_by=1, timeout=20).applied == 0


def test_a_wait_that_is_not_over_in_time_says_how_many_had_it(client: Client, model: str) -> None:
    publisher, subscriber = client.publisher(model), client.subscriber(model)
    version = publisher.publish(WEIGHTS)
    subscriber.wait(timeout=20)
    publisher.wait(version, applied_by=1, timeout=20)
    began = time.monotonic()
    with pytest.raises(
        RequestTimeout, match=r"3 subscribers of .* have applied version 1 \(received by 1, applied by 1\)"
    ) as late:
        publisher.wait(version, applied_by=3, timeout=1.5)
    assert 1.4 < time.monotonic() - began < 10
    assert (late.value.received, late.value.applied) == (1, 1)
    assert client.registry.stats()["ack_waiters"] == 0
    began = time.monotonic()  # The subscriber has been there for longer than what it lags by now.
    publisher.wait(publisher.publish(WEIGHTS), received_by=1, timeout=20)
    (only,) = table(client, model).values()
    assert only.lag == 1 and only.lag_ms <= (time.monotonic() - began) * 1000 + 100


def test_a_wait_ends_when_its_time_is_over_and_not_when_the_broadcaster_looks_next(
    shared: BroadcasterProcess, model: str
) -> None:
    with BarePeer(shared.ready) as peer:
        peer.publish(model, b"x")
        began = time.monotonic()
        for _ in range(20):
            assert peer.ask("await-acks", model_id=model, number=1, count=1, budget_ms=10).code == "request-timeout"
        assert time.monotonic() - began < 6, "half a second each, if nobody looked in time"


def test_what_cannot_be_waited_for_is_said(client: Client, model: str) -> None:
    publisher = client.publisher(model)
    with pytest.raises(UnknownModel):
        publisher.wait(1)
    version = publisher.publish(WEIGHTS)
    other = client.publisher(f"{model}-2")
    wrong: list[Callable[[], object]] = [
        lambda: other.wait(version),
        lambda: publisher.wait(version, applied_by=1, received_by=1),
        lambda: publisher.wait(version, applied_by=-1),
        lambda: publisher.wait(version, applied_by=True),
        lambda: publisher.wait(version, received_by="all"),  # type: ignore[arg-type]
        lambda: publisher.wait("1"),  # type: ignore[arg-type]
        lambda: publisher.wait(version, timeout=0),
    ]
    for call in wrong:
        with pytest.raises(InvalidRequest):
            call()


# --- the table -----------------------------------------------------------------------------------------------------


def test_a_stopped_actor_lags_visibly_and_slows_nobody_and_is_back_when_it_goes_on(
    client: Client, shared: BroadcasterProcess, model: str
) -> None:
    publisher = client.publisher(model)
    with actor(shared.url, "runs", model), actor(shared.url, "stops", model) as stops:
        publisher.wait(publisher.publish(WEIGHTS), applied_by=2, timeout=20)
        stops.send_signal(signal.SIGSTOP)
        for _ in range(5):
            version = publisher.publish(WEIGHTS)
            assert publisher.wait(version, applied_by=1, timeout=20).applied == 1
        found = table(client, model)
        assert (found["runs"].lag, found["runs"].lag_ms) == (0, 0)
        assert (found["stops"].applied, found["stops"].lag) == (1, 5) and found["stops"].lag_ms > 0
        later = until(client, model, lambda now: now["stops"].lag_ms > found["stops"].lag_ms + 300, "its lag grows")
        assert later["stops"].seen_ms >= later["stops"].lag_ms, "it was heard before it was behind"
        worst = client.registry.stats()
        assert worst["worst_lag_versions"] >= 5 and worst["worst_lag_seconds"] > 0.3 and worst["subscribers_behind"] >= 1
        stops.send_signal(signal.SIGCONT)
        publisher.wait(version, applied_by=2, timeout=20)
        assert table(client, model)["stops"].lag == 0


def test_a_killed_actor_stays_in_the_table_and_one_that_ends_leaves_it_at_once(
    client: Client, shared: BroadcasterProcess, model: str
) -> None:
    publisher = client.publisher(model)
    with actor(shared.url, "killed", model) as killed, actor(shared.url, "ends", model) as ends:
        publisher.wait(publisher.publish(WEIGHTS), applied_by=2, timeout=20)
        killed.kill()
        killed.wait()
        ends.send_signal(signal.SIGINT)
        ends.wait(20)
        publisher.publish(WEIGHTS)
        found = until(client, model, lambda now: "ends" not in now, "who ended is gone")
        assert (found["killed"].applied, found["killed"].lag) == (1, 1)


def test_closing_and_forgetting_a_subscriber_takes_it_out_of_the_table(
    client: Client, shared: BroadcasterProcess, model: str
) -> None:
    client.publisher(model).publish(WEIGHTS)
    with connect(shared.url, name="other") as other:
        first, second = other.subscriber(model), other.subscriber(model)
        until(client, model, lambda _: len(list(client.registry.subscribers(model))) == 2, "both are there")
        first.close()
        until(client, model, lambda _: len(list(client.registry.subscribers(model))) == 1, "one is left")
        assert second.wait(timeout=20).version.number == 1
        del second
        until(client, model, lambda now: not now, "nobody refers to it any more")
        other.subscriber(model).wait(timeout=20)
    until(client, model, lambda now: not now, "the client is closed")


def test_a_client_is_called_by_its_host_and_process_unless_it_says_otherwise(shared: BroadcasterProcess, model: str) -> None:
    with connect(shared.url) as client, client.subscriber(model):
        (name,) = until(client, model, lambda now: now, "it is there")
        assert name.endswith(f":{os.getpid()}") and len(name) > len(f":{os.getpid()}")
    for wrong in ("", "x" * 129, 7, "\ud800"):
        with pytest.raises(InvalidRequest, match="name"):
            connect(shared.url, name=wrong)  # type: ignore[arg-type]


def test_a_subscriber_of_a_model_that_does_not_exist_yet_is_listed(client: Client, model: str) -> None:
    with pytest.raises(UnknownModel):
        table(client, model)
    with client.subscriber(model):
        found = until(client, model, lambda now: now, "it is there")
        assert (found["learner"].received, found["learner"].applied, found["learner"].lag) == (0, 0, 0)


def test_the_same_model_in_another_namespace_has_other_subscribers(
    client: Client, shared: BroadcasterProcess, model: str
) -> None:
    version = client.publisher(model).publish(WEIGHTS)
    with connect(shared.url, namespace="lab", name="there") as other, other.subscriber(model):
        assert list(until(other, model, lambda now: now, "it is there")) == ["there"]
        assert table(client, model) == {} and client.publisher(model).wait(version, received_by=0).received == 0


def test_acks_are_few_however_many_versions_come(client: Client, model: str) -> None:
    publisher, subscriber = client.publisher(model), client.subscriber(model)
    publisher.publish(WEIGHTS)
    publisher.wait(1, received_by=1, timeout=20)
    before, began = client.registry.stats()["acks"], time.monotonic()
    for _ in range(300):
        number = publisher.publish(WEIGHTS).number
        subscriber.latest()
    subscriber.wait(newer_than=number - 1, timeout=20)
    publisher.wait(number, applied_by=1, timeout=20)
    spent = time.monotonic() - began
    others = 3  # Of subscribers that other tests left to say goodbye.
    assert client.registry.stats()["acks"] - before <= 10 * spent + 1 + others


def test_a_restarted_broadcaster_is_told_again_and_a_wait_goes_on(own: BroadcasterProcess, model: str) -> None:
    with connect(own.url, name="learner") as client, actor(own.url, "actor", model):
        publisher = client.publisher(model)
        version = publisher.publish(WEIGHTS)
        publisher.wait(version, applied_by=1, timeout=20)
        mine = client.subscriber(model)
        assert mine.wait(timeout=20).version.number == version.number
        publisher.wait(version, applied_by=2, timeout=20)
        waiting = publisher.reached(version, 3, None, 40.0)
        own.restart(kill=True)
        until(client, model, lambda now: "actor" in now and now["actor"].applied == 1, "the actor has told the new broadcaster")
        with connect(own.url, name="late") as late, late.subscriber(model) as subscriber:
            newer = publisher.publish(WEIGHTS)
            assert newer.number > version.number
            assert subscriber.wait(timeout=20, newer_than=version.number).version.number == newer.number
            assert waiting.result(30).applied == 3
            wait_until(lambda: mine.lag.versions == 1, "numbers that a killed broadcaster skips are no versions")
            found = until(client, model, lambda now: now["actor"].applied == newer.number, "the actor has it too")
            assert found["actor"].lag == 0 and found["learner"].lag == 1


# --- what is said wrong --------------------------------------------------------------------------------------------


def test_wrong_words_change_nothing_and_are_not_answered(shared: BroadcasterProcess, client: Client, model: str) -> None:
    with BarePeer(shared.ready) as peer:
        peer.publish(model, b"x")
        epoch = int(peer.stats()["epoch"])
        good = {"subscriber": bytes(16), "model_id": model, "epoch": epoch, "received": 1, "applied": 1}
        before = peer.stats()
        strange: list[dict[str, Any]] = [
            good | {"epoch": epoch + 1},
            good | {"model_id": "d/e"},
            good | {"received": -1},
            good | {"applied": 1 << 64 - 1},
            good | {"subscriber": b"short"},
            good | {"name": 7},
            {"model_id": model},
        ]
        for fields in strange:
            peer.data.send_multipart([b"", b"ack", msgpack.packb(fields)])
        peer.data.send_multipart([b"", b"ack", b"\xc1"])
        peer.data.send_multipart([b"", b"ack"])
        after = peer.stats()  # Behind all of them; the first answer that there is.
        assert not peer.data.poll(0)
        assert after["subscribers"] == before["subscribers"] and after["acks"] == before["acks"]
        assert after["acks_dropped"] - before["acks_dropped"] == 2
        assert after["bad_messages"] - before["bad_messages"] == len(strange)
        peer.data.send_multipart(
            [b"", b"ack", msgpack.packb(good | {"received": 1 << 62, "applied": 1 << 61, "name": "\x1b[2J" * 99})]
        )
        assert peer.ask("await-acks", model_id=model, number=2, count=1, budget_ms=50).code == "request-timeout"
        assert peer.ask("await-acks", model_id=model, number=1, count=1, budget_ms=5000).fields["applied"] == 1
        (only,) = peer.ask("list-subscribers", model_id=model).fields["subscribers"]
        assert (only["received"], only["applied"], len(only["name"])) == (1, 1, 128)
        shown = command("subscribers", model, url=shared.url).stdout
        assert "\x1b" not in shown and "\\x1b[2J" in shown


def test_the_command_shows_the_table(client: Client, shared: BroadcasterProcess, model: str) -> None:
    publisher = client.publisher(model)
    publisher.publish(WEIGHTS)
    with connect(shared.url, name="fast") as fast, connect(shared.url, name="slow") as slow:
        quick, kept = fast.subscriber(model), slow.subscriber(model)
        quick.wait(timeout=20)
        publisher.wait(1, received_by=2, timeout=20)
        publisher.wait(publisher.publish(WEIGHTS), received_by=2, timeout=20)
        quick.latest()
        publisher.wait(2, applied_by=1, timeout=20)
        lines = command("subscribers", model, url=shared.url).stdout.splitlines()
        assert lines[0].split() == ["NAME", "RECEIVED", "APPLIED", "LAG", "LAG", "SECONDS", "SEEN"]
        assert [line.split()[:4] for line in lines[1:]] == [["slow", "2", "0", "2"], ["fast", "2", "2", "0"]]
        said = json.loads(command("subscribers", model, "--json", url=shared.url).stdout)
        assert [one["name"] for one in said] == ["slow", "fast"] and len(bytes.fromhex(said[0]["subscriber"])) == 16
        assert kept.model_id == model
    assert "there is no model" in refused(command("subscribers", f"{model}-2", url=shared.url), 4)


def test_the_names_are_promised() -> None:
    assert {"AckCounts", "SubscriberInfo"} <= set(clients.__all__)


def test_many_subscribers_are_asked_to_ack_less_often(shared: BroadcasterProcess, model: str) -> None:
    ready = shared.ready
    with BarePeer(ready) as peer:
        epoch = peer.publish(model, b"weights") and peer.ask("hello", protocol=1).fields["epoch"]
        good: dict[str, Any] = {"model_id": model, "epoch": epoch, "received": 1, "applied": 1}
        crowd = [os.urandom(16) for _ in range(200)]
        for subscriber in crowd:
            peer.data.send_multipart([b"", b"ack", msgpack.packb(good | {"subscriber": subscriber})])
        assert peer.stats()["subscribers"] >= 200

        def pace() -> int | None:
            """As the beacon says that a new subscription brings."""
            beacon = heard(peer.subscription(ready["push"], topic("default", model, b"e")), "a beacon", 10, envelope=1)
            return beacon.fields.get("ack_ms")

        assert 400 <= (pace() or 0) < 1000
        for subscriber in crowd:
            peer.data.send_multipart([b"", b"ack", msgpack.packb(good | {"subscriber": subscriber, "gone": True})])
        wait_until(lambda: pace() is None, "all is as usual")
