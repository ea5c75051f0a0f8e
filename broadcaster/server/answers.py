"""How this broadcaster answers: what is counted, and how much of an error, and of the way of a request, is told."""

from __future__ import annotations

import logging
import re
import socket
import time
import traceback
from collections.abc import Mapping

from broadcaster.broker import Timing
from broadcaster.protocol.errors import BroadcasterError, Fact, NoSpace, ProtocolError, RequestError, TransportError
from broadcaster.protocol.hops import BROADCASTER, MOST_DETAILS, ErrorDetail
from broadcaster.protocol.messages import Error
from broadcaster.stats import Stats

log = logging.getLogger("broadcaster.server")

_LONGEST_FACT = 1000
_LONGEST_DETAIL = 300
_LONGEST_TRACEBACK = 1000
_OWN_DETAILS = 6
"""Errors of one chain that are told: together with the facts they fit into a control map, whatever is in them."""
_WARN_AGAIN = 1.0
"""Seconds between two warnings of a disk that fails."""
_NO_ID = bytes(16)
_ABSOLUTE = re.compile(r"(?<=')/[^'\n]+(?=')|(?<![\w./…])/[^\s'\",;:()\[\]]+")
"""What looks like a path of a disk, in quotes (with blanks, then) or without."""


def host_name() -> str:
    """This host's name without its domain, as far as it is a valid name."""
    name = re.sub(r"[^A-Za-z0-9._-]", "", socket.gethostname().partition(".")[0]).lstrip("._-")[:128]
    return name or BROADCASTER


class Answers:
    """`node` is what this broadcaster is called. `roots` are directories of its own: what lies in them is told by the name that
    they have here, and no other path is told at all, unless `debug`."""

    def __init__(self, stats: Stats, node: str, roots: Mapping[str, str], *, debug: bool = False) -> None:
        self.stats = stats
        self._node = node
        self._debug = debug
        self._warned = -_WARN_AGAIN
        # A path ends where a name ends: the longest first, so that one directory may lie in another.
        self._roots = [
            (re.compile(re.escape(path) + r"(?![\w.-])"), name)
            for path, name in sorted(roots.items(), key=lambda one: -len(one[0]))
        ]

    def timing(self) -> Timing:
        """Of a request that comes now."""
        return Timing(self._node, time.time_ns, time.monotonic_ns)

    def error(self, error: BroadcasterError, request_id: bytes, upload_id: bytes | None = None) -> Error:
        """The error as a message. Whoever made no request of its own (a chunk did) gets the id that the error knows."""
        disk = _is_of_the_disk(error)
        facts: dict[str, Fact] = {}
        for name, value in error.facts.items():
            plain = value if value is None or isinstance(value, (int, float, bool)) else self._plain(str(value), disk=disk)
            facts[name] = plain if not isinstance(plain, int) or abs(plain) < 1 << 63 else str(plain)
        if request_id == _NO_ID and error.request_id is not None:
            request_id = bytes.fromhex(error.request_id)
        self._log(error, request_id, disk=disk)
        return Error(
            request_id=request_id,
            hops=error.hops or None,
            upload_id=upload_id,
            code=error.code,
            message=self._plain(str(error), disk=disk),
            facts=facts,
            details=self._details(error),
        )

    def _log(self, error: BroadcasterError, request_id: bytes, *, disk: bool) -> None:
        """What clients are not told is here; of a disk that fails for all of them, once a second."""
        level, now = logging.DEBUG, time.monotonic()
        if disk and now >= self._warned + _WARN_AGAIN:
            level, self._warned = logging.WARNING, now
        log.log(level, "refused code=%s request=%s reason=%s", error.code, request_id.hex(), error)

    def _details(self, error: BroadcasterError) -> tuple[ErrorDetail, ...]:
        """What led to it, innermost first: behind what another node said of it."""
        chain: list[BaseException] = [error]
        while (cause := chain[-1].__cause__) is not None and len(chain) < _OWN_DETAILS:
            chain.append(cause)
        before = getattr(chain[-1], "details", ()) if isinstance(chain[-1], BroadcasterError) else ()
        return (*before, *(self._detail(one) for one in reversed(chain)))[-MOST_DETAILS:]

    def _detail(self, error: BaseException) -> ErrorDetail:
        told = None
        if self._debug:
            lines = traceback.format_exception(type(error), error, error.__traceback__, chain=False)
            told = _sendable("".join(lines)[-_LONGEST_TRACEBACK:])
        return ErrorDetail(
            node=self._node,
            role=BROADCASTER,
            error_class=type(error).__name__,
            message=self._plain(_said(error, debug=self._debug), disk=_is_of_the_disk(error))[:_LONGEST_DETAIL],
            retryable=isinstance(error, BroadcasterError) and error.retryable,
            traceback=told,
        )

    def _plain(self, text: str, *, disk: bool) -> str:
        text = _sendable(text)
        if not self._debug:
            for path, name in self._roots:
                text = path.sub(name, text)
            if disk:
                text = _ABSOLUTE.sub("…", text)
        return text[:_LONGEST_FACT]


def _is_of_the_disk(error: BaseException) -> bool:
    """Whether its text is this machine's: not what the caller said."""
    return isinstance(error, NoSpace) or not isinstance(error, (RequestError, ProtocolError, TransportError))


def _said(error: BaseException, *, debug: bool) -> str:
    """What an error says; of one that is not ours its first line: behind that may stand anything, a statement's values even."""
    if isinstance(error, BroadcasterError) or debug:
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0]


def _sendable(text: str) -> str:
    """The bytes of a name on disk need not be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
