"""What stands between a client and a broadcaster: passes bytes on, holds them back at a given count, cuts connections.

with Forwarder(broadcaster.ready) as forwarder:
    client = connect(forwarder.url)
    forwarder.hold("upload", UP, 2_000_000)     # so many bytes of uploads pass, then nothing, until `release`

It listens on 127.0.0.2 with the broadcaster's ports: a client keeps its host and learns the ports from `welcome`.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Mapping

HOST = "127.0.0.2"
UP, DOWN = "up", "down"
"""From the client, and to it."""
PIECE = 1 << 16
WAIT = 20.0


class Forwarder:
    """Passes the three channels on. With `cuts`, each connection is cut after about so many bytes, at random by `seed`."""

    def __init__(self, addresses: Mapping[str, str], *, seed: int = 0, cuts: int | None = None) -> None:
        self.seed = seed
        self.count = 0
        """Connections that were cut."""
        self._random = random.Random(seed)
        self._cuts = cuts
        self._passed: dict[tuple[str, str], int] = {}
        self._limits: dict[tuple[str, str], int] = {}
        self._lost: dict[bytes, int] = {}
        self._changed = threading.Condition()
        self._over = False
        self._listeners: list[socket.socket] = []
        self._links: set[tuple[socket.socket, socket.socket]] = set()
        self._threads: list[threading.Thread] = []
        for channel in ("upload", "push", "data"):
            port = int(addresses[channel].rpartition(":")[2])
            self._listen(channel, port)
        self.url = f"tcp://{HOST}:{port}"
        self.addresses = {
            channel: address.replace("127.0.0.1", HOST) for channel, address in addresses.items() if channel != "pids"
        }

    # --- what a test does --------------------------------------------------------------------------------------------

    def hold(self, channel: str, direction: str, after: int) -> None:
        """Lets `after` more bytes pass, and nothing behind them."""
        with self._changed:
            self._limits[channel, direction] = self._passed.get((channel, direction), 0) + after

    def wait_until_held(self, channel: str, direction: str) -> None:
        """Returns when as many bytes have passed as may."""
        way = channel, direction
        with self._changed:
            full = self._changed.wait_for(lambda: self._passed.get(way, 0) >= self._limits[way], WAIT)
        assert full, f"{way}: {self._passed.get(way, 0)} of {self._limits[way]} bytes came"

    def release(self, *ways: tuple[str, str]) -> None:
        """Everything passes again; or what goes these ways."""
        with self._changed:
            for way in ways or list(self._limits):
                del self._limits[way]
            self._changed.notify_all()

    def lose(self, kind: str, times: int) -> None:
        """The next messages of this kind do not come to their client, so many of them: their connections are cut instead."""
        with self._changed:
            self._lost[bytes([1, len(kind)]) + kind.encode()] = times  # As a first frame of several is on the wire.

    @property
    def to_lose(self) -> int:
        """How many of those are still to come."""
        with self._changed:
            return sum(self._lost.values())

    def stop_cutting(self) -> None:
        """Connections made from now on live."""
        self._cuts = None

    def cut(self) -> None:
        """Cuts every connection now."""
        for link in list(self._links):
            self._cut(link)

    def close(self) -> None:
        self._over = True
        self.release()
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(WAIT)

    def __enter__(self) -> Forwarder:
        return self

    def __exit__(self, *_: object) -> None:
        print(f"forwarder: seed {self.seed}, {self.count} connections were cut")
        self.close()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _listen(self, channel: str, port: int) -> None:
        listener = socket.create_server((HOST, port), backlog=64)
        self._listeners.append(listener)
        self._start(self._accept, listener, channel, port)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, channel: str, port: int) -> None:
        while not self._over:
            try:
                ours, _ = listener.accept()
            except OSError:
                return
            try:
                theirs = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
            except OSError:
                ours.close()  # Nobody is there now: the client tries again.
                continue
            theirs.settimeout(None)
            link = ours, theirs
            self._links.add(link)
            left = [self._random.expovariate(1 / self._cuts) if self._cuts is not None else float("inf")]
            self._start(self._pump, link, ours, theirs, (channel, UP), left)
            self._start(self._pump, link, theirs, ours, (channel, DOWN), left)

    def _pump(
        self,
        link: tuple[socket.socket, socket.socket],
        source: socket.socket,
        target: socket.socket,
        way: tuple[str, str],
        left: list[float],
    ) -> None:
        try:
            while data := source.recv(PIECE):
                if way[1] == DOWN and self._is_lost(data):
                    return
                while data:
                    piece = data[: self._may_pass(way, link)]
                    data = data[len(piece) :]
                    left[0] -= len(piece)
                    if left[0] < 0:
                        self.count += 1
                        return
                    target.sendall(piece)
                    with self._changed:
                        self._passed[way] = self._passed.get(way, 0) + len(piece)
                        self._changed.notify_all()
        except OSError:
            pass  # One of the ends is gone.
        finally:
            self._cut(link)

    def _is_lost(self, data: bytes) -> bool:
        with self._changed:
            found = next((mark for mark, left in self._lost.items() if left and mark in data), None)
            if found is not None:
                self._lost[found] -= 1
                self.count += 1
        return found is not None

    def _may_pass(self, way: tuple[str, str], link: tuple[socket.socket, socket.socket]) -> int:
        """How many bytes may pass now; waits until that is one at least. Raises OSError when the connection is cut meanwhile."""
        with self._changed:
            while True:
                room = self._limits.get(way, 1 << 62) - self._passed.get(way, 0)
                if link not in self._links:
                    raise OSError("cut")
                if room > 0:
                    return min(room, PIECE)
                self._changed.wait(0.05)

    def _cut(self, link: tuple[socket.socket, socket.socket]) -> None:
        self._links.discard(link)
        for end in link:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # A reset, as a broken line gives.
                end.shutdown(socket.SHUT_RDWR)
            end.close()
