"""Why the broadcaster turned this client away: ZeroMQ says it to nobody but those who watch the handshakes."""

from __future__ import annotations

import zmq
from zmq.utils.monitor import recv_monitor_message

from broadcaster.protocol.errors import AccessDenied
from broadcaster.protocol.keyfile import Key

_FAILURES = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
"""Nothing else: a watch that is not read stops the whole of libzmq, and these come one for each attempt."""

UNKNOWN = "the broadcaster does not know this key, or it was taken back: have one made there with `broadcaster keygen`"
NEEDED = (
    "the broadcaster asks for a key: give connect(key=...) or BROADCASTER_KEY the path of a key file, "
    "which `broadcaster keygen` makes beside the broadcaster"
)
UNWANTED = "the broadcaster there has no keys: connect without one"
ANOTHER = (
    "the broadcaster there hung up: the key file is for a broadcaster with another public key, "
    "the broadcaster was replaced and its clients' files were not, or it has no keys"
)
HUNG_UP = f"what is there hung up, which a broadcaster does that wants a key: {NEEDED}"


class Handshakes:
    """Watches a socket's attempts to connect, on the I/O thread."""

    def __init__(self, socket: zmq.Socket[bytes], key: Key | None, address: str) -> None:
        self._watched = socket
        self._key = key
        self._address = address
        self.socket: zmq.Socket[bytes] = socket.get_monitor_socket(_FAILURES)

    def read(self) -> tuple[AccessDenied | None, bool]:
        """What the failures that came mean, if anything, and whether libzmq has given the connection up for good."""
        denied, over = None, False
        while int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            found = recv_monitor_message(self.socket)
            reason = self._reason(int(found["event"]), int(found["value"]))
            over |= int(found["event"]) != int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
            if reason:
                denied = AccessDenied(what=f"connecting to {self._address}", reason=reason)
        return denied, over

    def _reason(self, event: int, value: int) -> str:
        if event == int(zmq.EVENT_HANDSHAKE_FAILED_AUTH):
            return UNKNOWN
        if event == int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
            mismatch = value == int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
            return (UNWANTED if self._key else NEEDED) if mismatch else ""
        return ANOTHER if self._key else HUNG_UP  # Which side notices first is chance.

    def close(self) -> None:
        self.socket.close(linger=0)
        self._watched.disable_monitor()
