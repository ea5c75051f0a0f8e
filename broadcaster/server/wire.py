"""One connection as the kernel knows it, by the descriptor that libzmq names: who is at its other end, how much came and went,
and its end. The descriptor is libzmq's own and may be closed at any moment, and be another connection's then."""

from __future__ import annotations

import os
import socket
import stat
import struct
from dataclasses import dataclass

_INFO = getattr(socket, "TCP_INFO", None)
_ACKED = struct.Struct("=QQ")
_ACKED_AT = 120
"""Place of tcpi_bytes_acked in Linux' struct tcp_info; tcpi_bytes_received comes behind it."""


@dataclass(frozen=True, slots=True)
class Line:
    """`inode` tells it from a later one with the same descriptor. `address` is the peer's, empty for ipc."""

    descriptor: int
    inode: int
    address: str

    @property
    def there(self) -> bool:
        """Whether the descriptor still is this connection."""
        return inode_of(self.descriptor) == self.inode

    def traffic(self) -> tuple[int, int] | None:
        """Bytes that the peer has of us, and that it sent; None where nobody can say."""
        if _INFO is None or not self.address or not self.there:
            return None
        try:
            with _Borrowed(self.descriptor) as borrowed:
                told = borrowed.getsockopt(socket.IPPROTO_TCP, _INFO, 256)
        except OSError:
            return None
        if len(told) < _ACKED_AT + _ACKED.size:
            return None
        acked, received = _ACKED.unpack_from(told, _ACKED_AT)
        return acked, received

    def cut(self) -> None:
        """Ends it, which libzmq notices as it would if the peer had gone."""
        if not self.there:
            return
        try:
            with _Borrowed(self.descriptor) as borrowed:
                borrowed.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # It ended by itself.


def line_of(descriptor: int) -> Line | None:
    """The connection that has this descriptor now; None when it has gone."""
    inode = inode_of(descriptor)
    if inode is None:
        return None
    try:
        with _Borrowed(descriptor) as borrowed:
            peer = borrowed.getpeername()
    except OSError:
        return None
    return Line(descriptor, inode, str(peer[0]) if isinstance(peer, tuple) else "")


def inode_of(descriptor: int) -> int | None:
    """Of a socket; None for anything else."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_ino if stat.S_ISSOCK(found.st_mode) else None


class _Borrowed:
    """A socket object over somebody else's descriptor, which stays open."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.detach()
