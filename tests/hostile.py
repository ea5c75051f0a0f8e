"""Peers that mean harm, as raw sockets: what anybody can do who reaches the ports and has no key.

python -m tests.hostile ATTACK SECONDS ADDRESSES   does it for so long, at a bounded pace, with the lowest priority
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import zmq

from broadcaster.protocol.keyfile import Key
from tests.broadcaster_process import BroadcasterProcess

ROOT = Path(__file__).parent.parent
PACE = 300.0
"""Connections a second, at most: more would measure the scheduler, which the attacker has to share with the attacked."""
SILENT = 2000
"""Connections that say nothing."""
MIB = 1 << 20


def greeting(mechanism: bytes, *, minor: int = 0) -> bytes:
    return b"\xff" + bytes(8) + b"\x7f\x03" + bytes([minor]) + mechanism.ljust(20, b"\0") + bytes(32)


def frame(body: bytes, *, more: bool = False, command: bool = False) -> bytes:
    kind = (1 if more else 0) | (4 if command else 0)
    if len(body) > 255:
        return bytes([kind | 2]) + struct.pack(">Q", len(body)) + body
    return bytes([kind, len(body)]) + body


def ready(kind: bytes) -> bytes:
    return frame(b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind, command=True)


def answered(line: socket.socket, seconds: float = 0.5) -> bytes:
    """A whole greeting and, where no key is needed, what comes behind it. libzmq hangs up on whoever goes on before that."""
    line.settimeout(seconds)
    said = b""
    try:
        while len(said) < 64 or (b"NULL" in said and b"READY" not in said):
            more = line.recv(4096)
            if not more:
                break
            said += more
    except TimeoutError:
        pass
    finally:
        line.settimeout(2)
    return said


PING = frame(b"\x04PING\0\0", command=True)
KINDS = {"upload": b"DEALER", "push": b"SUB", "data": b"DEALER"}


class Hostile:
    """One who reaches these addresses (by channel, as the ready file tells them)."""

    def __init__(self, addresses: Mapping[str, str], seconds: float, seed: int = 0) -> None:
        self._ports = {
            name: (where.hostname, where.port)
            for name, address in addresses.items()
            if name in (*KINDS, "http") and (where := urlsplit(address)).port
        }
        self._addresses = addresses
        self._until = time.monotonic() + seconds
        self._rng = random.Random(seed)
        self._begun, self._count = time.monotonic(), 0

    # --- how it goes about it ----------------------------------------------------------------------------------------

    def turns(self) -> Iterator[int]:
        """Counts until the time is over, at the pace."""
        while (now := time.monotonic()) < self._until:
            ahead = self._count / PACE - (now - self._begun)
            if ahead > 0:
                time.sleep(min(ahead, self._until - now))
            self._count += 1
            yield self._count

    def connected(self, name: str) -> socket.socket:
        """Nothing is waited for long: an attacked one need not answer."""
        return socket.create_connection(self._ports[name], timeout=2)

    def say(self, name: str, *pieces: bytes) -> None:
        """One connection, which says that, waiting for what is answered to the first of several pieces, and goes."""
        with contextlib.suppress(OSError), self.connected(name) as line:
            line.sendall(pieces[0])
            if pieces[1:]:
                answered(line)
                line.sendall(b"".join(pieces[1:]))

    # --- what it does ------------------------------------------------------------------------------------------------

    def garbage(self) -> None:
        """Random bytes, other protocols, and greetings of all versions that there ever were, cut off anywhere."""
        said = [
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + os.urandom(64),
            b"\x01\0",
            b"\xff" + bytes(8) + b"\x7f\x01\x05",
            greeting(b"NULL") + ready(b"STREAM"),
            greeting(b"PLAIN") + frame(b"\x05HELLO\x01a\x01b", command=True),
            greeting(b"CURVE") + frame(b"\x05HELLO\x01\0" + os.urandom(192), command=True),
            greeting(b"\xff" * 20) + os.urandom(200),
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        ]
        for turn in self.turns():
            bytes_ = said[turn % len(said)] if turn % 3 else self._rng.randbytes(self._rng.randrange(5000))
            cut = self._rng.randrange(len(bytes_) + 1) if turn % 2 else len(bytes_)
            self.say(list(self._ports)[turn % len(self._ports)], bytes_[:cut])

    def floods(self) -> None:
        """Messages that nobody asked for, as many as go into a connection before it is closed."""
        for turn in self.turns():
            name = list(KINDS)[turn % 3]
            for mechanism in (b"NULL", b"CURVE"):
                self.say(name, greeting(mechanism), ready(KINDS[name]), frame(os.urandom(40)) * 5000)

    def pings(self) -> None:
        """Heartbeats between messages, and gone before they are answered: what aborts a libzmq that takes them in."""
        channels = list(KINDS) if "key" in self._addresses else ["upload", "data"]  # The push channel stands it with keys only.
        for turn in self.turns():
            name = channels[turn % len(channels)]
            message = frame(b"\x01t") if name == "push" else frame(b"x")
            for mechanism in (b"NULL", b"CURVE"):
                self.say(name, greeting(mechanism), ready(KINDS[name]), (message + PING) * 3000)

    def subscriptions(self) -> None:
        """Topics without end, each another one."""
        for turn in self.turns():
            topics = b"".join(frame(b"\x01default/m%d-%d\0e" % (turn, n)) for n in range(2000))
            for mechanism in (b"NULL", b"CURVE"):
                self.say("push", greeting(mechanism), ready(b"SUB"), topics)

    def multipart(self) -> None:
        """One message that never ends, in a few connections at a time: nothing of it can be read, all of it has to be kept."""
        part = frame(bytes(MIB - 64), more=True)
        for _ in self.turns():
            with contextlib.ExitStack() as lines, contextlib.suppress(OSError):
                for name in ("upload", "data", "upload", "data"):
                    line = lines.enter_context(self.connected(name))
                    mechanism = self._rng.choice([b"NULL", b"CURVE"])
                    line.sendall(greeting(mechanism))
                    answered(line)
                    line.sendall(ready(b"DEALER") if mechanism == b"NULL" else b"")
                    for _ in range(8):
                        line.sendall(part[: MIB // 2 if mechanism == b"CURVE" else None])

    def silence(self) -> None:
        """Connections that say nothing at all, or half of a greeting, and stay."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        with contextlib.ExitStack() as lines:
            for n in range(SILENT):
                with contextlib.suppress(OSError):
                    line = lines.enter_context(self.connected(list(self._ports)[n % len(self._ports)]))
                    line.sendall(greeting(b"CURVE")[: (n * 7) % 64])
            time.sleep(max(0.0, self._until - time.monotonic()))

    def handshakes(self) -> None:
        """Keys that nobody knows, and the first step of a handshake again and again."""
        hello = greeting(b"CURVE") + frame(b"\x05HELLO\x01\0" + bytes(72) + os.urandom(120), command=True)
        server = zmq.curve_keypair()[0]
        with zmq.Context() as context:
            for turn in self.turns():
                name = list(KINDS)[turn % 3]
                if turn % 10:
                    self.say(name, hello)
                    continue
                with context.socket(zmq.SUB if name == "push" else zmq.DEALER) as stranger:
                    stranger.linger = 0
                    stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
                    stranger.curve_serverkey = self._addresses.get("key", server.decode()).encode()
                    stranger.connect(self._addresses[name])
                    time.sleep(0.01)


ATTACKS: dict[str, Callable[[Hostile], None]] = {
    "garbage": Hostile.garbage,
    "floods": Hostile.floods,
    "pings": Hostile.pings,
    "subscriptions": Hostile.subscriptions,
    "multipart": Hostile.multipart,
    "silence": Hostile.silence,
    "handshakes": Hostile.handshakes,
}


def reached(process: BroadcasterProcess, key: Key | None = None) -> dict[str, str]:
    """What an attacker knows: the addresses, and the broadcaster's public key where there is one."""
    channels = {name: process.ready[name] for name in (*KINDS, "http") if name in process.ready}
    return channels | ({"key": key.server} if key else {})


def private(process: BroadcasterProcess) -> int:
    """Bytes of memory that are a broadcaster's alone, over its processes: no slots, and no libraries."""
    found = [Path(f"/proc/{pid}/status").read_text().partition("RssAnon:")[2].split() for pid in process.pids]
    return sum(int(words[0]) << 10 for words in found)


@contextlib.contextmanager
def attacked(name: str, addresses: Mapping[str, str], seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody does that for so long, in a process of their own. At the end of the block they are gone."""
    process = subprocess.Popen([sys.executable, "-m", __name__, name, str(seconds), json.dumps(addresses)], cwd=ROOT)
    try:
        yield process
        assert process.wait(seconds + 30) == 0, "the attacker gave up"
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    _, wanted, wanted_seconds, wanted_addresses = sys.argv
    os.nice(10)
    ATTACKS[wanted](Hostile(json.loads(wanted_addresses), float(wanted_seconds)))
