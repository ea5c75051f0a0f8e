"""A payload on its way out: piece by piece, a few ahead, and never to its end when it is not what its digest says."""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Any

import pytest
import xxhash

from broadcaster.protocol.errors import DigestMismatch, VersionEvicted
from broadcaster.protocol.version import VersionInfo
from broadcaster.web.limits import AHEAD, PIECE
from broadcaster.web.streams import payload

BYTES = os.urandom(3 * PIECE + 777)


class Pieces:
    """Gives out pieces of a payload as the core does; `gone_from`: an offset from which on there are none."""

    def __init__(self, payload: bytes, gone_from: int | None = None) -> None:
        self.payload = payload
        self.asked: list[tuple[int, int]] = []
        self.info = VersionInfo(
            namespace="default",
            model_id="policy",
            number=7,
            size=len(payload),
            digest=xxhash.xxh3_128_hexdigest(payload),
            creation_timestamp=1,
        )
        self._gone_from = len(payload) + 1 if gone_from is None else gone_from

    def piece(self, version: VersionInfo, offset: int, length: int) -> Future[bytes]:
        assert 0 < length <= PIECE and offset + length <= len(self.payload)
        self.asked.append((offset, length))
        future: Future[bytes] = Future()
        if offset >= self._gone_from:
            future.set_exception(VersionEvicted(model_id="policy", number=7))
        else:
            future.set_result(self.payload[offset : offset + length])
        return future


async def read(pieces: Any, first: int, end: int) -> bytes:
    return b"".join([bytes(part) async for part in payload(pieces, pieces.info, first, end)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "first, end",
    [(0, len(BYTES)), (0, 1), (PIECE - 1, PIECE + 1), (5, 2 * PIECE), (PIECE, 2 * PIECE), (len(BYTES) - 1, len(BYTES))],
)
async def test_what_was_asked_for_comes_and_no_more_is_read(first: int, end: int) -> None:
    pieces = Pieces(BYTES)
    assert await read(pieces, first, end) == BYTES[first:end]
    assert sum(length for _, length in pieces.asked) == end - first


async def test_an_empty_payload_is_nothing() -> None:
    pieces = Pieces(b"")
    assert await read(pieces, 0, 0) == b"" and pieces.asked == []


async def test_only_a_few_pieces_are_asked_for_ahead() -> None:
    pieces = Pieces(BYTES)
    stream = payload(pieces, pieces.info, 0, len(BYTES))  # type: ignore[arg-type]
    await anext(stream)
    assert len(pieces.asked) <= AHEAD + 1 < 4
    await stream.aclose()  # type: ignore[attr-defined]


async def test_the_last_piece_of_wrong_bytes_is_not_given_away() -> None:
    pieces = Pieces(BYTES)
    wrong = Pieces(BYTES[:5] + bytes([BYTES[5] ^ 1]) + BYTES[6:])
    got = 0
    with pytest.raises(DigestMismatch):
        async for part in payload(wrong, pieces.info, 0, len(BYTES)):  # type: ignore[arg-type]
            got += len(part)
    assert got == 3 * PIECE


async def test_a_version_that_goes_meanwhile_ends_the_stream_with_that() -> None:
    pieces = Pieces(BYTES, gone_from=PIECE)
    got = 0
    with pytest.raises(VersionEvicted):
        async for part in payload(pieces, pieces.info, 0, len(BYTES)):  # type: ignore[arg-type]
            got += len(part)
    assert got == PIECE
