"""An assembly: chunks in any order, hashed as far as there is no hole, never outside the buffer."""

from __future__ import annotations

import hashlib
from random import Random

import pytest
import xxhash

from broadcaster.protocol.assembly import Assembly, chunks_of
from broadcaster.protocol.errors import RemoteProtocolError
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import CHUNK

ID = bytes(16)
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7]


def header(size: int, index: int) -> ChunkHeader:
    return ChunkHeader(ID, size, index * CHUNK, min(CHUNK, size - index * CHUNK))


@pytest.mark.parametrize(("size", "count"), [*zip(SIZES, [0, 1, 1, 1, 2, 3, 4], strict=True)])
def test_a_payload_has_so_many_chunks(size: int, count: int) -> None:
    assert chunks_of(size) == count


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", SIZES)
def test_chunks_in_any_order_become_the_payload_and_its_digests(size: int, seed: int) -> None:
    random = Random(seed)
    payload = random.randbytes(size)
    assembly = Assembly(memoryview(bytearray(size)), also="sha256")
    order = [index for index in range(assembly.count) for _ in range(2)]
    random.shuffle(order)
    here: set[int] = set()
    for index in order:
        assert assembly.missing() == [one for one in range(assembly.count) if one not in here]
        assert assembly.has(index) == (index in here)
        assert assembly.complete == (len(here) == assembly.count)
        if not assembly.has(index):
            assert assembly.index_of(header(size, index)) == index
            data = memoryview(payload)[index * CHUNK : (index + 1) * CHUNK]
            if random.random() < 0.5:
                assembly.add(index, data)
            else:
                assembly.view(index)[:] = data
                assembly.add(index)
            here.add(index)
        front = assembly.front * CHUNK
        assert assembly.digest == xxhash.xxh3_128_hexdigest(payload[:front])
    assert assembly.complete and assembly.missing() == []
    assert bytes(assembly.buffer) == payload
    assert assembly.digest == xxhash.xxh3_128_hexdigest(payload)
    assert assembly.sha256 == hashlib.sha256(payload).hexdigest()


@pytest.mark.parametrize("also", ["sha256", None])
def test_a_chunk_is_put_in_its_place_in_front_or_behind_a_hole(also: str | None) -> None:
    payload = memoryview(Random(0).randbytes(2 * CHUNK + 7))
    assembly = Assembly(memoryview(bytearray(len(payload))), also=also)
    for index, front in ((1, 0), (0, 2), (2, 3)):
        assembly.add(index, payload[index * CHUNK : (index + 1) * CHUNK])
        assert assembly.front == front
    assert assembly.buffer == payload and assembly.digest == xxhash.xxh3_128_hexdigest(payload)
    assert assembly.sha256 == (hashlib.sha256(payload).hexdigest() if also else None)


def test_sha256_is_only_there_where_it_was_asked_for() -> None:
    assert Assembly(memoryview(b"")).sha256 is None
    assert Assembly(memoryview(b""), also="xxh3-128").sha256 is None


@pytest.mark.parametrize(
    ("size", "offset", "length"),
    [
        (2 * CHUNK + 6, 0, CHUNK),
        (2 * CHUNK + 4, 0, CHUNK),
        (2 * CHUNK + 5, 1, CHUNK),
        (2 * CHUNK + 5, 0, CHUNK - 1),
        (2 * CHUNK + 5, 0, 0),
        (2 * CHUNK + 5, 2 * CHUNK, 4),
        (2 * CHUNK + 5, 2 * CHUNK, 6),
        (2 * CHUNK + 5, 3 * CHUNK, 5),
        (2 * CHUNK + 5, 1 << 62, CHUNK),
        (0, 0, 0),
    ],
)
def test_only_whole_chunks_of_this_payload_have_an_index(size: int, offset: int, length: int) -> None:
    assembly = Assembly(memoryview(bytearray(2 * CHUNK + 5)))
    with pytest.raises(RemoteProtocolError, match="does not fit a payload of 2097157"):
        assembly.index_of(ChunkHeader(ID, size, offset, length))


def test_an_empty_payload_takes_no_chunk() -> None:
    assembly = Assembly(memoryview(b""))
    assert assembly.complete and assembly.digest == xxhash.xxh3_128_hexdigest(b"")
    with pytest.raises(RemoteProtocolError):
        assembly.index_of(ChunkHeader(ID, 0, 0, 0))
