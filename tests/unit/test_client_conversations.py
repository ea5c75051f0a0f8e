"""Chunks that come in order take a shorter way: it ends where anything else comes, and nothing is lost or mistaken."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xxhash
import zmq

from broadcaster.protocol.frames import ChunkHeader, encode
from broadcaster.protocol.limits import CHUNK
from broadcaster.protocol.messages import Event, Read, State
from broadcaster.protocol.names import CHUNKS, EVENTS, topic
from broadcaster.protocol.version import VersionInfo
from clients._driver.channel import Channel
from clients._driver.conversations import BURST, Conversations
from clients._driver.delivery import Delivery
from clients._driver.feed import Feed
from clients._driver.fetching import Fetch

COUNT = 6
PAYLOAD = np.random.default_rng(4).bytes((COUNT - 1) * CHUNK + 77)
TOPIC, TRANSFER = topic("default", "policy", CHUNKS), b"t" * 16
VERSION = VersionInfo(
    namespace="default",
    model_id="policy",
    number=1,
    size=len(PAYLOAD),
    digest=xxhash.xxh3_128_hexdigest(PAYLOAD),
    creation_timestamp=0,
)


class Wire:
    """A client's channel, and the other end of it."""

    def __init__(self, name: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.other = self.context.socket(zmq.PUB if name == "push" else zmq.DEALER)
        self.other.bind("inproc://other")
        self.channel = Channel(self.context, name, "inproc://other")
        if name == "push":
            self.channel.socket.subscribe(b"")
        self.conversations = Conversations()

    def say(self, *frames: bytes | zmq.Frame) -> None:
        self.other.send_multipart(frames)

    def receive(self) -> None:
        while self.channel.socket.poll(0 if self.channel.socket.type == zmq.SUB else 10):
            self.conversations.receive(self.channel)

    def close(self) -> None:
        self.channel.close()
        self.other.close(linger=0)
        self.context.term()


@pytest.fixture
def push() -> Iterator[Wire]:
    wire = Wire("push")
    yield wire
    wire.close()


@pytest.fixture
def data() -> Iterator[Wire]:
    wire = Wire("data")
    yield wire
    wire.close()


def part(index: int) -> bytes:
    return PAYLOAD[index * CHUNK : (index + 1) * CHUNK]


def header(index: int, transfer: bytes = TRANSFER, **changes: Any) -> bytes:
    made = ChunkHeader(transfer, len(PAYLOAD), index * CHUNK, len(part(index)))
    return replace(made, **changes).pack()


def event(offset: int, **changes: Any) -> list[bytes]:
    made = Event(epoch=1, offset=offset, previous=offset - 1, namespace="default", model_id="policy", event="metrics-added")
    return [topic("default", "policy", EVENTS), *encode(replace(made, **changes))]


def following(wire: Wire, sent: list[Any]) -> Feed:
    outside: Any = SimpleNamespace(add=None, epoch_seen=lambda epoch, now: None, leases=None, no_slots="", chunks_per_read=1)
    feed = Feed("default", "policy", Delivery("chunks", verify=False), outside, sent.append)
    wire.conversations.join(feed)
    feed.receive(State(request_id=sent[-1].request_id, epoch=1, offset=1, model_offset=1), None, 0.0)
    return feed


@pytest.mark.parametrize(
    "between",
    [
        [],
        [event(2)],
        [[TOPIC, b""]],
        [[TOPIC, b"x" * 64, b"bytes"]],
        [[b"somebody else's"]],
        [[topic("default", "other", CHUNKS), header(3), b"?"]],
        [[TOPIC, header(0), part(0)]],
        [[TOPIC, header(2, transfer=b"u" * 16), part(2)]],
        [[TOPIC, header(2, attempt=1), part(2)]],
    ],
    ids=["nothing", "event", "empty", "no-header", "stranger", "other-model", "again", "transfer", "attempt"],
)
def test_chunks_in_order_are_taken_whatever_comes_between_them(push: Wire, between: list[list[bytes]]) -> None:
    sent: list[Any] = []
    feed = following(push, sent)
    for index in range(COUNT):
        push.say(TOPIC, header(index), part(index))
        if index == 1:
            for frames in between:
                push.say(*frames)
    push.say(
        *event(3 if between == [event(2)] else 2, event="published", number=1, version=VERSION, transfer=TRANSFER, attempt=0)
    )
    push.receive()
    assert feed.snapshot is not None and feed.snapshot.payload == PAYLOAD
    assert feed.received == len(PAYLOAD) and not any(isinstance(one, Read) for one in sent)


@pytest.mark.parametrize("damage", ["lost", "short", "long", "cut", "topic", "more"])
def test_a_chunk_that_is_missing_or_not_as_long_as_it_says_is_read(push: Wire, damage: str) -> None:
    sent: list[Any] = []
    feed = following(push, sent)
    for index in range(COUNT):
        frames = [TOPIC, header(index), part(index)]
        if index == 2:
            frames = {
                "lost": [],
                "short": [TOPIC, header(2), part(2)[:-1]],
                "long": [TOPIC, header(2), part(2) + b"x"],
                "cut": [TOPIC, header(2)],
                "topic": [TOPIC],
                "more": [*frames, b"one more"],
            }[damage]
        if frames:
            push.say(*frames)
    push.say(*event(2, event="published", number=1, version=VERSION, transfer=TRANSFER, attempt=0))
    push.receive()
    for read in [one for one in sent if isinstance(one, Read)]:
        index = read.offset // CHUNK
        answer = ChunkHeader(read.request_id, len(PAYLOAD), read.offset, len(part(index)))
        assert feed.wants(answer)
        feed.put(answer, memoryview(part(index)), 0.1)
    assert feed.snapshot is not None and feed.snapshot.payload == PAYLOAD
    asked = [one.offset // CHUNK for one in sent if isinstance(one, Read)]
    assert asked == [] if damage == "more" else 2 in asked and 1 not in asked


def test_models_that_come_at_the_same_time_are_told_apart(push: Wire) -> None:
    sent: list[Any] = []
    outside: Any = SimpleNamespace(add=None, epoch_seen=lambda epoch, now: None, leases=None, no_slots="", chunks_per_read=1)
    feeds = {}
    for model in ("policy", "other"):
        feeds[model] = Feed("default", model, Delivery("chunks", verify=False), outside, sent.append)
        push.conversations.join(feeds[model])
        feeds[model].receive(State(request_id=sent[-1].request_id, epoch=1, offset=1, model_offset=1), None, 0.0)
    for index in range(COUNT):
        for model in feeds:
            push.say(topic("default", model, CHUNKS), header(index, transfer=model.encode().ljust(16)), part(index))
    for model in feeds:
        version = replace(VERSION, model_id=model)
        made = {"event": "published", "number": 1, "version": version, "transfer": model.encode().ljust(16), "attempt": 0}
        _, *frames = event(2, model_id=model, **made)
        push.say(topic("default", model, EVENTS), *frames)
    push.receive()
    for feed in feeds.values():
        assert feed.snapshot is not None and feed.snapshot.payload == PAYLOAD and feed.received == len(PAYLOAD)


@pytest.mark.parametrize("run", [1, 2, 4])
@pytest.mark.parametrize("between", ["nothing", "reply", "stranger", "again", "late"])
def test_answers_in_order_are_taken_whatever_comes_between_them(data: Wire, run: int, between: str) -> None:
    sent: list[Any] = []
    fetch = Fetch(
        VERSION, memoryview(bytearray(len(PAYLOAD))), lambda _, filled: bytes(filled), sent.append, 1e9, 1e9, chunks_per_read=run
    )
    data.conversations.add(fetch)
    done = 0
    while done < len(sent):
        read = sent[done]
        done += 1
        for offset in range(read.offset, read.offset + read.length, CHUNK):
            index = offset // CHUNK
            frames = [b"", b"", header(index, transfer=read.request_id), part(index)]
            data.say(*frames)
            if index == 1:
                other = {
                    "nothing": [],
                    "reply": [b"", *encode(State(request_id=b"r" * 16, epoch=1, offset=1, model_offset=1))],
                    "stranger": [b"?", b"", b"what"],
                    "again": frames,
                    "late": [b"", b"", header(3, transfer=b"l" * 16), part(3)],
                }[between]
                if other:
                    data.say(*other)
        data.receive()
    assert fetch.over and fetch.future.result(0) == PAYLOAD


def test_a_fetch_of_one_chunk_is_let_go(data: Wire) -> None:
    """Its first chunk is its last."""
    sent: list[Any] = []
    version = replace(VERSION, size=CHUNK, digest=xxhash.xxh3_128_hexdigest(part(0)))
    fetch = Fetch(version, memoryview(bytearray(CHUNK)), lambda _, filled: None, sent.append, 1e9, 1e9)
    data.conversations.add(fetch)
    data.say(b"", b"", ChunkHeader(sent[0].request_id, CHUNK, 0, CHUNK).pack(), part(0))
    data.receive()
    assert fetch.over
    gone = weakref.ref(fetch)
    del fetch
    gc.collect()
    assert gone() is None


def test_what_comes_after_the_end_is_dropped(data: Wire) -> None:
    sent: list[Any] = []
    fetch = Fetch(VERSION, memoryview(bytearray(len(PAYLOAD))), lambda _, filled: bytes(filled), sent.append, 1e9, 1e9)
    data.conversations.add(fetch)
    for index, read in enumerate(sent):
        data.say(b"", b"", header(index, transfer=read.request_id), part(index))
    for index in (COUNT - 1, 0):
        data.say(b"", b"", header(index, transfer=sent[index].request_id), part(index))
    data.receive()
    assert fetch.future.result(0) == PAYLOAD


@pytest.mark.parametrize("wrong", [part(2)[:-1], part(2) + b"x", b""], ids=["short", "long", "none"])
def test_an_answer_that_is_not_as_long_as_it_says_is_asked_for_again(data: Wire, wrong: bytes) -> None:
    sent: list[Any] = []
    fetch = Fetch(VERSION, memoryview(bytearray(len(PAYLOAD))), lambda _, filled: bytes(filled), sent.append, 1e9, 1e9)
    data.conversations.add(fetch)
    for index, read in enumerate(list(sent)):
        data.say(b"", b"", header(index, transfer=read.request_id), wrong if index == 2 else part(index))
    data.receive()
    assert not fetch.over and fetch.deadline is not None
    sent.clear()
    fetch.expire(fetch.deadline)
    assert [read.offset // CHUNK for read in sent] == [2]
    data.say(b"", b"", header(2, transfer=sent[0].request_id), part(2))
    data.receive()
    assert fetch.over and fetch.future.result(0) == PAYLOAD


def test_who_had_been_patient_for_long_is_looked_at_again(data: Wire) -> None:
    sent: list[Any] = []
    fetch = Fetch(VERSION, memoryview(bytearray(len(PAYLOAD))), lambda _, filled: None, sent.append, 1e9, 1e9)
    data.conversations.add(fetch)
    data.say(b"", b"", header(0, transfer=sent[0].request_id), part(0))
    data.receive()
    for _ in range(3):
        assert fetch.deadline is not None
        fetch.expire(fetch.deadline)
    data.conversations.moved = False
    data.say(b"", b"", header(1, transfer=sent[1].request_id), part(1))
    data.receive()
    assert data.conversations.moved


MANY = 100
LONG = replace(VERSION, size=MANY * CHUNK)


def test_a_run_of_pushed_chunks_ends_somewhere(push: Wire) -> None:
    feed = following(push, [])
    chunk = zmq.Frame(bytes(CHUNK), copy=False, track=False)
    said, taken = 0, []
    while feed.received < LONG.size:
        while said < MANY and said * CHUNK - feed.received < 40 * CHUNK:  # What the queues of both ends hold.
            push.say(TOPIC, ChunkHeader(TRANSFER, LONG.size, said * CHUNK, CHUNK).pack(), chunk)
            said += 1
        assert push.channel.socket.poll(1000)
        before = feed.received
        push.conversations.receive(push.channel)
        taken.append((feed.received - before) // CHUNK)
    assert max(taken) <= BURST and sum(taken) == MANY
    assert max(taken) > 1, "or this tests nothing"


def test_a_run_of_answers_ends_somewhere(data: Wire) -> None:
    chunk = zmq.Frame(bytes(CHUNK), copy=False, track=False)

    def serve(read: Any) -> None:
        data.say(b"", b"", ChunkHeader(read.request_id, LONG.size, read.offset, CHUNK).pack(), chunk)

    fetch = Fetch(LONG, memoryview(bytearray(LONG.size)), lambda _, filled: None, serve, 1e9, 1e9)
    data.conversations.add(fetch)
    taken = []
    while not fetch.over:
        assert data.channel.socket.poll(1000)
        before = fetch.received
        data.conversations.receive(data.channel)
        taken.append((fetch.received - before) // CHUNK)
    assert max(taken) <= BURST and max(taken) > 1


@pytest.mark.parametrize("broken", [[b""], [b"", b""], [b"", b"", b"x"]], ids=len)
def test_an_answer_that_is_cut_off_costs_at_most_one_more(data: Wire, broken: list[bytes]) -> None:
    sent: list[Any] = []
    fetch = Fetch(VERSION, memoryview(bytearray(len(PAYLOAD))), lambda _, filled: bytes(filled), sent.append, 1e9, 1e9)
    data.conversations.add(fetch)
    for index, read in enumerate(sent):
        data.say(b"", b"", header(index, transfer=read.request_id), part(index))
        if index == 1:
            data.say(*broken)
    data.receive()
    if not fetch.over:
        assert fetch.deadline is not None
        sent.clear()
        fetch.expire(fetch.deadline)
        assert len(sent) == 1
        data.say(b"", b"", header(sent[0].offset // CHUNK, transfer=sent[0].request_id), part(sent[0].offset // CHUNK))
        data.receive()
    assert fetch.over and fetch.future.result(0) == PAYLOAD


@pytest.mark.parametrize("order", [list(range(COUNT)), [0, 1, 2, 3, 5, 4], [1, 0, 3, 2, 5, 4]], ids=str)
def test_a_fetch_that_is_over_is_let_go(data: Wire, order: list[int]) -> None:
    sent: list[Any] = []
    fetch = Fetch(VERSION, memoryview(bytearray(len(PAYLOAD))), lambda _, filled: None, sent.append, 1e9, 1e9)
    data.conversations.add(fetch)
    for index in order:
        data.say(b"", b"", header(index, transfer=sent[index].request_id), part(index))
    data.receive()
    assert fetch.over
    gone = weakref.ref(fetch)
    del fetch
    gc.collect()
    assert gone() is None, "its payload's memory would stay"
