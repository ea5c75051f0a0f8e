"""A peer for tests that says what it is told to say, right or wrong: bare sockets, no machine, no patience.

with BarePeer(broadcaster.ready) as peer:
    kind, fields = peer.ask("get-version", model_id="policy", ref=-1)
    peer.begin("policy", payload)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import xxhash
import zmq

from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import CHUNK

WAIT = 20.0
"""Seconds within which a condition must come true."""


def wait_until(condition: Callable[[], Any], what: str, *, seconds: float = WAIT) -> Any:
    """The first true value of `condition`. Raises AssertionError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.005)
    return found


class Said(NamedTuple):
    """A message that came: `kind` is empty for a chunk, whose bytes are `payload`."""

    kind: str
    fields: dict[str, Any]
    payload: bytes | None = None

    @property
    def code(self) -> str:
        """Of an error."""
        return str(self.fields.get("code", ""))

    @property
    def message(self) -> str:
        return str(self.fields.get("message", ""))


def digest(payload: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(payload)


class BarePeer:
    """One peer of a broadcaster: a DEALER on upload, a DEALER on data. `addresses` by channel.

    Once `alive` says no, it waits for nothing any more: what was waited for raises AssertionError at once.
    """

    def __init__(self, addresses: Mapping[str, str], *, alive: Callable[[], bool] | None = None) -> None:
        self._alive = alive
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        self.upload = self._connect(zmq.DEALER, addresses["upload"])
        self.data = self._connect(zmq.DEALER, addresses["data"])

    def _connect(self, kind: int, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.connect(address)
        self._sockets.append(socket)
        return socket

    def subscription(self, address: str, *topics: bytes) -> zmq.Socket[bytes]:
        socket = self._connect(zmq.SUB, address)
        for topic in topics:
            socket.subscribe(topic)
        return socket

    def close(self) -> None:
        for socket in self._sockets:
            socket.close()
        self._context.term()

    def __enter__(self) -> BarePeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- data ------------------------------------------------------------------------------------------------------

    def ask(self, kind: str, *, seconds: float = WAIT, **fields: Any) -> Said:
        """The reply to a request; what came for older ones is passed over."""
        fields = {"request_id": os.urandom(16)} | fields
        self.data.send_multipart([b"", kind.encode(), msgpack.packb(fields)])
        deadline = time.monotonic() + seconds
        while True:
            said = heard(self.data, f"an answer to {kind}", deadline - time.monotonic(), envelope=1, alive=self._alive)
            if said.fields.get("request_id") == fields["request_id"]:
                return said

    def stats(self) -> dict[str, float]:
        values: dict[str, float] = self.ask("get-stats").fields["values"]
        return values

    def numbers(self, model: str) -> list[int]:
        """The versions of a model that can be fetched; none when there is no such model."""
        said = self.ask("list-versions", model_id=model)
        return [version["number"] for version in said.fields.get("versions", [])]

    def read(self, model: str, number: int) -> bytes:
        """The whole payload."""
        info = self.ask("get-version", model_id=model, ref=number).fields["version"]
        return b"".join(
            self.ask("read", model_id=model, number=number, offset=at, length=CHUNK).payload or b""
            for at in range(0, info["size"], CHUNK)
        )

    # --- upload ----------------------------------------------------------------------------------------------------

    def say(self, kind: str, upload_id: bytes, *frames: bytes, **fields: Any) -> None:
        fields = {"request_id": os.urandom(16), "upload_id": upload_id} | fields
        self.upload.send_multipart([kind.encode(), msgpack.packb(fields), *frames])

    def chunk(self, upload_id: bytes, payload: bytes, index: int, **changes: Any) -> None:
        """One chunk of `payload`; `changes` are fields of its header that are said wrong."""
        data = payload[index * CHUNK : (index + 1) * CHUNK]
        header = {"transfer": upload_id, "size": len(payload), "offset": index * CHUNK, "length": len(data)} | changes
        self.upload.send_multipart([b"", ChunkHeader(**header).pack(), data])

    def heard(self, what: str = "an answer", *, seconds: float = WAIT) -> Said:
        """The next message on the upload channel."""
        return heard(self.upload, what, seconds, alive=self._alive)

    def silent(self) -> bool:
        """Whether nothing waits on the upload channel. Ask for something else first: then what was sent before is dealt with."""
        return not self.upload.poll(0)

    def outcome(self, what: str = "the end of an upload") -> Said:
        """The next message on the upload channel that is not a credit."""
        deadline = time.monotonic() + WAIT
        while (said := self.heard(what, seconds=deadline - time.monotonic())).kind == "credit":
            pass
        return said

    def publish(self, model: str, payload: bytes, **fields: Any) -> Said:
        """A whole upload in lockstep, small or large, and what came of it."""
        upload_id = fields.pop("upload_id", os.urandom(16))
        fields = {"model_id": model, "size": len(payload)} | fields
        if len(payload) <= 64 << 10:
            self.say("publish", upload_id, payload, **({"digest": digest(payload)} | fields))
            return self.outcome()
        declared = fields.pop("digest", digest(payload))
        self.say("begin", upload_id, **fields)
        sent = 0
        while sent < -(-len(payload) // CHUNK):
            said = self.heard()
            if said.kind != "credit":
                return said
            for index in range(sent, said.fields["until"]):
                self.chunk(upload_id, payload, index)
            sent = said.fields["until"]
        self.say("commit", upload_id, digest=declared)
        return self.outcome()


def heard(
    socket: zmq.Socket[bytes], what: str, seconds: float, *, envelope: int = 0, alive: Callable[[], bool] | None = None
) -> Said:
    deadline = time.monotonic() + seconds
    while not socket.poll(max(0, int(min(deadline - time.monotonic(), 0.05 if alive else seconds) * 1000))):
        assert alive is None or alive(), f"nobody is there any more to say: {what}"
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
    return understood(socket.recv_multipart()[envelope:])


def understood(frames: Sequence[bytes]) -> Said:
    if not frames[0]:
        return Said("", {"request_id": frames[1][32:48]}, frames[2])
    return Said(frames[0].decode(), msgpack.unpackb(frames[1]), frames[2] if len(frames) > 2 else None)


def staged(archive: Path) -> list[str]:
    """Files that an upload has reserved on disk and not made a version of yet."""
    return [entry.name for entry in (archive / "staging").iterdir()]
