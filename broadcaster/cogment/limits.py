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
HASH_POLL = 0.5
"""Seconds between two looks for versions to hash in the background."""
HASH_EVENTS = 500
"""Events that such a look goes back, at most: of a flood, those before are hashed when somebody asks for them."""
HASH_WAITING = 64
"""Versions that wait for the background, at most: the oldest is given up for one more."""

HEALTH = 1.0
"""Seconds between two looks whether the core answers, and that it may take to."""
THREADS = 4
"""Threads that hash, and map memory."""
