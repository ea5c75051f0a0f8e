"""Bytes to messages and back: kinds, maps, headers, and what is refused with which words."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest

from broadcaster.protocol.errors import LocalProtocolError, RemoteProtocolError
from broadcaster.protocol.frames import (
    HEADER,
    ChunkHeader,
    decode,
    decode_header,
    decode_map,
    encode,
    encoded_size,
    is_chunk_header,
)
from broadcaster.protocol.limits import CHUNK, CONTROL
from broadcaster.protocol.messages import KINDS, GetModel, Hello

ID = bytes(range(16))
HEADER_OF_ONE = ChunkHeader(ID, 3 * CHUNK, CHUNK, CHUNK)


def packed(**changes: object) -> bytes:
    """A header with some of its raw values replaced."""
    values = {"magic": b"\xc4K", "version": 1, "flags": 0, "attempt": 0, "size": 10, "offset": 0, "length": 10}
    return HEADER.pack(*(values | changes).values(), ID, bytes(16))


def test_a_message_is_its_kind_and_a_map() -> None:
    message = GetModel(request_id=ID, model_id="policy")
    kind, raw = encode(message)
    assert kind == b"get-model"
    assert msgpack.unpackb(raw) == {"protocol": 1, "request_id": ID, "namespace": "default", "model_id": "policy"}
    assert decode([kind, raw]) == message
    assert decode([kind, raw, b"a payload is the caller's"]) == message


def test_what_is_none_is_not_sent() -> None:
    assert "client_name" not in msgpack.unpackb(encode(Hello(request_id=ID))[1])


def test_a_map_may_fill_its_limit_and_not_more() -> None:
    overhead = len(encode(Hello(request_id=ID, client_name="x" * 60_000))[1]) - 60_000
    full = Hello(request_id=ID, client_name="x" * (CONTROL - overhead))
    assert len(encode(full)[1]) == CONTROL and decode(encode(full)) == full
    with pytest.raises(LocalProtocolError, match="hello of 65537 bytes is over 65536"):
        encode(replace(full, client_name=f"{full.client_name}x"))


def test_the_size_of_a_value_is_what_it_takes_on_the_wire() -> None:
    assert encoded_size({"a": "b"}) == len(msgpack.packb({"a": "b"})) == 5


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "has a kind and a map, not 0"),
        ([b"hello"], "not 1 frame"),
        ([b"goodbye", b"\x80"], "there is no message b'goodbye'"),
        ([b"hello" + b"\0" * 40, b"\x80"], "there is no message"),
        ([b"hello", b"\x90"], "must be a map"),
        ([b"hello", b"\xc1"], "not a msgpack map"),
        ([b"hello", bytes(CONTROL + 1)], "is over 65536"),
        ([b"hello", b"\x82\xa1k\x01\xa1k\x02"], "a repeated key"),
        ([b"hello", b"\x81\x01\x01"], "not text"),
        ([b"hello", b"\x81\xa1k\xc7\x00\x05"], "extension 5"),
        ([b"hello", b"\x80"], "hello: missing 1 required keyword-only argument: 'request_id'"),
    ],
)
def test_what_is_no_message_is_refused_with_the_reason(frames: list[bytes], words: str) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        decode(frames)
    assert words in str(refused.value)


def test_a_map_can_be_read_before_its_rules() -> None:
    assert decode_map(msgpack.packb({"request_id": ID, "strange": [1, {"deep": None}]})) == {
        "request_id": ID,
        "strange": [1, {"deep": None}],
    }


# --- headers -------------------------------------------------------------------------------------------------------


def test_a_header_has_64_bytes_in_their_places() -> None:
    raw = ChunkHeader(ID, 0x0102030405060708, 0x1112, 0x2122, 0x31323334, b"D" * 16).pack()
    assert len(raw) == 64
    assert raw[:4] == b"\xc4\x4b\x01\x01" and raw[4:8] == b"\x34\x33\x32\x31"
    assert raw[8:16] == bytes(range(8, 0, -1)) and raw[16:18] == b"\x12\x11" and raw[24:26] == b"\x22\x21"
    assert raw[32:48] == ID and raw[48:] == b"D" * 16


def test_a_header_without_a_digest_has_zeros_and_no_flag() -> None:
    raw = HEADER_OF_ONE.pack()
    assert raw[3] == 0 and raw[48:] == bytes(16)
    assert decode_header(raw) == HEADER_OF_ONE and decode_header(raw).digest is None
    assert decode_header(packed(flags=0xFE)).digest is None, "flags that are not known are ignored"


def test_a_header_is_told_from_a_kind() -> None:
    assert is_chunk_header(HEADER_OF_ONE.pack()) and is_chunk_header(memoryview(HEADER_OF_ONE.pack()))
    assert not is_chunk_header(b"\xc4K") and not is_chunk_header(bytes(64))
    assert not any(is_chunk_header(kind) for kind in KINDS)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "has 64 bytes, not 0"),
        (HEADER_OF_ONE.pack() + b"x", "has 64 bytes, not 65"),
        (packed(magic=b"\xc4L"), "not a chunk header of version 1"),
        (packed(version=2), "not a chunk header of version 1"),
        (packed(size=1 << 63), "is not inside a payload"),
        (packed(size=2 * CHUNK, length=CHUNK + 1), "is not inside a payload"),
        (packed(offset=1), "chunk of 10 bytes at 1 is not inside a payload of 10 bytes"),
        (packed(offset=(1 << 64) - 1, length=1), "is not inside a payload"),
    ],
)
def test_a_header_that_cannot_place_bytes_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        decode_header(raw)
