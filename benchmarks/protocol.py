"""What the protocol costs without sockets: a message, a header, a chunk into its place, a step of each machine.

    python -m benchmarks.protocol [--rounds 7] [--seconds 0.1]

One JSON line per result: nanoseconds of one operation (median and least of the rounds, each of about so many seconds), and for
chunks the bytes moved. A chunk is 1 MiB; a whole upload or fetch has 64 of them, and its cost is given per chunk. `copy` is what
the same bytes cost with a plain slice assignment, `hash` with xxh3-128 alone: what the machines add is the rest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import xxhash

from broadcaster.protocol.assembly import Assembly
from broadcaster.protocol.frames import Chunk, ChunkHeader, decode, decode_header, encode
from broadcaster.protocol.limits import CHUNK
from broadcaster.protocol.machines.fetch import Fetcher
from broadcaster.protocol.machines.follow import Follower
from broadcaster.protocol.machines.upload import Assembler, Uploader
from broadcaster.protocol.messages import Begin, Commit, Credit, Done, Event, Message, Read, State
from broadcaster.protocol.version import VersionInfo

COUNT = 64
ID, UPLOAD = bytes(16), b"u" * 16
PAYLOAD = memoryview(bytearray(xxhash.xxh3_128_digest(b"seed") * (COUNT * CHUNK // 16)))
DIGEST = xxhash.xxh3_128_hexdigest(PAYLOAD)
VERSION = VersionInfo(
    namespace="default",
    model_id="policy",
    number=1205,
    size=len(PAYLOAD),
    digest=DIGEST,
    creation_timestamp=1_700_000_000_000_000_000,
    user_data={"step": "1000"},
    metrics={"return": 212.0},
)
BEGIN = Begin(request_id=ID, model_id="policy", upload_id=UPLOAD, size=len(PAYLOAD))
EVENT = Event(
    epoch=3,
    offset=41,
    previous=40,
    namespace="default",
    model_id="policy",
    event="published",
    number=1205,
    version=VERSION,
    evicted=(1197,),
    transfer=UPLOAD,
    attempt=0,
)
MESSAGES: dict[str, Message] = {
    "begin": BEGIN,
    "credit": Credit(request_id=ID, upload_id=UPLOAD, received=8, until=24),
    "commit": Commit(request_id=ID, upload_id=UPLOAD, digest=DIGEST),
    "done": Done(request_id=ID, upload_id=UPLOAD, version=VERSION),
    "event": EVENT,
    "read": Read(request_id=ID, model_id="policy", number=1205, offset=CHUNK, length=CHUNK),
    "state": State(request_id=ID, epoch=3, offset=41, model_offset=41, newest=VERSION),
}


class OnePool:
    """One buffer, lent again and again."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(len(PAYLOAD)))

    def lend(self, size: int) -> memoryview:
        return self.buffer[:size]

    def give(self, buffer: memoryview) -> None:
        """It is there for the next one anyway."""


def messages() -> Iterator[tuple[str, Callable[[], object], int]]:
    for name, message in MESSAGES.items():
        frames = encode(message)
        yield f"encode {name}", lambda message=message: encode(message), 1  # type: ignore[misc]
        yield f"decode {name}", lambda frames=frames: decode(frames), 1  # type: ignore[misc]
    header = ChunkHeader(UPLOAD, len(PAYLOAD), CHUNK, CHUNK)
    raw = header.pack()
    yield "pack a chunk's header", header.pack, 1
    yield "decode a chunk's header", lambda: decode_header(raw), 1


def chunks() -> Iterator[tuple[str, Callable[[], object], int]]:
    target = memoryview(bytearray(len(PAYLOAD)))

    def copy() -> None:
        for start in range(0, len(PAYLOAD), CHUNK):
            target[start : start + CHUNK] = PAYLOAD[start : start + CHUNK]

    def hash_all() -> None:
        state = xxhash.xxh3_128()
        for start in range(0, len(PAYLOAD), CHUNK):
            state.update(PAYLOAD[start : start + CHUNK])

    yield "one chunk, copy", copy, COUNT
    yield "one chunk, hash", hash_all, COUNT
    yield "one chunk, Assembly (copy and hash)", lambda: assemble(target), COUNT
    yield "one chunk, Assembler (copy and hash)", lambda: take_in(target), COUNT
    yield "one chunk, Fetcher (copy and hash)", lambda: fetch(target), COUNT
    pool = OnePool()
    yield "one chunk, Follower (copy and hash)", lambda: follow(pool), COUNT
    yield "one chunk, Uploader (nothing copied)", send, COUNT


def headers() -> Iterator[ChunkHeader]:
    return (ChunkHeader(UPLOAD, len(PAYLOAD), start, CHUNK) for start in range(0, len(PAYLOAD), CHUNK))


def assemble(target: memoryview) -> None:
    assembly = Assembly(target)
    for header in headers():
        index = assembly.index_of(header)
        assembly.view(index)[:] = PAYLOAD[header.offset : header.offset + CHUNK]
        assembly.add(index)
    assert assembly.digest == DIGEST


def take_in(target: memoryview) -> None:
    machine = Assembler(BEGIN, target, 0.0)
    machine.start(0.0)
    for header in headers():
        view = machine.place(header)
        assert view is not None
        view[:] = PAYLOAD[header.offset : header.offset + CHUNK]
        machine.placed(header, 0.0)


def fetch(target: memoryview) -> None:
    ids = itertools.count()
    machine = Fetcher(VERSION, Assembly(target), lambda: next(ids).to_bytes(16, "big"))
    asked = machine.start(0.0)
    while asked:
        read = asked.pop(0)
        assert isinstance(read, Read)
        header = ChunkHeader(read.request_id, len(PAYLOAD), read.offset, read.length)
        view = machine.place(header)
        assert view is not None
        view[:] = PAYLOAD[read.offset : read.offset + read.length]
        asked += machine.placed(header, 0.0)
    assert machine.over


def follow(pool: OnePool) -> None:
    machine = Follower("default", "policy", lambda: ID, pool)
    machine.start(0.0)
    machine.receive(State(request_id=ID, epoch=3, offset=40, model_offset=40), 0.0)
    for header in headers():
        view = machine.place(header, 0.0)
        assert view is not None
        view[:] = PAYLOAD[header.offset : header.offset + CHUNK]
        machine.placed(header, 0.0)
    machine.receive(EVENT, 0.0)
    assert machine.visible == VERSION.number


def send() -> None:
    machine = Uploader(BEGIN, PAYLOAD)
    sent = len(machine.start(0.0)) + len(machine.finish(DIGEST, 0.0))
    for received in range(0, COUNT, 8):
        out = machine.receive(Credit(request_id=ID, upload_id=UPLOAD, received=received, until=received + 16), 0.0)
        sent += len(out)
        for item in out:
            if isinstance(item, Chunk):
                item.header.pack()
    assert sent == COUNT + 2


def measure(work: Callable[[], object], per: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Nanoseconds of one of the `per` operations that `work` does."""
    work()
    start = time.perf_counter()
    work()
    repeat = max(1, int(seconds / max(time.perf_counter() - start, 1e-9)))
    taken = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        for _ in range(repeat):
            work()
        taken.append((time.perf_counter_ns() - start) / repeat / per)
    return {"median_ns": round(statistics.median(taken)), "min_ns": round(min(taken)), "max_ns": round(max(taken))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1)
    given = parser.parse_args()
    for question in (messages, chunks):
        for case, work, per in question():
            print(json.dumps({"case": case, **measure(work, per, given.rounds, given.seconds)}), flush=True)


if __name__ == "__main__":
    main()
