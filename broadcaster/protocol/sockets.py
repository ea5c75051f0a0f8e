"""The socket options, as a table of names: what each socket of each channel is set to before it binds or connects.

Measured, not guessed: no ZMTP heartbeats (they abort processes in libzmq 4.3.5), the kernel's own timers instead; MAXMSGSIZE
always; never XPUB_NODROP (one stalled actor would stall all); no routing ids of the client's choice. `server` and `_driver` apply
the table; a test reads the options back.
"""

from __future__ import annotations

from broadcaster.protocol.limits import CHUNK

LARGEST_FRAME = CHUNK + 64
"""Bytes of a frame on the wire: CURVE makes one of 1 MiB 33 bytes longer."""
_EVERYWHERE = {
    "LINGER": 0,
    "TCP_KEEPALIVE": 1,
    "TCP_KEEPALIVE_IDLE": 30,
    "TCP_KEEPALIVE_INTVL": 10,
    "TCP_KEEPALIVE_CNT": 3,
    "TCP_MAXRT": 15_000,
}
_LISTENING = {"BACKLOG": 4096, "HANDSHAKE_IVL": 5_000}
_CONNECTING = {
    "RECONNECT_IVL": 100,
    "RECONNECT_IVL_MAX": 500,
    "CONNECT_TIMEOUT": 3_000,
    # A line that is dead, or that only one end knows to be closed, is given up after 6 s: who only listens would else follow
    # nothing for a minute, and who waits for the kernel's next attempt to send, which come ever more slowly, nearly as long.
    "TCP_KEEPALIVE_IDLE": 3,
    "TCP_KEEPALIVE_INTVL": 1,
    "TCP_MAXRT": 6_000,
}

PUSH_HWM = 256
"""Chunks queued for one subscriber before PUB drops for it: the bound on what a stalled actor costs is
(PUSH_HWM + 2) MiB, shared by all that are stalled, since a queued chunk is one piece of memory for all."""

SERVER: dict[str, dict[str, int]] = {
    "upload": _EVERYWHERE
    | _LISTENING
    | {"MAXMSGSIZE": LARGEST_FRAME, "RCVHWM": 0, "SNDHWM": 1000, "ROUTER_MANDATORY": 1, "ROUTER_HANDOVER": 0},
    "push": _EVERYWHERE | _LISTENING | {"MAXMSGSIZE": 512, "RCVHWM": 256, "SNDHWM": PUSH_HWM, "XPUB_MANUAL": 1},
    "data": _EVERYWHERE
    | _LISTENING
    | {"MAXMSGSIZE": LARGEST_FRAME, "RCVHWM": 0, "SNDHWM": 256, "ROUTER_MANDATORY": 1, "ROUTER_HANDOVER": 0},
}
"""Options of the broadcaster's sockets by channel (ROUTER, XPUB, ROUTER). RCVHWM 0: a peer that goes while its queue is full,
with a ZMTP heartbeat in what it sent last, aborts libzmq 4.3.5. What honest peers send unasked is bounded by credit; who floods
is cut off (`broadcaster/server/connections.py`). Only subscriptions have to wait: libzmq walks over all of them whenever a
subscriber goes, and a flood of them that did not wait would keep it busy for minutes."""

CLIENT: dict[str, dict[str, int]] = {
    "upload": _EVERYWHERE | _CONNECTING | {"MAXMSGSIZE": LARGEST_FRAME, "SNDHWM": 4000, "RCVHWM": 4000},
    "lane": _EVERYWHERE | _CONNECTING | {"MAXMSGSIZE": LARGEST_FRAME, "SNDHWM": 16, "RCVHWM": 256, "IMMEDIATE": 1},
    "push": _EVERYWHERE | _CONNECTING | {"MAXMSGSIZE": LARGEST_FRAME, "RCVHWM": 24},
    "data": _EVERYWHERE | _CONNECTING | {"MAXMSGSIZE": LARGEST_FRAME, "SNDHWM": 1000, "RCVHWM": 256},
}
"""Options of a client's sockets by channel (DEALER, DEALER, SUB, DEALER; the second is one more to the upload channel, and
queues nothing while it is not connected). What a slow actor does not take waits at the broadcaster, where it is shared, not in a
queue of its own: hence the small RCVHWM of push. What waits on upload is bounded by credit, not by the queue: a message that
found it full would be repeated a second later."""
