"""Connections as libzmq tells of them: counted, bounded, cut where that is needed, and forgotten when they end."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from broadcaster.broker import uploads
from broadcaster.protocol.keyfile import parse_key
from broadcaster.protocol.names import EVENTS, topic
from broadcaster.security import Grant, KeyDirectory
from broadcaster.server import connections, loop, topics
from broadcaster.server.core import Core
from broadcaster.server.manners import IN_A_ROW
from broadcaster.server.wire import Line
from tests.bare_peer import BarePeer, heard, wait_until
from tests.hostile import MIB, answered, frame, greeting, ready
from tests.integration.cores import serving

OURS = 2
"""Connections of a bare peer."""


def where(core: Core, channel: str) -> tuple[str, int]:
    host, _, port = core.endpoints[channel].removeprefix("tcp://").rpartition(":")
    return host, int(port)


def is_cut(line: socket.socket) -> bool:
    """Whether the other end has hung up. What it said is read meanwhile."""
    line.settimeout(0.05)
    try:
        while line.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@pytest.fixture
def lines() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def test_connections_are_counted_and_forgotten(tmp_path: Path, lines: contextlib.ExitStack) -> None:
    with serving(tmp_path) as (core, peer):
        wait_until(lambda: peer.stats()["connections"] == OURS, "it sees us")
        for channel in ("upload", "push", "data"):
            lines.enter_context(socket.create_connection(where(core, channel)))
        with BarePeer({name: f"ipc://{core.slot_directory}/{name}.sock" for name in ("upload", "data")}) as near:
            near.stats()
            wait_until(lambda: peer.stats()["connections"] == OURS + 5, "all five are counted")
        wait_until(lambda: peer.stats()["connections"] == OURS + 3, "the two have gone")
        lines.close()
        wait_until(lambda: peer.stats()["connections"] == OURS, "all have gone")


def test_more_connections_than_are_allowed_are_refused_and_others_go_on(tmp_path: Path, lines: contextlib.ExitStack) -> None:
    with serving(tmp_path, max_connections=20) as (core, peer):
        peer.stats()
        crowd = [lines.enter_context(socket.create_connection(where(core, "data"))) for _ in range(30)]
        wait_until(lambda: peer.stats()["connections_refused"] >= 15, "those that are too many are refused")
        assert peer.stats()["connections"] <= 20
        assert sum(is_cut(one) for one in crowd) >= 15
        with BarePeer({name: f"ipc://{core.slot_directory}/{name}.sock" for name in ("upload", "data")}) as near:
            assert near.stats()["connections"], "who comes by ipc has room"
        lines.close()
        wait_until(lambda: peer.stats()["connections"] <= 4, "those that had room have gone")
        with BarePeer(core.endpoints) as other:
            assert other.stats()["connections"]


def test_new_connections_have_a_pace(tmp_path: Path, lines: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BURST", 10)
    monkeypatch.setattr(connections, "RATE", 20.0)
    with serving(tmp_path) as (core, peer):
        wait_until(lambda: peer.stats()["connections"] == OURS, "we are in before the crowd")
        for _ in range(100):
            lines.enter_context(socket.create_connection(where(core, "data")))
        wait_until(lambda: peer.stats()["connections_refused"] >= 50, "most of them are refused")

        def gets_in() -> bool:
            with BarePeer(core.endpoints) as other, contextlib.suppress(AssertionError):  # It was cut, and its question with it.
                return bool(other.ask("ping", seconds=1).kind == "pong")
            return False

        wait_until(gets_in, "whoever comes again gets in")


def comes_and_goes(core: Core, channel: str, mechanism: bytes = b"NULL") -> None:
    """Somebody for a moment, unless he is refused."""
    with contextlib.suppress(OSError), socket.create_connection(where(core, channel)) as line:
        line.sendall(greeting(mechanism))
        answered(line)


def test_subscribers_that_leave_at_once_are_held_off_when_they_hold_us_up_and_those_that_stay_are_not(
    tmp_path: Path, lines: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path) as (core, peer):
        wait_until(lambda: peer.stats()["connections"] == OURS, "we are in")
        stays = lines.enter_context(socket.create_connection(where(core, "push")))
        stays.sendall(greeting(b"NULL"))
        answered(stays)
        stays.sendall(ready(b"SUB"))
        for _ in range(2 * connections.FLEETING_BURST):
            comes_and_goes(core, "push")
        wait_until(lambda: peer.stats()["connections"] == OURS + 1, "they have gone")
        assert peer.stats()["connections_refused"] == 0, "nobody was harmed"
        monkeypatch.setattr(core._connections, "_laden", lambda: True)

        def is_refused() -> bool:
            comes_and_goes(core, "push")
            return peer.stats()["connections_refused"] >= 20

        wait_until(is_refused, "hardly anybody gets in")
        assert not is_cut(stays)
        assert peer.stats()["connections_cut"] == 0
        with BarePeer({name: f"ipc://{core.slot_directory}/{name}.sock" for name in ("upload", "data")}) as near:
            assert near.stats()["connections"], "who comes by ipc has room"


def test_those_that_leave_another_channel_at_once_are_nobodys_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path) as (core, peer):
        monkeypatch.setattr(core._connections, "_laden", lambda: True)
        wait_until(lambda: peer.stats()["connections"] == OURS, "we are in")
        for _ in range(2 * connections.FLEETING_BURST):
            comes_and_goes(core, "data")
        wait_until(lambda: peer.stats()["connections"] == OURS, "they have gone")
        assert peer.stats()["connections_refused"] == 0


def test_subscribers_that_go_cost_much_where_there_are_many_topics_or_the_loop_does_not_get_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    with serving(tmp_path) as (core, peer):
        wait_until(lambda: not core.loop.is_laden, "it waits")
        core.loop.post(lambda: release.wait(30))
        wait_until(lambda: core.loop.is_laden, "it is held up")
        release.set()
        wait_until(lambda: not core.loop.is_laden, "it waits again")
        monkeypatch.setattr(loop, "MANY", 2)
        peer.subscription(core.endpoints["push"], *(topic("default", f"m{n}", EVENTS) for n in range(3)))
        wait_until(lambda: core.loop.is_laden, "there are many topics")


def test_who_is_cut_for_a_change_of_keys_has_not_left(
    tmp_path: Path, lines: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path) as (core, peer):
        crowd = [socket.create_connection(where(core, "push")) for _ in range(2 * connections.FLEETING_BURST)]
        wait_until(lambda: peer.stats()["connections"] == OURS + len(crowd), "all are counted")
        monkeypatch.setattr(core._connections, "_laden", lambda: True)
        core._connections.excuse()
        for one in crowd:
            one.close()
        wait_until(lambda: peer.stats()["connections"] == OURS, "all have gone")
        again = [lines.enter_context(socket.create_connection(where(core, "push"))) for _ in range(len(crowd))]
        wait_until(lambda: peer.stats()["connections"] == OURS + len(again), "all are back")
        assert peer.stats()["connections_refused"] == 0


def test_a_connection_that_subscribes_without_end_is_cut_and_others_keep_theirs(
    tmp_path: Path, lines: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "TOPICS", 100)
    with serving(tmp_path) as (core, peer):
        follower = peer.subscription(core.endpoints["push"], *(b"default/m%d\0e" % n for n in range(100)))
        wait_until(lambda: peer.stats()["subscriptions"] == 100, "one that follows many models is served")
        line = lines.enter_context(socket.create_connection(where(core, "push")))
        line.sendall(greeting(b"NULL"))
        assert answered(line, 5)
        line.sendall(ready(b"SUB"))
        with contextlib.suppress(OSError):
            line.sendall(b"".join(frame(b"\x01default/x%d\0e" % n) for n in range(5000)))
        wait_until(lambda: is_cut(line), "it is cut")
        wait_until(lambda: peer.stats()["subscriptions"] == 100, "what it wanted is forgotten")
        assert peer.stats()["connections_cut"] == 1
        peer.publish("m7", b"x")
        wait_until(lambda: follower.poll(100) and follower.recv_multipart()[1] == b"event", "the others are told")


def test_a_connection_whose_message_never_ends_is_cut(
    tmp_path: Path, lines: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "GROWTH", 48 << 20)
    with serving(tmp_path) as (core, peer):
        line = lines.enter_context(socket.create_connection(where(core, "upload")))
        line.sendall(greeting(b"NULL"))
        assert answered(line, 5)
        line.sendall(ready(b"DEALER"))
        part = frame(bytes(MIB - 64), more=True)
        line.settimeout(0.5)
        with pytest.raises(OSError):
            for _ in range(2000):
                line.sendall(part)
        wait_until(lambda: peer.stats()["connections_cut"] == 1, "it is counted")
        assert peer.publish("m", os.urandom(3 * MIB)).kind == "done"


def test_whoever_has_not_shown_a_key_cannot_send_more_than_a_handshake_takes(tmp_path: Path, lines: contextlib.ExitStack) -> None:
    keys = KeyDirectory(tmp_path / "keys")
    keys.make("admin", Grant("admin", "*", "*"))
    with serving(tmp_path, keys_dir=tmp_path / "keys") as (core, _):
        strangers = [lines.enter_context(socket.create_connection(where(core, name))) for name in ("upload", "data")]
        for line in strangers:
            line.sendall(greeting(b"CURVE"))
            assert answered(line, 5)
            line.sendall(frame(bytes(MIB - 64))[: MIB // 2])
        for line in strangers:
            wait_until(lambda line=line: is_cut(line), "it is cut long before its handshake is given up", seconds=3)
        with BarePeer({name: f"ipc://{core.slot_directory}/{name}.sock" for name in ("upload", "data")}) as near:
            assert near.stats()["connections_cut"] == 2


def test_who_leaves_at_once_without_having_shown_a_key_is_held_off_and_who_has_one_is_not(tmp_path: Path) -> None:
    key = parse_key(KeyDirectory(tmp_path / "keys").make("admin", Grant("admin", "*", "*")).read_text(), "admin")
    with serving(tmp_path, keys_dir=tmp_path / "keys") as (core, _):
        with BarePeer({name: f"ipc://{core.slot_directory}/{name}.sock" for name in ("upload", "data")}) as near:
            for _ in range(2 * connections.FLEETING_BURST):
                with zmq.Context() as context, context.socket(zmq.DEALER) as one:
                    one.linger = 0
                    one.curve_publickey, one.curve_secretkey = key.public.encode(), key.secret.encode()
                    one.curve_serverkey = key.server.encode()
                    one.connect(core.endpoints["data"])
                    one.send_multipart([b"", b"ping", msgpack.packb({"request_id": bytes(16)})])
                    assert one.poll(10_000)
                    wait_until(lambda: not core._connections._unproven, "its key is known to be good")
            assert near.stats()["connections_refused"] == 0

            def is_refused() -> bool:
                comes_and_goes(core, "data", b"CURVE")
                return near.stats()["connections_refused"] >= 20

            wait_until(is_refused, "hardly anybody gets in")


def test_a_crowd_that_shows_no_key_is_looked_at_a_few_at_a_time(
    tmp_path: Path, lines: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the interpreter meanwhile waits no longer than for those few."""
    KeyDirectory(tmp_path / "keys").make("admin", Grant("admin", "*", "*"))
    in_a_turn, seen = [0], Counter[Line]()
    with serving(tmp_path, keys_dir=tmp_path / "keys") as (core, _):
        look, traffic = core._connections._look_at_strangers, Line.traffic

        def turn(now: float) -> None:
            in_a_turn.append(0)
            look(now)

        def looked_at(line: Line) -> tuple[int, int] | None:
            in_a_turn[-1] += 1
            seen[line] += 1
            return traffic(line)

        monkeypatch.setattr(core._connections, "_look_at_strangers", turn)
        monkeypatch.setattr(Line, "traffic", looked_at)
        crowd = [lines.enter_context(socket.create_connection(where(core, "data"))) for _ in range(200)]
        wait_until(lambda: sum(count >= 3 for count in list(seen.values())) >= len(crowd), "all are looked at, again and again")
    assert max(in_a_turn) <= connections._A_FEW


def test_nobody_is_cut_who_sends_much_as_soon_as_its_key_is_known(tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path / "keys")
    file = keys.make("admin", Grant("admin", "*", "*"))
    key = parse_key(file.read_text(), "admin")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    senders = [context.socket(zmq.DEALER) for _ in range(20)]
    with serving(tmp_path, keys_dir=tmp_path / "keys") as (core, _):
        try:
            for one in senders:
                one.curve_publickey, one.curve_secretkey = key.public.encode(), key.secret.encode()
                one.curve_serverkey = key.server.encode()
                one.connect(core.endpoints["upload"])
                for _ in range(3):
                    one.send_multipart([b"", b"x" * 64, bytes(MIB - 100)])
            with BarePeer({name: f"ipc://{core.slot_directory}/{name}.sock" for name in ("upload", "data")}) as near:
                wait_until(lambda: near.stats()["bad_messages"] == 60, "all of it came")
                assert near.stats()["connections_cut"] == 0
        finally:
            context.destroy(linger=0)


@pytest.mark.parametrize("channel", ["upload", "data"])
def test_a_connection_that_sends_nothing_of_the_protocol_is_cut(
    tmp_path: Path, lines: contextlib.ExitStack, channel: str
) -> None:
    with serving(tmp_path) as (core, peer):
        wait_until(lambda: peer.stats()["connections"] == OURS, "it sees us")
        line = lines.enter_context(socket.create_connection(where(core, channel)))
        line.sendall(greeting(b"NULL"))
        assert answered(line, 5)
        with contextlib.suppress(OSError):
            line.sendall(ready(b"DEALER") + frame(b"x") * (10 * IN_A_ROW))
        wait_until(lambda: is_cut(line), "it is cut")
        assert peer.stats()["connections_cut"] == 1 and peer.stats()["bad_messages"] == IN_A_ROW
        wait_until(lambda: peer.stats()["connections"] == OURS, "the others are there")
        assert peer.publish("m", b"x").kind == "done"


def test_whoever_says_something_right_in_between_is_not_cut(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, peer):
        for _ in range(5):
            for _ in range(IN_A_ROW - 1):
                peer.data.send_multipart([b"", b"x"])
                heard(peer.data, "a refusal", 20, envelope=1)  # In step: else answers are dropped where too many wait.
            peer.stats()
        assert peer.stats()["connections_cut"] == 0 and peer.stats()["bad_messages"] == 5 * (IN_A_ROW - 1)


def test_uploads_under_way_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST", 3)
    with serving(tmp_path) as (_, peer):
        begun = [os.urandom(16) for _ in range(3)]
        for upload_id in begun:
            peer.say("begin", upload_id, model_id="m", size=MIB * 2)
            assert peer.heard().kind == "credit"
        peer.say("begin", os.urandom(16), model_id="m", size=MIB * 2)
        assert peer.heard().code == "busy"
        peer.say("abort", begun[0])
        assert peer.heard().kind == "aborted"
        peer.say("begin", os.urandom(16), model_id="m", size=MIB * 2)
        assert peer.heard().kind == "credit"
