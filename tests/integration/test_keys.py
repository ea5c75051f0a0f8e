"""Keys over real sockets: who is let in, who may do what, and what becomes of a key that is taken back."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest
import zmq

import clients
from broadcaster.protocol.keyfile import Key, parse_key
from broadcaster.security import Grant, KeyDirectory
from clients import AccessDenied, Client, UnknownModel, UnknownVersion
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.integration.commands import command

KEYS = {
    "actor": Grant("actor", "default", "policy-*"),
    "relay": Grant("relay", "default", "*"),
    "learner": Grant("learner", "default", "policy-*"),
    "admin": Grant("admin", "*", "*"),
    "stranger": Grant("learner", "lab", "*"),
}
MODELS = [("default", "policy-a"), ("default", "value"), ("lab", "policy-a")]
READ = {"follow", "read", "subscribe"}
WRITE = READ | {"publish", "annotate"}
ALL = WRITE | {"administer"}
MAY = {
    ("actor", "default", "policy-a"): READ,
    ("relay", "default", "policy-a"): READ,
    ("relay", "default", "value"): READ,
    ("learner", "default", "policy-a"): WRITE,
    ("stranger", "lab", "policy-a"): WRITE,
    **{("admin", *model): ALL for model in MODELS},
}
"""What is in no row is denied."""


def make_keys(archive: Path) -> KeyDirectory:
    archive.mkdir(parents=True, exist_ok=True)
    keys = KeyDirectory(archive / "keys")
    for name, grant in KEYS.items():
        keys.make(name, grant)
    return keys


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    directory = tmp_path_factory.mktemp("keyed")
    make_keys(directory / "archive")
    with BroadcasterProcess(directory) as process:
        with clients.connect(process.ipc_url) as host:
            for namespace, model in MODELS:
                with clients.connect(process.ipc_url, namespace=namespace) as there:
                    there.publisher(model).publish(b"first")
            assert host.ping().round_trip > 0
        yield process


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    directory = tmp_path_factory.mktemp("changing")
    make_keys(directory / "archive")
    with BroadcasterProcess(directory) as process:
        yield process


@pytest.fixture
def own_keyed(changing: BroadcasterProcess) -> Iterator[BroadcasterProcess]:
    """A broadcaster whose keys a test may change: afterwards they are what they were."""
    book = changing.archive_dir / "keys" / "keys.toml"
    whole = book.read_text()
    yield changing
    book.write_text(whole)
    book.chmod(0o600)
    wait_until(lambda: opened(changing, file_of(changing, "actor")), "the keys are as they were").close()


def opened(process: BroadcasterProcess, file: Path) -> Client | None:
    """A client, or None while its key is not known."""
    try:
        return clients.connect(process.url, key=file)
    except AccessDenied:
        return None


def file_of(process: BroadcasterProcess, name: str) -> Path:
    return process.archive_dir / "keys" / f"{name}.key"


def key_of(process: BroadcasterProcess, name: str) -> Key:
    return parse_key(file_of(process, name).read_text(), name)


def without(process: BroadcasterProcess, public: str) -> None:
    """Takes the entry of a key out of the file, as an editor would."""
    book = process.archive_dir / "keys" / "keys.toml"
    head, *entries = book.read_text().split("[[key]]")
    kept = [entry for entry in entries if public not in entry]
    assert len(kept) == len(entries) - 1
    book.write_text("[[key]]".join([head, *kept]))


def connected(process: BroadcasterProcess, name: str, **options: Any) -> Client:
    return clients.connect(process.url, key=file_of(process, name), **options)


# --- who may do what -------------------------------------------------------------------------------------------------


def done(client: Client, verb: str, model: str) -> bool:
    """Whether it was allowed, whatever came of it."""
    try:
        match verb:
            case "publish":
                client.publisher(model).publish(b"x" * 10)
                client.publisher(model).publish(bytes(3 << 20))
            case "annotate":
                client.registry.set_tags(model, {"a": "b"})
            case "read":
                client.registry.get(model, 1).read()
            case "follow":
                client.subscriber(model).wait(timeout=0.7)
            case "administer":
                client.registry.delete(model, 10_000)
    except (UnknownModel, UnknownVersion):
        return True
    except AccessDenied as error:
        assert model in str(error) and client.address not in str(error)
        return False
    return True


@pytest.mark.parametrize("name", KEYS)
def test_each_key_may_do_what_its_role_says_to_its_models_and_nothing_else(keyed: BroadcasterProcess, name: str) -> None:
    found = {}
    for namespace, model in MODELS:
        with connected(keyed, name, namespace=namespace) as client:
            for verb in ("read", "follow", "publish", "annotate", "administer"):
                found[namespace, model, verb] = done(client, verb, model)
    assert found == {
        (namespace, model, verb): verb in MAY.get((name, namespace, model), set()) for namespace, model, verb in found
    }


def test_each_subscription_is_looked_at(keyed: BroadcasterProcess) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets = {}
    try:
        for name in KEYS:
            key = key_of(keyed, name)
            sockets[name] = subscriber = context.socket(zmq.SUB)
            subscriber.linger = 0
            subscriber.curve_publickey, subscriber.curve_secretkey = key.public.encode(), key.secret.encode()
            subscriber.curve_serverkey = key.server.encode()
            subscriber.connect(keyed.ready["push"])
            for namespace, model in MODELS:
                for kind in (b"e", b"c"):
                    subscriber.subscribe(f"{namespace}/{model}\0".encode() + kind)
        got: dict[str, set[tuple[str, str]]] = {name: set() for name in KEYS}

        def all_came() -> bool:
            for namespace, model in MODELS:
                with clients.connect(keyed.ipc_url, namespace=namespace) as host:
                    host.publisher(model).publish(bytes(2 << 20))
            for name, one in sockets.items():
                while one.poll(50):
                    namespace, _, model = one.recv_multipart()[0][:-2].decode().partition("/")
                    got[name].add((namespace, model))
            return all(len(got[name]) == sum(key[0] == name for key in MAY) for name in KEYS)

        wait_until(all_came, "all that may follow were told")
        all_came()
        assert got == {name: {model for model in MODELS if "subscribe" in MAY.get((name, *model), set())} for name in KEYS}
    finally:
        context.destroy(linger=0)


def test_one_user_cannot_go_on_with_the_upload_of_another(keyed: BroadcasterProcess) -> None:
    def frames(name: str) -> zmq.Socket[bytes]:
        key, one = key_of(keyed, name), context.socket(zmq.DEALER)
        one.linger = 0
        one.curve_publickey, one.curve_secretkey = key.public.encode(), key.secret.encode()
        one.curve_serverkey = key.server.encode()
        one.connect(keyed.ready["upload"])
        return one

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        mine, other, upload = frames("learner"), frames("admin"), os.urandom(16)
        fields = {"request_id": os.urandom(16), "model_id": "policy-a", "upload_id": upload, "size": 3 << 20}
        mine.send_multipart([b"begin", msgpack.packb(fields)])
        assert mine.poll(5000) and mine.recv_multipart()[0] == b"credit"
        for kind, given in (("begin", fields), ("abort", {"upload_id": upload}), ("commit", {"upload_id": upload, "digest": ""})):
            other.send_multipart([kind.encode(), msgpack.packb(given | {"request_id": os.urandom(16)})])
            assert other.poll(5000)
            said, what = other.recv_multipart()[:2]
            assert (said, msgpack.unpackb(what)["code"]) == (b"error", "access-denied")
        mine.send_multipart([b"abort", msgpack.packb({"request_id": os.urandom(16), "upload_id": upload})])
        assert mine.poll(5000) and mine.recv_multipart()[0] == b"aborted"
    finally:
        context.destroy(linger=0)


def test_one_user_cannot_publish_with_the_term_of_another(own_keyed: BroadcasterProcess) -> None:
    def told(term: int) -> str:
        key, context = key_of(own_keyed, "admin"), zmq.Context()
        try:
            one = context.socket(zmq.DEALER)
            one.curve_publickey, one.curve_secretkey = key.public.encode(), key.secret.encode()
            one.curve_serverkey = key.server.encode()
            one.connect(own_keyed.ready["upload"])
            fields = {
                "request_id": os.urandom(16),
                "model_id": "policy-x",
                "upload_id": os.urandom(16),
                "size": 1 << 20,
                "term": term,
            }
            one.send_multipart([b"begin", msgpack.packb(fields)])
            assert one.poll(5000)
            return str(msgpack.unpackb(one.recv_multipart()[1]).get("code"))
        finally:
            context.destroy(linger=0)

    with connected(own_keyed, "learner") as learner:
        only = learner.publisher("policy-x", exclusive=True)
        only.publish(b"x")
        term = only.term()
        assert term is not None and told(term) == "access-denied" and told(term + 1) == "fenced"
        own_keyed.restart(kill=True)
        only.publish(b"y", timeout=20)
        assert told(term) == "access-denied", "it is the first user's of this life"
        only.publish(b"z")


def test_whole_chunks_come_and_go_over_the_network(keyed: BroadcasterProcess) -> None:
    payload = os.urandom(5 << 20)
    with connected(keyed, "learner", slot_dir="/nonexistent") as learner, connected(keyed, "actor") as actor:
        follows = actor.subscriber("policy-a", delivery="chunks")
        number = learner.publisher("policy-a").publish(payload, timeout=20).number
        assert follows.wait(newer_than=number - 1, timeout=20).payload == payload
        assert learner.registry.get("policy-a", number).read() == payload


# --- who is let in ---------------------------------------------------------------------------------------------------


def test_who_has_no_key_an_unknown_one_or_one_for_another_broadcaster_is_told_so_in_time(
    keyed: BroadcasterProcess, own: BroadcasterProcess, tmp_path: Path
) -> None:
    unknown = KeyDirectory(tmp_path / "unknown")
    unknown.ensure()
    stranger, mine = parse_key((unknown.directory / "admin.key").read_text(), "x"), key_of(keyed, "admin")
    cases = {
        "asks for a key": None,
        "does not know this key": Key("x", stranger.public, stranger.secret, mine.server),
        "another public key": Key("x", mine.public, mine.secret, stranger.server),
    }
    for said, key in cases.items():
        began = time.monotonic()
        with pytest.raises(AccessDenied, match=said):
            clients.connect(keyed.url, key=key, timeout=2)
        assert time.monotonic() - began < 5
    with pytest.raises(AccessDenied, match="has no keys"):
        clients.connect(own.url, key=mine, timeout=2)


def test_the_key_comes_from_the_environment_too(keyed: BroadcasterProcess) -> None:
    key = {"BROADCASTER_KEY": str(file_of(keyed, "relay"))}
    listed = command("models", "--json", url=keyed.url, more=key)
    assert listed.returncode == 0 and "policy-a" in listed.stdout
    refused = command("delete", "policy-a", "--yes", url=keyed.url, more=key)
    assert refused.returncode != 0 and "key relay may not administer default/policy-a" in refused.stderr


def test_a_key_file_that_others_can_read_is_not_used(keyed: BroadcasterProcess, tmp_path: Path) -> None:
    copy = tmp_path / "copy.key"
    copy.write_bytes(file_of(keyed, "actor").read_bytes())
    copy.chmod(0o644)
    with pytest.raises(clients.BroadcasterError, match="chmod 600"):
        clients.connect(keyed.url, key=copy)


def test_strangers_harm_nobody(keyed: BroadcasterProcess) -> None:
    with connected(keyed, "learner") as learner, connected(keyed, "actor") as actor:
        subscriber, publisher = actor.subscriber("policy-a"), learner.publisher("policy-a")
        pids = keyed.pids
        greeting = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + bytes(48)
        noise = [greeting, os.urandom(4096), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b""]
        silent = []
        for turn in range(20):
            for channel in ("upload", "push", "data"):
                host, _, port = keyed.ready[channel].removeprefix("tcp://").rpartition(":")
                for bytes_ in noise:
                    peer = socket.create_connection((host, int(port)))
                    peer.sendall(bytes_ + b"\x04\x07\x04PING\0\0" * (turn * 20 if bytes_ is greeting else 0))
                    silent.append(peer) if turn % 4 == 0 else peer.close()
            number = publisher.publish(bytes([turn])).number
            assert subscriber.wait(newer_than=number - 1, timeout=10).version.number == number
        for peer in silent:
            peer.close()
        assert keyed.pids == pids and all(Path(f"/proc/{pid}").exists() for pid in pids)
        assert learner.registry.stats()["epoch"] > 0


# --- changed while it runs -------------------------------------------------------------------------------------------


def test_a_key_that_is_taken_back_is_cut_off_and_nobody_else_misses_anything(own_keyed: BroadcasterProcess) -> None:
    with (
        connected(own_keyed, "learner") as learner,
        connected(own_keyed, "actor") as actor,
        connected(own_keyed, "relay") as relay,
    ):
        publisher = learner.publisher("policy-a")
        publisher.publish(b"x")
        follows, goes_on = actor.subscriber("policy-a"), relay.subscriber("policy-a", every=True)
        assert follows.wait(timeout=10) and goes_on.wait(timeout=10)
        without(own_keyed, key_of(own_keyed, "actor").public)
        began = time.monotonic()

        def is_denied() -> bool:
            try:
                actor.registry.get("policy-a", 1)
            except AccessDenied:
                return True
            return False

        wait_until(is_denied, "the key is denied", seconds=5)
        assert time.monotonic() - began < 5
        seen = follows.latest()
        numbers = [publisher.publish(bytes(100_000)).number for _ in range(5)]
        assert goes_on.wait(newer_than=numbers[-1] - 1, timeout=15).version.number == numbers[-1]
        assert follows.latest() is seen or follows.latest().version.number == seen.version.number
        with pytest.raises(AccessDenied):
            connected(own_keyed, "actor", timeout=3)
        assert own_keyed.running and learner.registry.stats()["epoch"] > 0


def test_a_key_comes_while_it_runs_and_one_who_waits_for_it_goes_on(own_keyed: BroadcasterProcess) -> None:
    book = own_keyed.archive_dir / "keys" / "keys.toml"
    whole = book.read_text()
    with connected(own_keyed, "learner") as learner, connected(own_keyed, "actor") as actor:
        follows = actor.subscriber("policy-a")
        number = learner.publisher("policy-a").publish(b"x").number
        assert follows.wait(timeout=10, newer_than=number - 1)
        without(own_keyed, key_of(own_keyed, "actor").public)
        with pytest.raises(AccessDenied):
            wait_until(lambda: actor.registry.get("policy-a", number) is None, "denied", seconds=5)
        book.write_text(whole)
        number = learner.publisher("policy-a").publish(b"y").number
        assert follows.wait(newer_than=number - 1, timeout=20).version.number == number
        assert actor.registry.get("policy-a", number).read()


def test_a_file_that_makes_no_sense_changes_nothing_and_is_complained_about(own_keyed: BroadcasterProcess) -> None:
    book = own_keyed.archive_dir / "keys" / "keys.toml"
    whole = book.read_text()
    for text in ("[[key]]\nrole = 1\n", ""):
        with connected(own_keyed, "learner") as learner:
            book.write_text(text) if text else book.unlink()
            wait_until(lambda text=text: "KEYS NOT READ" in own_keyed.log().rpartition("can be read again")[2], "it complains")
            learner.publisher("policy-a").publish(b"still")
        book.write_text(whole)
        book.chmod(stat.S_IRUSR | stat.S_IWUSR)
        wait_until(lambda: own_keyed.log().rstrip().rpartition("KEYS NOT READ")[2].count("can be read again"), "it is well again")


def test_a_key_is_changed_without_a_pause(own_keyed: BroadcasterProcess, tmp_path: Path) -> None:
    with connected(own_keyed, "learner") as before:
        before.publisher("policy-a").publish(b"old")
        made = command(
            *("keygen", "learner", "--role", "learner", "--models", "policy-*", "--file", str(tmp_path / "new.key")),
            *("--archive-dir", str(own_keyed.archive_dir)),
        )
        assert made.returncode == 0 and str(tmp_path / "new.key") in made.stderr

        with wait_until(lambda: opened(own_keyed, tmp_path / "new.key"), "the new key is known", seconds=5) as after:
            after.publisher("policy-a").publish(b"new")
            before.publisher("policy-a").publish(b"both")
            without(own_keyed, key_of(own_keyed, "learner").public)
            with pytest.raises(AccessDenied):
                wait_until(lambda: before.registry.get("policy-a", 1) is None, "the old one is denied", seconds=5)
            after.publisher("policy-a").publish(b"on")


def test_a_key_expires_while_it_is_used(own_keyed: BroadcasterProcess) -> None:
    command("keygen", "guest", "--role", "actor", "--days", "0.00006", "--archive-dir", str(own_keyed.archive_dir))

    with (
        wait_until(lambda: opened(own_keyed, file_of(own_keyed, "guest")), "the guest is known", seconds=5) as guest,
        pytest.raises(AccessDenied),
    ):
        wait_until(lambda: guest.ping() is None, "the guest has gone", seconds=10)


def test_keys_and_clients_live_through_a_restart(own_keyed: BroadcasterProcess) -> None:
    with connected(own_keyed, "learner") as learner, connected(own_keyed, "actor") as actor:
        follows = actor.subscriber("policy-a")
        learner.publisher("policy-a").publish(b"x")
        assert follows.wait(timeout=10)
        own_keyed.restart(kill=True)
        number = learner.publisher("policy-a").publish(b"y").number
        assert follows.wait(newer_than=number - 1, timeout=20).version.number == number


# --- the first start ---------------------------------------------------------------------------------------------------


def test_an_address_of_the_network_gets_keys_at_the_first_start_and_no_secret_is_told(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path, options=["--host", "0.0.0.0"], http=True) as process:
        said = re.search(r"BROADCASTER_KEY=(\S+?)[\"\s]", process.log())
        assert said and "INSECURE" not in process.log()
        with clients.connect(process.url, key=said[1]) as client:
            client.publisher("policy").publish(b"x")
        with pytest.raises(AccessDenied):
            clients.connect(process.url, timeout=3)
        log = process.log()
        for file in (process.archive_dir / "keys").glob("*.key"):
            secret = parse_key(file.read_text(), file.name).secret
            assert secret not in log and secret not in process.ready_file.read_text()
        process.restart()
        with clients.connect(process.url, key=said[1]) as client:
            assert client.ping()


def test_insecure_opens_an_address_and_says_so(tmp_path: Path) -> None:
    make_keys(tmp_path / "archive")
    with BroadcasterProcess(tmp_path, options=["--host", "0.0.0.0", "--insecure"]) as process:
        assert "INSECURE" in process.log()
        with clients.connect(process.url) as client:
            client.publisher("policy").publish(b"x")


def test_insecure_asks_for_neither_keys_nor_tokens_whatever_there_is(tmp_path: Path) -> None:
    make_keys(tmp_path / "archive")
    assert command("token", "page", "--archive-dir", str(tmp_path / "archive")).returncode == 0
    with BroadcasterProcess(tmp_path, options=["--insecure"], http=True) as process:
        with clients.connect(process.url) as client:
            client.publisher("policy").publish(b"x")
        assert httpx.get(process.ready["http"] + "/v1/models").json()["models"][0]["model_id"] == "policy"
        told = process.log()
        assert "INSECURE: nobody needs a key" in told and "INSECURE: HTTP asks for no token" in told


# --- the broadcaster's own pair ----------------------------------------------------------------------------------------


def test_the_broadcasters_pair_is_changed_in_two_steps(tmp_path: Path) -> None:
    make_keys(tmp_path / "archive")
    with BroadcasterProcess(tmp_path) as process:
        old = key_of(process, "learner")
        made = command("keygen", "--server", "--archive-dir", str(process.archive_dir))
        assert made.returncode == 0 and command("keygen", "--server", "--archive-dir", str(process.archive_dir)).returncode == 1
        os.kill(process.pids[1], signal.SIGKILL)
        wait_until(lambda: "serves again" in process.log(), "the core lives again, with the pair that it had")
        with clients.connect(process.url, key=old) as client:
            client.publisher("policy-a").publish(b"still")
        process.restart()
        with pytest.raises(AccessDenied, match="another public key"):
            clients.connect(process.url, key=old, timeout=2)
        new = key_of(process, "learner")
        assert new.server in made.stdout and (new.public, new.secret) == (old.public, old.secret)
        with clients.connect(process.url, key=Key(old.name, old.public, old.secret, new.server)) as client:
            client.publisher("policy-a").publish(b"again")
        with connected(process, "actor") as actor, pytest.raises(AccessDenied):
            actor.registry.set_tags("policy-a", {"a": "b"})
        process.restart()
        assert key_of(process, "learner") == new, "there is no other one to take"
