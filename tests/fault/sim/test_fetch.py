"""Reads over a link that loses, repeats and reorders: the payload, or a typed error, and never more requests than allowed."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from broadcaster.protocol import limits
from broadcaster.protocol.assembly import Assembly
from broadcaster.protocol.errors import DigestMismatch, RemoteProtocolError, VersionEvicted
from broadcaster.protocol.frames import ChunkHeader, decode, decode_header, encode
from broadcaster.protocol.limits import FAST_READS
from broadcaster.protocol.machines.fetch import Fetcher, FetcherState, Out
from broadcaster.protocol.messages import Error, Read
from broadcaster.protocol.version import VersionInfo
from tests.fault.sim.broadcaster import MODEL, NAMESPACE, digest_of, payload_sizes
from tests.fault.sim.link import NONE, Frames, Link, profile
from tests.fault.sim.peers import wire


class Server:
    """Serves one payload; from `gone_at` on it is evicted."""

    def __init__(self, payload: bytes, gone_at: float = float("inf")) -> None:
        self.payload = payload
        self.gone_at = gone_at

    def answer(self, frames: Frames, now: float) -> Iterator[list[bytes]]:
        read = decode(frames)
        assert isinstance(read, Read)
        for offset in range(read.offset, min(read.offset + read.length, len(self.payload)), limits.CHUNK):
            if now >= self.gone_at:
                error = VersionEvicted(model_id=read.model_id, number=read.number)
                yield encode(Error(request_id=read.request_id, code=error.code, message=str(error), facts=error.facts))
                return
            data = self.payload[offset : min(offset + limits.CHUNK, read.offset + read.length)]
            yield [b"", ChunkHeader(read.request_id, len(self.payload), offset, len(data)).pack(), data]


class Reading:
    """One fetch between two links."""

    def __init__(self, random: Random, payload: bytes, server: Server, digest: str | None = None) -> None:
        version = VersionInfo(
            namespace=NAMESPACE,
            model_id=MODEL,
            number=7,
            size=len(payload),
            digest=digest or digest_of(payload),
            creation_timestamp=1,
        )
        self.buffer = bytearray(b"\xaa" * len(payload))
        assembly = Assembly(memoryview(self.buffer))
        for index in range(assembly.count):  # Some chunks are here already: they were pushed.
            if random.random() < 0.3:
                assembly.view(index)[:] = payload[index * 64 : index * 64 + 64]
                assembly.add(index)
        self.per_read = random.choice([1, 2, 4])
        self.machine = Fetcher(version, assembly, lambda: random.randbytes(16), chunks_per_read=self.per_read)
        self.random = random
        self.expected = 0
        self.out, self.back = Link(random, profile(random)), Link(random, profile(random))
        self.server = server
        self.now = 50.0
        self.requests = 0

    def run(self, until: float) -> None:
        self._send(self.machine.start(self.now))
        while not self.machine.over:
            due = [time for time in (self.out.deadline, self.back.deadline, self.machine.deadline) if time is not None]
            if not due or min(due) > until:
                return
            self.now = max(self.now, min(due))
            while (frames := self.out.take(self.now)) is not None:
                for answer in self.server.answer(frames, self.now):
                    self.back.send(answer, self.now)
            while (frames := self.back.take(self.now)) is not None:
                self._arrived(frames)
            self._send(self.machine.expire(self.now))

    def heal(self) -> None:
        self.out.faults = self.back.faults = NONE

    def _arrived(self, frames: Frames) -> None:
        if frames[0]:
            self._send(self.machine.receive(decode(frames), self.now))
            return
        if self.random.random() < 0.5 and bytes(frames[1]) == self.machine.expected:
            place = self.machine.front
            place[:] = frames[2]
            self.expected += 1
            self._send(self.machine.placed_next(place, self.now))
            return
        header = decode_header(frames[1])
        view = self.machine.place(header)
        if view is not None:
            view[:] = frames[2]
            self._send(self.machine.placed(header, self.now))

    def _send(self, out: Out) -> None:
        assert len(out) <= FAST_READS
        for item in out:
            assert isinstance(item, Read) and 0 < item.length <= self.per_read * limits.CHUNK
            self.requests += 1
            self.out.send(wire(item), self.now)


@pytest.mark.parametrize("seed", range(120))
def test_a_fetch_ends_with_the_payload_or_with_the_servers_answer(seed: int, small_chunks: int) -> None:
    print(f"seed {seed}")
    random = Random(seed)
    payload = random.randbytes(random.choice(payload_sizes(small_chunks)))
    server = Server(payload, gone_at=50.0 + random.random() * 3 if random.random() < 0.3 else float("inf"))
    reading = Reading(random, payload, server)
    reading.run(until=60.0)
    reading.heal()
    reading.run(until=100.0)
    if reading.machine.state is FetcherState.DONE:
        assert bytes(reading.buffer) == payload
    else:
        assert reading.machine.state is FetcherState.FAILED and isinstance(reading.machine.error, VersionEvicted)
        assert server.gone_at < 60.0 or reading.now >= server.gone_at
    assert reading.machine.deadline is None


@pytest.mark.parametrize("seed", range(20))
def test_a_payload_that_is_not_the_versions_is_never_taken_for_it(seed: int, small_chunks: int) -> None:
    print(f"seed {seed}")
    random = Random(seed)
    payload = random.randbytes(random.choice(payload_sizes(small_chunks)[1:]))
    reading = Reading(random, payload, Server(payload), digest=digest_of(payload + b"!"))
    reading.heal()
    reading.run(until=100.0)
    assert reading.machine.state is FetcherState.FAILED and isinstance(reading.machine.error, DigestMismatch)


def test_an_answer_of_another_size_is_refused(small_chunks: int) -> None:
    random = Random(1)
    payload = random.randbytes(5 * small_chunks)
    reading = Reading(random, payload, Server(payload + b"more"))
    reading.heal()
    with pytest.raises(RemoteProtocolError, match="asked for chunk"):
        reading.run(until=100.0)
