"""Messages made at random, valid ones among them, at a real broadcaster: it answers, stays up, and is as right as before."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from broadcaster.protocol.frames import HEADER
from broadcaster.protocol.messages import KINDS, Request
from tests.bare_peer import BarePeer, digest, staged, wait_until
from tests.broadcaster_process import BroadcasterProcess

MIB = 1 << 20
UPLOADS = [b"begin", b"publish", b"commit", b"abort", b"filled"]
NEW = [b"begin", b"publish"]
"""What makes versions: one that says a number is refused, unless it is announced again after a restart."""
REQUESTS = sorted([b"ack", *[b"give-up-term"] * 3, *(name for name, kind in KINDS.items() if issubclass(kind, Request))])
"""Terms do not last: while one is held, hardly anything becomes a version."""
FULL = [0, 1, 10, 10, 65536, 65537, MIB, MIB + 1, 3 * MIB, 3 * MIB]
"""Sizes of payloads of zeros, whose digests are often right."""
STRANGE: list[Any] = [
    None,
    True,
    -1,
    1 << 64 - 1,
    1.5,
    float("nan"),
    "",
    "x" * 5000,
    b"",
    b"x" * 16,
    [],
    {},
    [1] * 99,
    {"": None},
    "\0",
]
INTERNAL = {"local-protocol-error", "protocol-error", "error", "store-corrupt", "closed"}
"""Codes that would say that something of our own went wrong."""


class Fuzz:
    """Makes messages out of a seed."""

    def __init__(self, seed: int, token: str) -> None:
        """`token` is what a peer on the broadcaster's host knows."""
        self.rng = random.Random(seed)
        self.ids = [self.rng.randbytes(16) for _ in range(8)]
        self.said: set[bytes] = set()
        """Every upload id that went out."""
        self.sizes: dict[bytes, int] = {}
        """What was last said of each upload."""
        self.size = 0
        """The last one said."""
        digests = {size: digest(bytes(size)) for size in FULL}
        pick: Callable[..., Any] = self.rng.choice
        self.values: dict[str, Callable[[], Any]] = {
            "request_id": lambda: self.rng.randbytes(16) if self.rng.random() < 0.9 else pick(self.ids[-8:]),
            "upload_id": self.upload_id,
            "model_id": lambda: pick(["a", "b", "c", "a", "b", "c", "d/e", "", "x" * 200, "ü"]),
            "namespace": lambda: pick(["default"] * 20 + ["other", "/"]),
            "protocol": lambda: 1 if self.rng.random() < 0.98 else 2,
            "budget_ms": lambda: pick([5000] * 30 + [0, 1, 1 << 62]),
            "size": lambda: pick([*FULL, 1 << 62]),
            "digest": lambda: pick([digests.get(self.size, "x")] * 8 + ["0" * 32, "x"]),
            "digest_kind": lambda: pick(["xxh3-128"] * 10 + ["sha256", "md5"]),
            "archived": lambda: self.rng.random() < 0.2,
            "exist_ok": lambda: self.rng.random() < 0.5,
            "force": lambda: self.rng.random() < 0.5,
            "content_type": lambda: pick(["x"] * 9 + ["y" * 129]),
            "client_name": lambda: "x",
            "user_data": lambda: pick([{}, {"a": "b"}] * 5 + [{"\0": "\0"}, {"a": "b" * 20_000}]),
            "tags": lambda: pick([{}, {"a": "b"}] * 5 + [{"a": None}, {"/": "x"}, {"a": "b" * 20_000}]),
            "metrics": lambda: pick([{}, {"a": 1}] * 5 + [{"a": float("nan")}, {"a": float("inf")}, {"a": (1 << 64) - 1}]),
            "creation_timestamp": lambda: pick([0, 1, (1 << 63) - 1]),
            "number": lambda: pick([0, 1, 2, 3, 9, (1 << 63) - 1]),
            "ref": lambda: pick([-1, -1, 0, 1, 2, -2, "best", "x", 1 << 62, 1 - (1 << 63)]),
            "offset": lambda: pick([0, 0, 1, MIB, (1 << 63) - 1]),
            "length": lambda: pick([0, 1, MIB, MIB + 1, 1 << 62]),
            "after": lambda: pick([0, 1, "a", ""]),
            "epoch": lambda: pick([0, 1, 1 << 62]),
            "limit": lambda: pick([0, 1, 5, 1 << 62]),
            "alias": lambda: pick(["best", "x", "/", ""]),
            "expect": lambda: pick([0, 1, 2]),
            "metric": lambda: pick(["a", "z"]),
            "host_token": lambda: pick([token, "", "x" * 32]),
            "mode": lambda: pick(["max", "min", "middle"]),
            "subscriber": lambda: pick(self.ids[-8:]),
            "name": lambda: pick(["actor", "\0", "x" * 5000]),
            "received": lambda: pick([0, 1, 2, (1 << 63) - 1]),
            "applied": lambda: pick([0, 1, 2, (1 << 63) - 1]),
            "gone": lambda: self.rng.random() < 0.1,
            "age_us": lambda: pick([None, 0, 1, (1 << 63) - 1, -1]),
            "count": lambda: pick([0, 1, 2, (1 << 63) - 1]),
            "stage": lambda: pick(["applied", "received", "elsewhere"]),
            "timing": lambda: self.rng.random() < 0.2,
            "description": lambda: pick(["", "what it is", "x" * 5000]),
            "where": lambda: pick([[], [{"field": "metrics.a", "op": ">", "value": 0}], [{"field": "", "op": "~"}], [{}] * 99]),
            "order": lambda: pick(["number", "-metrics.a", "elsewhere", ""]),
            "pinned": lambda: self.rng.random() < 0.5,
            "retention": lambda: pick([{}, {"last": 2}, {"every": 2, "age": 1e6}, {"last": -1}, {"best": "a" * 2000}]),
            "dry_run": lambda: self.rng.random() < 0.5,
            "publisher": lambda: pick([bytes(16)] * 9 + [None]),
            "term": lambda: pick([None] * 40 + [0, 1, 2, (1 << 63) - 1]),
        }

    def upload_id(self) -> bytes:
        if self.rng.random() < 0.1:
            self.ids.append(self.rng.randbytes(16))
        return self.rng.choice(self.ids[-8:])

    def control(self, kind: bytes) -> list[bytes]:
        names = [
            rule.name
            for rule in KINDS[kind].RULES
            if self.rng.random() < (0.1 if kind in NEW and rule.name == "number" else 0.97)
        ]
        fields = {}
        for name in names:
            fields[name] = self.values[name]()
            if name == "size":
                self.size = fields[name]
        if kind == b"begin" and "upload_id" in fields:
            self.sizes[fields["upload_id"]] = fields.get("size", 0)
        if self.rng.random() < 0.1:
            fields[self.rng.choice([*names, "more"])] = self.rng.choice(STRANGE)
        frames = [kind, msgpack.packb(fields)]
        if self.rng.random() < 0.03:
            at = self.rng.randrange(len(frames[1]) + 1)
            frames[1] = frames[1][:at] + self.rng.randbytes(2) + frames[1][at + 1 :]
        self._note(frames[1])
        size = fields.get("size")
        if kind == b"publish" and type(size) is int and 0 <= size <= 70_000:
            frames.append(bytes(size))
        if self.rng.random() < 0.03:
            frames.insert(self.rng.randrange(len(frames) + 1), self.rng.randbytes(self.rng.randrange(4)))
        return frames if self.rng.random() < 0.98 else frames[:-1]

    def _note(self, packed: bytes) -> None:
        """Remembers the upload id that these bytes really say: a changed byte may have made another one of it."""
        try:
            said = msgpack.unpackb(packed, strict_map_key=False)
        except (ValueError, TypeError, msgpack.UnpackException):
            return  # No map: the broadcaster cannot read it either.
        if isinstance(said, dict) and isinstance(upload_id := said.get("upload_id"), bytes) and len(upload_id) == 16:
            self.said.add(upload_id)

    def chunk(self) -> list[bytes]:
        upload_id = self.upload_id()
        size = self.sizes.get(upload_id, 0) if self.rng.random() < 0.8 else self.rng.choice(FULL)
        offset = self.rng.choice([0, 0, 0, MIB, 2 * MIB, 7, 1 << 63])
        length = self.rng.choice([max(0, min(MIB, size - offset))] * 9 + [5])
        header = HEADER.pack(b"\xc4K", self.rng.choice([1] * 20 + [2]), 0, 0, size, offset, length, upload_id, bytes(16))
        return [b"", header, bytes(length if self.rng.random() < 0.97 else 3)]

    def garbage(self) -> list[bytes]:
        return [self.rng.randbytes(self.rng.choice([0, 1, 16, 64, 100])) for _ in range(self.rng.randrange(1, 8))]


LAST = b"the last of them"
USUAL = {"done", "credit", "grant", "version", "invalid-request", "remote-protocol-error", "digest-mismatch"}
"""What a storm meets before it is over."""


def storm(folder: Path, seed: int, seconds: float) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    with BroadcasterProcess(folder / "broadcaster", options=["--memory-budget", "64MiB"]) as broadcaster:
        fuzz = Fuzz(seed, (broadcaster.slot_dir / "token").read_text())
        with BarePeer(broadcaster.ready) as calm, BarePeer(broadcaster.ready) as wild:
            kept = rng.randbytes(3 * MIB)
            assert calm.publish("calm", kept, archived=True).kind == "done"
            wild.subscription(broadcaster.ready["push"], *(f"default/{name}\0{kind}".encode() for name in "abc" for kind in "ce"))
            outcomes: set[str] = set()
            until, steps = time.monotonic() + seconds, 0
            while broadcaster.running and (time.monotonic() < until or not outcomes >= USUAL):
                assert time.monotonic() < until + 35, f"a storm that reaches nothing proves nothing: {outcomes}"
                for _ in range(100):
                    kind = rng.choices("ucdg", [35, 20, 42, 3])[0]
                    frames = fuzz.chunk() if kind == "c" else fuzz.garbage() if kind == "g" else []
                    if kind in "uc" or (kind == "g" and rng.random() < 0.5):
                        wild.upload.send_multipart(frames or fuzz.control(rng.choice(UPLOADS)))
                    else:
                        wild.data.send_multipart(frames or [b"", *fuzz.control(rng.choice(REQUESTS))])
                # In step with it, on both channels: the storm is as fast as the answers, and nobody cuts it for what piles up.
                calm.stats()
                outcomes |= all_of(wild)
                steps += 1
            assert broadcaster.running, broadcaster.log()
            assert not outcomes & INTERNAL, outcomes
            assert calm.stats()["uploads_begun"] >= steps / 4, "most of what is said gets no further than the first look at it"
            check(broadcaster, calm, fuzz, kept)


def all_of(peer: BarePeer) -> set[str]:
    """Kinds and codes of what came until all that it sent for uploads had been looked at."""
    peer.say("abort", LAST)  # Behind all the others on its connection.
    found: set[str] = set()
    wait_until(lambda: found.update(codes_of(peer)) or "last" in found, "what it sent is looked at")
    return found - {"last"}


def codes_of(peer: BarePeer) -> set[str]:
    """Kinds of the answers that came, and codes of the errors."""
    found = set()
    for socket in (peer.upload, peer.data):
        while socket.poll(0):
            frames = socket.recv_multipart()
            kind, *rest = frames[1:] if not frames[0] else frames
            if not kind:
                continue  # A chunk.
            fields = msgpack.unpackb(rest[0], strict_map_key=False)
            found.add(fields["code"] if kind == b"error" else kind.decode())
            if kind == b"aborted" and fields["upload_id"] == LAST:
                found.add("last")
    return found


def check(broadcaster: BroadcasterProcess, peer: BarePeer, fuzz: Fuzz, kept: bytes) -> None:
    """Nothing is left of what led to nothing, every version reads as what its digest says, and all goes on after a restart."""
    for upload_id in fuzz.said:
        peer.say("abort", upload_id)
        assert peer.outcome().kind == "aborted"
    wait_until(lambda: peer.stats()["memory_uploads"] == 0, "no upload is under way")
    wait_until(lambda: peer.stats()["archive_jobs"] == 0 and not staged(broadcaster.archive_dir), "the disk is done")
    stats = peer.stats()
    assert stats["memory_versions"] + stats["memory_uploads"] <= stats["memory_budget"]
    assert peer.read("calm", 1) == kept
    assert peer.publish("calm", kept).fields["version"]["number"] == 2
    for model in peer.ask("list-models").fields["models"]:
        for version in peer.ask("list-versions", model_id=model["model_id"]).fields["versions"]:
            assert digest(peer.read(model["model_id"], version["number"])) == version["digest"]
    archived = {
        (model["model_id"], version["number"])
        for model in peer.ask("list-models").fields["models"]
        for version in peer.ask("list-versions", model_id=model["model_id"]).fields["versions"]
        if version["archived"]
    }
    broadcaster.restart(kill=True)
    with BarePeer(broadcaster.ready) as later:
        assert {(model, number) for model, _ in archived for number in later.numbers(model)} == archived
        assert later.read("calm", 1) == kept


@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_of_random_messages_harms_nothing(folder: Path, seed: int) -> None:
    storm(folder, seed, 1.0)


@pytest.mark.fault_long
@pytest.mark.parametrize("seed", range(10, 16))
def test_a_long_storm_of_random_messages_harms_nothing(folder: Path, seed: int) -> None:
    storm(folder, seed, 20.0)
