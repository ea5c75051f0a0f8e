"""Hostile bytes against the reader of messages: a message comes out, or RemoteProtocolError, and memory stays small."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broadcaster.protocol.errors import CODES, BroadcasterError, LocalProtocolError, RemoteProtocolError, from_wire
from broadcaster.protocol.frames import HEADER, MAGIC, ChunkHeader, decode, decode_header, decode_map, encode
from broadcaster.protocol.limits import CHUNK, CONTROL
from broadcaster.protocol.messages import KINDS, Message
from broadcaster.protocol.names import parse_topic
from broadcaster.protocol.slot import parse_slot_header
from tests.fuzz.messages import ANY_MESSAGE, FACT, TEXT

KIND = st.sampled_from(sorted(KINDS)) | st.binary(max_size=40)
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=20)
)
ANYTHING = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.integers(-9, 9), inner, max_size=4),
    max_leaves=8,
)
MEMORY = 96 << 20
"""Bytes: what the worst control message may take while it is decoded: msgpack allocates lists ahead, 1,024 deep at most."""


def read(*frames: bytes) -> Message | None:
    """The message in these frames, or None when they are refused as they should be."""
    try:
        message = decode(frames)
    except RemoteProtocolError:
        return None
    assert type(message) is KINDS[message.KIND]
    return message


# --- messages ------------------------------------------------------------------------------------------------------


@given(ANY_MESSAGE)
@settings(max_examples=150)
def test_every_message_comes_back_as_it_was_sent(message: Message) -> None:
    frames = encode(message)
    found = decode(frames)
    assert found == message and type(found) is type(message)
    assert encode(found) == frames
    assert decode([memoryview(frame) for frame in frames]) == message


@given(KIND, st.binary(max_size=300))
@settings(max_examples=150)
def test_any_bytes_are_a_message_or_refused(kind: bytes, raw: bytes) -> None:
    read(kind, raw)


@given(st.lists(st.binary(max_size=8), max_size=3))
def test_any_number_of_frames_is_a_message_or_refused(frames: list[bytes]) -> None:
    read(*frames)


@given(KIND, ANYTHING)
@settings(max_examples=150)
def test_anything_that_msgpack_can_say_is_a_message_or_refused(kind: bytes, value: Any) -> None:
    read(kind, msgpack.packb(value))


@given(ANY_MESSAGE, st.data())
@settings(max_examples=200)
def test_a_message_with_a_field_changed_is_a_message_or_refused(message: Message, data: st.DataObject) -> None:
    given = message.write()
    name = data.draw(st.sampled_from([rule.name for rule in message.RULES]))
    given[name] = data.draw(ANYTHING)
    read(message.KIND, msgpack.packb(given))


@given(ANY_MESSAGE, st.data())
@settings(max_examples=150)
def test_a_message_with_a_part_of_a_field_changed_is_a_message_or_refused(message: Message, data: st.DataObject) -> None:
    given = msgpack.unpackb(msgpack.packb(message.write()), strict_map_key=False)
    inner: Any = given
    while isinstance(inner, (dict, list)) and inner and data.draw(st.booleans()):
        outer, key = inner, data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        inner = inner[key]
        if not isinstance(inner, (dict, list)) or data.draw(st.booleans()):
            outer[key] = data.draw(ANYTHING)
            break
    read(message.KIND, msgpack.packb(given))


@given(ANY_MESSAGE, st.data())
@settings(max_examples=150)
def test_a_message_with_bytes_changed_is_a_message_or_refused(message: Message, data: st.DataObject) -> None:
    kind, packed = encode(message)
    raw = bytearray(packed)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    read(kind, bytes(raw[: data.draw(st.integers(0, len(raw)))]))


@given(ANY_MESSAGE, st.dictionaries(TEXT, ANYTHING, max_size=3))
def test_fields_that_are_not_known_are_ignored(message: Message, strange: dict[str, Any]) -> None:
    known = {rule.name for rule in message.RULES}
    assume = {key: value for key, value in strange.items() if key not in known}
    try:
        decode_map(msgpack.packb(assume))
    except RemoteProtocolError:
        return
    assert read(message.KIND, msgpack.packb(assume | message.write())) == message


# --- bombs ---------------------------------------------------------------------------------------------------------


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


BOMBS = {
    "nested arrays": b"\x91" * CONTROL,
    "nested maps": b"\x81\xa1k" * (CONTROL // 3),
    "an array that claims 2^32 - 1 entries": b"\xdd" + u32(0xFFFFFFFF),
    "a map that claims 2^32 - 1 entries": b"\xdf" + u32(0xFFFFFFFF),
    "text that claims 2^32 - 1 bytes": b"\x81\xa1k\xdb" + u32(0xFFFFFFFF),
    "bytes that claim 2^32 - 1 bytes": b"\x81\xa1k\xc6" + u32(0xFFFFFFFF),
    "an extension that claims 2^32 - 1 bytes": b"\x81\xa1k\xc9" + u32(0xFFFFFFFF) + b"\x05",
    "arrays that claim as much as is allowed": b"\xdd" + u32(CONTROL) + (b"\xdd" + u32(CONTROL)) * 1000,
    "an extension": b"\x81\xa1k\xd4\x05x",
    "an empty extension": b"\x81\xa1k\xc7\x00\x05",
    "a timestamp of 32 bits": b"\x81\xa1k\xd6\xff" + u32(1),
    "a timestamp of 64 bits": b"\x81\xa1k\xd7\xff" + bytes(8),
    "a timestamp of 96 bits": b"\x81\xa1k\xc7\x0c\xff" + b"\xff" * 12,
    "an empty timestamp": b"\x81\xa1k\xc7\x00\xff",
    "a repeated key": b"\x82\xa1k\x01\xa1k\x02",
    "a repeated key further in": b"\x81\xa1m\x82\xa1k\x01\xa1k\x02",
    "a key that is a number": b"\x81\x01\x01",
    "a key that is bytes": b"\x81\xc4\x01k\x01",
    "a key that is nil": b"\x81\xc0\x01",
    "a key that is NaN": b"\x81\xcb\x7f\xf8" + bytes(6) + b"\x01",
    "a key that is a list": b"\x81\x90\x01",
    "a key that is a map": b"\x81\x80\x01",
    "a surrogate in a key": b"\x81\xa3\xed\xa0\x80\x01",
    "a surrogate in text": b"\x81\xa1k\xa3\xed\xa0\x80",
    "text that is not UTF-8": b"\x81\xa1k\xa2\xc3\x28",
    "a byte that msgpack never uses": b"\xc1",
    "nothing": b"",
    "a cut map": b"\x82\xa1k\x01",
    "bytes behind the map": b"\x80\x80",
    "a list": b"\x90",
    "nil": b"\xc0",
    "more than a control map may have": b"\x80" + bytes(CONTROL),
    "64 KiB of empty maps": b"\xdd" + u32(CONTROL - 5) + b"\x80" * (CONTROL - 5),
    "64 KiB of empty texts": b"\xdd" + u32(CONTROL - 5) + b"\xa0" * (CONTROL - 5),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_and_costs_little(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decode_map(BOMBS[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY
    for kind in (b"begin", b"events"):
        assert read(kind, BOMBS[name]) is None


def test_a_field_full_of_empty_maps_costs_little() -> None:
    raw = b"\x81\xa6events\xdd" + u32(CONTROL - 13) + b"\x80" * (CONTROL - 13)
    assert len(raw) <= CONTROL
    tracemalloc.start()
    try:
        assert read(b"events", raw) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0])
def test_every_float_may_be_a_metric(value: float) -> None:
    raw = msgpack.packb({"request_id": bytes(16), "values": {"loss": value}})
    message = read(b"stats", raw)
    assert message is not None and repr(message.write()["values"]["loss"]) == repr(value)


def test_a_message_over_the_limit_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="hello of 65"):
        encode(KINDS[b"hello"](request_id=bytes(16), client_name="x" * CONTROL))


# --- errors of a peer ----------------------------------------------------------------------------------------------


@given(
    st.sampled_from(sorted(CODES)) | TEXT, TEXT, st.dictionaries(TEXT | st.sampled_from(dir(BroadcasterError)), FACT, max_size=4)
)
@example("busy", "", {"self": 1, "args": 2, "facts": 3, "code": 4, "__class__": 5, "__dict__": 6, "retryable": False})
@settings(max_examples=150)
def test_an_error_with_any_facts_is_a_typed_error(code: str, message: str, facts: dict[str, Any]) -> None:
    error = from_wire(code, message, dict(facts))
    assert isinstance(error, BroadcasterError) and str(error) == str(error)
    if code in CODES:
        assert type(error) is CODES[code] and error.facts == facts and error.code == code


# --- headers -------------------------------------------------------------------------------------------------------


def read_header(raw: bytes) -> ChunkHeader | None:
    try:
        return decode_header(raw)
    except RemoteProtocolError:
        return None


@given(st.binary(max_size=70) | st.binary(min_size=61, max_size=61).map(lambda rest: MAGIC + b"\x01" + rest))
@settings(max_examples=150)
def test_any_bytes_are_a_header_or_refused(raw: bytes) -> None:
    header = read_header(raw)
    if header is not None:
        assert len(raw) == HEADER.size
        assert header.length <= CHUNK and header.offset + header.length <= header.size < 1 << 63
        assert decode_header(header.pack()) == header


@given(
    st.binary(min_size=16, max_size=16),
    st.integers(0, (1 << 63) - 1),
    st.integers(0, 1 << 63),
    st.integers(0, CHUNK),
    st.integers(0, (1 << 32) - 1),
    st.none() | st.binary(min_size=16, max_size=16),
)
@settings(max_examples=200)
def test_every_header_comes_back_as_it_was_sent(
    transfer: bytes, size: int, offset: int, length: int, attempt: int, digest: bytes | None
) -> None:
    length = min(length, size)
    header = ChunkHeader(transfer, size, min(offset, size - length), length, attempt, digest)
    assert decode_header(header.pack()) == header == decode_header(memoryview(header.pack()))


# --- the other small readers ---------------------------------------------------------------------------------------


@given(st.binary(max_size=320))
def test_any_bytes_are_a_topic_or_not(raw: bytes) -> None:
    found = parse_topic(raw)
    assert found is None or raw == f"{found[0]}/{found[1]}\0".encode() + found[2]


@given(st.binary(max_size=100).map(lambda raw: (b"MBSLOT\x00\x01" + raw).ljust(4096, b"\xff")) | st.binary(max_size=5000))
def test_any_bytes_are_a_slots_header_or_not(raw: bytes) -> None:
    header = parse_slot_header(raw)
    assert header is None or header.pack() == raw[: len(header.pack())]
