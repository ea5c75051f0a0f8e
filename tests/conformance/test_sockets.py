"""The socket recipe, read back from real sockets: the broadcaster's as its channels make them, a client's by the table."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path

import pytest
import zmq

from broadcaster.protocol.limits import CHUNK
from broadcaster.protocol.sockets import CLIENT, PUSH_HWM, SERVER
from broadcaster.server.channels import Binding, Channels

ROOT = Path(__file__).parent.parent.parent
TYPES = {"upload": zmq.DEALER, "lane": zmq.DEALER, "push": zmq.SUB, "data": zmq.DEALER}
WRITE_ONLY = {"ROUTER_MANDATORY", "ROUTER_HANDOVER", "XPUB_MANUAL"}
"""libzmq does not tell these: what they do is looked at instead."""


@pytest.fixture
def context() -> Generator[zmq.Context[zmq.Socket[bytes]], None, None]:
    with zmq.Context() as made:
        yield made


@pytest.fixture
def channels(context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> Generator[Channels, None, None]:
    made = Channels(context, Binding("127.0.0.1", 0, 0, 0, tmp_path))
    yield made
    made.close()


def client(context: zmq.Context[zmq.Socket[bytes]], name: str, channels: Channels | None = None) -> zmq.Socket[bytes]:
    """A client's socket, as the recipe says."""
    socket = context.socket(TYPES[name])
    for option, value in CLIENT[name].items():
        socket.setsockopt(getattr(zmq, option), value)
    if channels is not None:
        socket.connect(f"tcp://127.0.0.1:{channels.ports[name]}")
    return socket


def ready(socket: zmq.Socket[bytes], seconds: float = 10.0) -> bool:
    return bool(socket.poll(int(seconds * 1000)))


@pytest.mark.parametrize("name", sorted(SERVER))
def test_the_broadcasters_sockets_have_the_options_of_the_table(channels: Channels, name: str) -> None:
    socket: zmq.Socket[bytes] = getattr(channels, name)
    found = {option: socket.getsockopt(getattr(zmq, option)) for option in SERVER[name] if option not in WRITE_ONLY}
    assert found == {option: value for option, value in SERVER[name].items() if option not in WRITE_ONLY}
    assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 0


@pytest.mark.parametrize("name", sorted(CLIENT))
def test_a_clients_sockets_have_the_options_of_the_table(context: zmq.Context[zmq.Socket[bytes]], name: str) -> None:
    with client(context, name) as socket:
        assert {option: socket.getsockopt(getattr(zmq, option)) for option in CLIENT[name]} == CLIENT[name]
        assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 0


@pytest.mark.parametrize("name", ["upload", "data"])
def test_a_router_says_when_its_peer_is_gone(channels: Channels, name: str) -> None:
    with pytest.raises(zmq.ZMQError) as refused:
        getattr(channels, name).send_multipart([b"nobody", b"", b"x"], zmq.NOBLOCK)
    assert refused.value.errno == zmq.EHOSTUNREACH


def test_a_peer_cannot_take_the_place_of_another(context: zmq.Context[zmq.Socket[bytes]], channels: Channels) -> None:
    with client(context, "data") as first, client(context, "data") as second:
        for socket in (first, second):
            socket.setsockopt(zmq.ROUTING_ID, b"same")
            socket.connect(f"tcp://127.0.0.1:{channels.ports['data']}")
            socket.send_multipart([b"", b"who"])
            assert socket is second or ready(channels.data)
        assert channels.data.recv_multipart() == [b"same", b"", b"who"]
        channels.data.send_multipart([b"same", b"", b"you"])
        assert ready(first) and first.recv_multipart() == [b"", b"you"]


def test_only_what_was_accepted_is_pushed(context: zmq.Context[zmq.Socket[bytes]], channels: Channels) -> None:
    with client(context, "push", channels) as actor:
        actor.setsockopt(zmq.SUBSCRIBE, b"")
        assert ready(channels.push) and channels.push.recv() == b"\1"
        channels.push.send(b"not accepted")
        actor.setsockopt(zmq.SUBSCRIBE, b"topic")
        assert ready(channels.push) and channels.push.recv() == b"\1topic"
        channels.push.setsockopt(zmq.SUBSCRIBE, b"topic")
        channels.push.send(b"other")
        channels.push.send(b"topic and more")
        assert ready(actor) and actor.recv() == b"topic and more"


def test_a_chunk_fits_into_every_channel_that_carries_chunks() -> None:
    for table in (SERVER, CLIENT):
        for name in table:
            assert "MAXMSGSIZE" in table[name]
            assert table[name]["MAXMSGSIZE"] >= CHUNK or (table is SERVER and name == "push")
    assert SERVER["push"]["SNDHWM"] == PUSH_HWM >= CLIENT["push"]["RCVHWM"] > 0
    assert "XPUB_NODROP" not in SERVER["push"]


def test_both_sides_serve_the_same_channels() -> None:
    assert set(SERVER) | {"lane"} == set(CLIENT) == set(TYPES)


def test_no_source_sets_a_heartbeat_or_another_banned_option() -> None:
    banned = re.compile(r"HEARTBEAT_(IVL|TTL|TIMEOUT)|XPUB_NODROP\b(?!\s*\()|\bROUTING_ID\b|\bIDENTITY\b")
    for folder in ("broadcaster", "clients"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.DOTALL)
            assert banned.search(code) is None, f"{path.relative_to(ROOT)} sets {banned.search(code)}"
