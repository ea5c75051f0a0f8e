"""The same names in two namespaces are two things: a life of models in each is what it is alone, whatever the other does."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from broadcaster.protocol.names import EVENTS, topic
from clients import BroadcasterError, Client, connect
from tests.bare_peer import WAIT, BarePeer, heard, wait_until
from tests.integration.commands import command
from tests.integration.cores import serving

NAMESPACES = ("red", "red2", "tan")
"""One begins with the whole name of another, and one has a name of the same length."""
LARGE = 200 << 10
UNLIKE = {"creation_timestamp", "namespace", "description_at"}
"""What differs between two runs of the same story."""


def plain(value: Any) -> Any:
    """What can be compared between two runs."""
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value) if one.name not in UNLIKE}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def asked(call: Callable[[], Any]) -> Any:
    """What came of it; a refusal is something, too."""
    try:
        return plain(call())
    except BroadcasterError as error:
        return error.code, {name: fact for name, fact in error.facts.items() if name != "namespace"}


def payload(mark: str, number: int, size: int = 100) -> bytes:
    return random.Random(f"{mark} {number}").randbytes(size)


def story(client: Client, mark: str) -> Iterator[Any]:
    """Everything that can be asked and changed, in models with the same names everywhere; a result after each step.

    `mark` makes the contents this namespace's own; one payload is the same in all of them.
    """
    registry = client.registry
    yield asked(lambda: registry.create("policy", user_data={"by": mark}, tags={"team": mark}))
    yield asked(lambda: registry.create("policy"))
    yield asked(lambda: registry.create("doomed"))
    with client.subscriber("policy", every=True) as subscriber, client.subscriber("policy", alias="champion") as champion:
        every, learner = subscriber.every(), client.publisher("policy")
        for number in range(1, 5):
            yield asked(lambda number=number: publish(client, mark, number))  # type: ignore[misc]
            snapshot = next(every)
            yield snapshot.version.number, bytes(snapshot.payload) == payload(mark, number, snapshot.version.size)
        yield asked(lambda: learner.publish(b"the same everywhere" * 9000, archived=True))
        yield bytes(next(every).payload) == b"the same everywhere" * 9000
        for number in (1, 3):
            yield asked(lambda number=number: registry.set_alias("policy", "champion", number))  # type: ignore[misc]
            wait_until(lambda number=number: (at := champion.latest()) and at.version.number == number, "the alias moved")  # type: ignore[misc]
    yield asked(lambda: registry.set_alias("policy", "champion", 2, expect=1))
    yield asked(lambda: registry.set_alias("policy", f"of-{mark}", 5))
    yield asked(lambda: registry.set_tags("policy", {"of": mark}, ref=2))
    yield asked(lambda: registry.add_metrics("policy", 2, {"return": float(len(mark))}))
    yield asked(lambda: registry.describe("policy", f"the {mark} one"))
    yield asked(lambda: registry.update("policy", {"by": mark, "again": "yes"}))
    yield asked(lambda: registry.archive("policy", 2))
    yield asked(lambda: registry.pin("policy", 1))
    yield asked(lambda: registry.best("policy", "return").info)
    yield asked(lambda: list(registry.search(None, {"metrics.return": (">", 1.0)})))
    yield asked(lambda: registry.delete("policy", 3))
    yield asked(lambda: registry.delete("policy", 4))
    yield asked(lambda: registry.delete_model("doomed"))
    yield asked(lambda: registry.get("policy", 4))
    with client.publisher("policy", exclusive=True) as alone:
        yield alone.term()
        yield asked(lambda: alone.publish(payload(mark, 6), archived=True, user_data={"by": mark}))
    yield asked(lambda: registry.retention("policy", last=100 + NAMESPACES.index(mark)))
    yield asked(lambda: registry.prune("policy", last=1, dry_run=True))
    yield asked(lambda: [(one.name, one.applied) for one in registry.subscribers("policy")] and None)
    yield observed(client)


def publish(client: Client, mark: str, number: int) -> Any:
    """In memory or on disk, small or in a slot."""
    size = LARGE if number % 2 else 100
    said = {"metrics": {"return": float(number)}, "user_data": {"by": mark}}
    return client.publisher("policy").publish(payload(mark, number, size), archived=number in (1, 3), **said)


def observed(client: Client, *, archived: bool = False) -> Any:
    """All that there is, with every payload; or only what a restart must not change."""
    registry = client.registry
    models = [model for model in registry.models()]
    versions = {model.model_id: list(registry.versions(model.model_id)) for model in models}
    found = [version for model in models for version in versions[model.model_id] if version.archived or not archived]
    gone = [("newest", "versions")] if archived else []
    kept = [{name: one for name, one in plain(model).items() if not gone or name not in gone[0]} for model in models]
    return kept, [(plain(version), bytes(registry.get(version.model_id, version.number).read())) for version in found]


def alone(directory: Path, mark: str) -> list[Any]:
    """The story in a broadcaster of its own, and what is left of it after a restart."""
    with serving(directory) as (core, _), connect(core.endpoints["data"], namespace=mark) as client:
        told = list(story(client, mark))
    with serving(directory) as (core, _), connect(core.endpoints["data"], namespace=mark) as client:
        return [*told, observed(client, archived=True)]


@pytest.mark.parametrize("seed", [1])
def test_a_life_in_a_namespace_is_what_it_is_alone(tmp_path: Path, seed: int) -> None:
    """Steps of all namespaces by turns; in the end one of them deletes all that it has, before the restart."""
    expected = {mark: alone(tmp_path / mark, mark) for mark in NAMESPACES}
    rng, told, where = random.Random(seed), {mark: [] for mark in NAMESPACES}, tmp_path / "together"
    print(f"seed {seed}")
    with serving(where) as (core, peer):
        clients = {mark: connect(core.endpoints["data"], namespace=mark) for mark in NAMESPACES}
        under_way = {mark: story(client, mark) for mark, client in clients.items()}
        while under_way:
            mark = rng.choice(sorted(under_way))
            try:
                told[mark].append(next(under_way[mark]))
            except StopIteration:
                del under_way[mark]
        for mark in NAMESPACES:
            no_event_of_another(peer, mark)
        clients["tan"].registry.delete_model("policy", force=True)
        for mark, client in clients.items():
            if mark != "tan":
                assert observed(client) == told[mark][-1], "the payload that all had is still there"
            client.close()
    for mark in NAMESPACES:
        assert told[mark] == expected[mark][:-1], mark
    left(where, expected)
    assert command("rebuild-index", where / "archive").returncode == 0
    left(where, expected, going_on=True)


def left(where: Path, expected: dict[str, list[Any]], *, going_on: bool = False) -> None:
    """After a restart there is what would be there alone; of the one who deleted all, nothing."""
    with serving(where) as (core, _):
        for mark in NAMESPACES:
            with connect(core.endpoints["data"], namespace=mark) as client:
                found = observed(client, archived=True)
                assert found == (([], []) if mark == "tan" else expected[mark][-1]), mark
                if going_on:
                    assert client.publisher("policy").publish(b"next").number > 6, (
                        "its own numbers go on, also where all was deleted"
                    )


def no_event_of_another(peer: BarePeer, namespace: str) -> None:
    epoch = peer.ask("hello").fields["epoch"]
    after, events = 0, []
    while after is not None:
        page = peer.ask("replay", epoch=epoch, after=after, namespace=namespace).fields
        events, after = events + page["events"], page.get("next")
    assert {event["namespace"] for event in events} == {namespace}
    assert [event["number"] for event in events if event["event"] == "published"] == [1, 2, 3, 4, 5, 6]
    by_model: dict[str, int] = {}
    for event in events:
        assert event["previous"] == by_model.get(event["model_id"], 0), "the one before of its own model"
        by_model[event["model_id"]] = event["offset"]


def test_who_subscribes_in_a_namespace_hears_nothing_of_another(tmp_path: Path) -> None:
    with serving(tmp_path) as (core, peer):
        heard_by = {mark: peer.subscription(core.endpoints["push"], topic(mark, "policy", EVENTS)) for mark in NAMESPACES}
        for mark, socket in heard_by.items():
            assert heard(socket, "a beacon: it is subscribed", WAIT, envelope=1).fields["namespace"] == mark
        for mark in NAMESPACES:
            assert peer.publish("policy", mark.encode(), namespace=mark).kind == "done"
            assert peer.publish("policy2", mark.encode(), namespace=mark).kind == "done"
        for mark, socket in heard_by.items():
            said = []
            while not said or said[-1].fields.get("event") != "published":
                said.append(heard(socket, "its version", WAIT, envelope=1))
            assert {(one.fields["namespace"], one.fields["model_id"]) for one in said} == {(mark, "policy")}
            assert said[-1].payload == mark.encode() and said[-1].fields["version"]["namespace"] == mark
            while socket.poll(0):
                late = heard(socket, "nothing of another", WAIT, envelope=1)
                assert (late.fields["namespace"], late.fields["model_id"]) == (mark, "policy")


def test_a_slot_names_its_namespace(tmp_path: Path) -> None:
    """What lies in a slot is one namespace's: its header says whose, and a reader looks."""
    with serving(tmp_path) as (core, _):
        clients = {mark: connect(core.endpoints["data"], namespace=mark) for mark in NAMESPACES}
        try:
            subscribers = {mark: client.subscriber("policy", delivery="shared") for mark, client in clients.items()}
            for number in range(1, 6):
                for mark, client in clients.items():
                    client.publisher("policy").publish(payload(mark, number, LARGE))
                for mark, subscriber in subscribers.items():
                    snapshot = subscriber.wait(WAIT, newer_than=number - 1)
                    assert bytes(snapshot.payload) == payload(mark, number, LARGE)
                    assert (snapshot.version.namespace, snapshot.version.number) == (mark, number)
            names = {path.read_bytes()[58:].split(b"\0")[0] for path in (tmp_path / "slots").glob("slot-*")}
            assert {f"{mark}/policy".encode() for mark in NAMESPACES} <= names
        finally:
            for client in clients.values():
                client.close()
