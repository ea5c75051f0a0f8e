"""Every number that bounds a message or a conversation, with its unit. The table in docs/protocol.md is made of these."""

PROTOCOL = 1
"""The protocol's major version. Peers with another one are refused with both numbers; unknown fields are ignored."""

CHUNK = 1 << 20
"""Bytes of payload in one chunk; only the last chunk of a payload is shorter."""
INLINE = 64 << 10
"""Bytes: payloads up to this size travel inside their messages and have no slot."""
CONTROL = 64 << 10
"""Bytes of one control map."""
ANNOTATIONS = 16 << 10
"""Bytes that user data, metrics, tags and description of one version or model may take together, as msgpack."""
DESCRIPTION = 4 << 10
"""Bytes of UTF-8 of one description."""
MAX_PAYLOAD = 64 << 30
"""Bytes: no payload may be larger whatever is configured (chunk indices and sums stay far below 63 bits)."""
WINDOW = 16
"""Chunks of one upload that may be under way without a credit coming back."""
EAGER = 4
"""Chunks that may follow `begin` before its answer is here: a small payload needs one round trip, not two."""
FILLED = 4 << 20
"""Bytes that a learner copies into its slot between two words of how far it is."""
READ = 4 << 20
"""Bytes that one read request may ask for: each request has to be taken apart at both ends."""
READS = 8
"""Chunks that one fetch has asked for and does not have yet, at most: what a slow connection does not take waits in the
broadcaster's memory."""
FAST_READS = 16
"""The same, while chunks come faster than one in 10 ms."""
PAGE = 1000
"""Most entries in one page of a listing; a page also ends before it reaches the size of a control map."""

ALIASES = 256
"""Aliases of one model: all of them are told with it, in one control map."""
PINS = 1000
"""Transient versions that may be pinned at a time, over all models; those that are archived are not counted."""

RETRY = 1.0
"""Seconds without an answer after which a client asks again (same request id, same upload id)."""
IDLE_UPLOAD = 60.0
"""Seconds without progress after which the broadcaster gives an upload up."""
BEACON = 1.0
"""Seconds between two beacons of a model that is being published."""
BEACON_IDLE = 5.0
"""Seconds between two beacons of a model without news."""

NAME = 128
"""Characters of the name that a client gives itself."""
SUBSCRIBERS = 10_000
"""Subscribers of one model whose acks are remembered."""
ACK_INTERVAL = 0.1
"""Seconds between two acks of one subscriber, at least."""
ACK_IDLE = 10.0
"""Seconds between two acks when nothing changes: who lives stays in the table."""
ACK_SILENT = 30.0
"""Seconds of silence after which a subscriber is forgotten."""
