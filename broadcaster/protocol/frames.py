"""Bytes to messages and back: the only place that knows msgpack and the layout of a chunk's header.

A control message is two frames, `[kind][msgpack map]`, with a third for a payload of at most 64 KiB where the message has
one. A chunk is three, `[topic or empty][header][bytes]`. The header is 64 bytes, little-endian:

    0       2         3       4          8       16     24      32         48        64
    | magic | version | flags | attempt  | size  | offset | length | transfer | digest |
    | 2     | 1       | 1     | 4        | 8     | 8      | 8      | 16       | 16     |

`magic` is C4 4B, which no kind and no topic begins with. `size` is that of the whole payload and `offset` the place of these
`length` bytes in it. `transfer` is the upload id (upload), the transfer that an event maps to its version (push) or the
request id (data). `digest` is the xxh3-128 of these bytes where flag 1 is set, else zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from broadcaster.protocol.errors import LocalProtocolError, RemoteProtocolError
from broadcaster.protocol.limits import CHUNK, CONTROL
from broadcaster.protocol.messages import KINDS, Message

MAGIC = b"\xc4K"
HEADER = struct.Struct("<2sBBIQQQ16s16s")
HEADER_VERSION = 1
_DIGEST = 1
_NO_DIGEST = bytes(16)
_MAX_UINT = (1 << 63) - 1
_TEXT = frozenset([str])

Buffer = bytes | bytearray | memoryview


def header_bytes(transfer: bytes, size: int, offset: int, length: int, attempt: int) -> bytes:
    """A chunk's header as it is on the wire, without the digest of its bytes."""
    return HEADER.pack(MAGIC, HEADER_VERSION, 0, attempt, size, offset, length, transfer, _NO_DIGEST)


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """Where the bytes beside it belong. Sizes and offsets in bytes; `digest` is the xxh3-128 of the bytes, or None."""

    transfer: bytes
    size: int
    offset: int
    length: int
    attempt: int = 0
    digest: bytes | None = None

    def pack(self) -> bytes:
        if self.digest is None:
            return header_bytes(self.transfer, self.size, self.offset, self.length, self.attempt)
        fields = self.attempt, self.size, self.offset, self.length, self.transfer, self.digest
        return HEADER.pack(MAGIC, HEADER_VERSION, _DIGEST, *fields)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a payload on its way: `data` is a view into a buffer that somebody else owns."""

    header: ChunkHeader
    data: Buffer


def is_chunk_header(frame: Buffer) -> bool:
    """Whether this frame begins a chunk's header rather than naming a control message."""
    return len(frame) == HEADER.size and bytes(frame[:2]) == MAGIC


def decode_header(frame: Buffer) -> ChunkHeader:
    """The header in `frame`. Raises RemoteProtocolError for anything that cannot place bytes inside a payload."""
    if len(frame) != HEADER.size:
        raise RemoteProtocolError(reason=f"a chunk header has {HEADER.size} bytes, not {len(frame)}")
    magic, version, flags, attempt, size, offset, length, transfer, digest = HEADER.unpack(frame)
    if magic != MAGIC or version != HEADER_VERSION:
        raise RemoteProtocolError(reason=f"not a chunk header of version {HEADER_VERSION}")
    if size > _MAX_UINT or length > CHUNK or offset + length > size:
        raise RemoteProtocolError(reason=f"chunk of {length} bytes at {offset} is not inside a payload of {size} bytes")
    return ChunkHeader(transfer, size, offset, length, attempt, digest if flags & _DIGEST else None)


def encode(message: Message) -> list[bytes]:
    """`[kind][map]`. Raises LocalProtocolError when the map is larger than a control message may be."""
    packed: bytes = msgpack.packb(message.write(), use_bin_type=True)
    if len(packed) > CONTROL:
        raise LocalProtocolError(reason=f"{message.KIND.decode()} of {len(packed)} bytes is over {CONTROL}")
    return [message.KIND, packed]


def encoded_size(value: Any) -> int:
    """Bytes that `value` takes as msgpack: for limits on user data and for filling pages."""
    return len(msgpack.packb(value, use_bin_type=True))


def decode(frames: Sequence[Buffer]) -> Message:
    """The control message in `[kind][map]` (a payload frame behind them is the caller's).

    Raises RemoteProtocolError, and nothing else, whatever the bytes are.
    """
    if len(frames) < 2:
        raise RemoteProtocolError(reason=f"a control message has a kind and a map, not {len(frames)} frame(s)")
    kind = KINDS.get(bytes(frames[0][:32]))
    if kind is None:
        raise RemoteProtocolError(reason=f"there is no message {bytes(frames[0][:32])!r}")
    message: Message = kind.read(decode_map(frames[1]))
    return message


def decode_map(frame: Buffer) -> dict[str, Any]:
    """The map in a control message's second frame, under explicit limits, for a caller that wants it before its rules."""
    if len(frame) > CONTROL:
        raise RemoteProtocolError(reason=f"a control map of {len(frame)} bytes is over {CONTROL}")
    try:
        found = msgpack.unpackb(
            frame,
            raw=False,
            strict_map_key=False,
            object_pairs_hook=_unique,
            ext_hook=_no_extension,
            max_str_len=CONTROL,
            max_bin_len=CONTROL,
            max_array_len=CONTROL,
            max_map_len=CONTROL,
            max_ext_len=0,
        )
    except RemoteProtocolError:
        raise
    except Exception as wrong:  # msgpack raises its own, ValueError, TypeError, RecursionError and more for hostile bytes
        raise RemoteProtocolError(reason=f"not a msgpack map: {type(wrong).__name__}") from None
    if type(found) is not dict:
        raise RemoteProtocolError(reason="a control message's second frame must be a map")
    return found


def _unique(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs) or not _TEXT.issuperset(map(type, found)):
        raise RemoteProtocolError(reason="a map has a repeated key or one that is not text")
    return found


def _no_extension(code: int, data: bytes) -> Any:
    raise RemoteProtocolError(reason=f"msgpack extension {code} is not part of the protocol")
