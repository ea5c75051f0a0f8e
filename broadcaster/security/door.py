"""Who is let in: the answers to ZeroMQ's authentication protocol (ZAP, RFC 27). Nobody, unless it is said here."""

from __future__ import annotations

from collections.abc import Sequence

from zmq.utils import z85

from broadcaster.security.book import Book

NETWORK = "network"
"""The ZAP domain of what is bound on TCP: a key that the book knows is needed."""
LOCAL = "local"
"""That of ipc sockets: who can open them may do all."""
TRUSTED = "."
"""The user id of all who come in by ipc; no public key looks like this."""


def admit(question: Sequence[bytes], book: Book) -> tuple[list[bytes], bool]:
    """The answer, and whether somebody was let in. Whoever has a key is known by it: the user id is the public key."""
    if len(question) < 6:
        return [b"1.0", question[1] if len(question) > 1 else b"", b"500", b"bad request", b"", b""], False
    version, number, domain, _address, _routing, mechanism, *credentials = question
    user = _user(domain.decode("latin-1"), mechanism, credentials, book) if version == b"1.0" else None
    if user is None:
        return [b"1.0", number, b"400", b"unknown key", b"", b""], False
    return [b"1.0", number, b"200", b"OK", user.encode(), b""], True


def _user(domain: str, mechanism: bytes, credentials: Sequence[bytes], book: Book) -> str | None:
    if domain == LOCAL and mechanism == b"NULL":
        return TRUSTED
    if domain == NETWORK and mechanism == b"CURVE" and len(credentials) == 1 and len(credentials[0]) == 32:
        public = z85.encode(credentials[0]).decode()
        return public if public in book.keys else None
    return None
