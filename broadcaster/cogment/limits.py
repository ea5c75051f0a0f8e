"""Every number that bounds what the Cogment front takes and gives, with its unit."""

REQUEST = 10.0
"""Seconds that a question to the core may take, unless the caller's deadline is nearer. A core that died serves again in 2."""
PUBLISH = 600.0
"""Seconds that a commit may take, unless the caller's own deadline is nearer: an archived version has to get to the disk."""
STALL = 60.0
"""Seconds in which a client that uploads has to send something, and one that is sent something has to take it."""
PIECE = 1 << 20
"""Bytes of a payload that are asked of the core at a time."""
AHEAD = 2
"""Pieces that are asked for before they are needed."""
LARGEST_CHUNK = 3 << 20
"""Bytes of a chunk of a reply, whatever is configured: a client takes messages of 4 MiB unless it was told otherwise."""
CHUNK = 2 << 20
"""Bytes of a chunk of a reply, unless configured."""
RECEIVED = 8 << 20
"""Bytes of one message that is taken: twice what a client may send to the original."""
CALLS = 4096
"""Calls under way at a time; one more is refused (RESOURCE_EXHAUSTED)."""
UPLOADS = 64
"""Uploads under way at a time, each with a slot or memory reserved; one more waits."""
DOWNLOADS = 64
"""Downloads under way at a time; one more waits."""
KEEPALIVE = 20.0
"""Seconds of silence after which a connection is asked whether it is still there."""
KEEPALIVE_TIMEOUT = 10.0
"""Seconds in which it has to answer."""
LOOK = 1.0
"""Seconds between two looks whether who listens to updates still may."""
GRACE = 0.5
"""Seconds that calls under way have to end when the server does."""

HASH_STEP = 4 << 20
"""Bytes that are hashed in one go, with Python's lock given up meanwhile."""
HASHES = 65_536
"""SHA-256 sums of versions that are remembered."""
HASH_PATIENCE = 0.25
"""Seconds that an update waits for the hash of its version, before it is sent without."""
HASH_WAITING = 64
"""Versions that wait for the background, at most: the oldest is given up for one more."""

HEALTH = 1.0
"""Seconds between two looks whether the core answers, and that it may take to."""
THREADS = 4
"""Threads that hash, and map memory."""

POLL = 0.5
"""Seconds between two looks at the core's log."""
EVENTS = 500
"""Events that are read of it at a time: of a flood only the newest so many are."""
PLACES = 8192
"""Versions whose place in shared memory is remembered."""
LEASED_SHARE = 4
"""The part of the memory budget that downloads may hold under leases together: a quarter."""
UPDATE_PAUSE = 0.02
"""Seconds after an update before the next one, at least: its client may begin to read the version."""
UPDATE_PATIENCE = 1.0
"""Seconds that an update waits for a client that reads what it is told of: to begin, and to end."""
HOLD = 2.0
"""Seconds for which a version is held that somebody was told of."""
HELD = 8
"""Versions that are held so at a time."""
HELD_SHARE = 8
"""The part of the memory budget that they may take together: an eighth."""
