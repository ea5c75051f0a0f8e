"""The header of a slot: the first 4096 bytes of a file in the slot directory; the payload begins right behind it.

    0        8        16       24       32       48          56         58     ...
    | magic  | epoch  | number | size   | digest | generation | name_len | name |

Little-endian. The header is empty (zeros) from the moment a slot is granted until the version in it is committed, so a reader
that finds the version it was told of in the header, under a lease, reads that version and no other. `name` is
`namespace/model_id`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

NAME = re.compile(r"slot-\d{1,20}-[0-9a-f]{8}")
"""What a slot's file is called; no other file in the slot directory is."""
HEADER = 4096
"""Bytes before the payload: one page, so that the payload is aligned for everything."""
MAGIC = b"MBSLOT\x00\x01"
_FIELDS = struct.Struct("<8sQQQ16sQH")
EMPTY = bytes(_FIELDS.size)


@dataclass(frozen=True, slots=True)
class SlotHeader:
    """Which version a slot holds. `digest` is the xxh3-128 of the payload (16 bytes), `size` its bytes."""

    epoch: int
    number: int
    size: int
    digest: bytes
    generation: int
    name: str

    def pack(self) -> bytes:
        name = self.name.encode("ascii")
        return _FIELDS.pack(MAGIC, self.epoch, self.number, self.size, self.digest, self.generation, len(name)) + name


def parse_slot_header(raw: bytes | memoryview) -> SlotHeader | None:
    """The header in the first bytes of a slot, or None when it is empty or not one."""
    if len(raw) < HEADER:
        return None
    magic, epoch, number, size, digest, generation, length = _FIELDS.unpack_from(raw)
    if magic != MAGIC or _FIELDS.size + length > HEADER:
        return None
    try:
        name = bytes(raw[_FIELDS.size : _FIELDS.size + length]).decode("ascii")
    except UnicodeDecodeError:
        return None
    return SlotHeader(epoch, number, size, digest, generation, name)
