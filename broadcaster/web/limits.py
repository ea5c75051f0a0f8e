"""Every number that bounds what HTTP takes and gives, with its unit."""

PATIENCE = 1.0
"""Seconds after which the core counts as not answering."""
REQUEST = 10.0
"""Seconds that a question to the core may take that is asked for a request."""
LOOK = 0.25
"""Seconds for which a look at the core is shared by everybody who asks how it is."""

HEAD = 16 << 10
"""Bytes of a request's line and headers together."""
HEAD_SECONDS = 5.0
"""Seconds in which a request has to be there, with its headers and its body."""
BODY = 64 << 10
"""Bytes of a request's body. No route needs one."""
KEEP_ALIVE = 5
"""Seconds that a connection may be silent between two requests."""
STALL = 20.0
"""Seconds in which a client has to take something of what is sent to it."""
CONNECTIONS = 1000
"""Connections at a time. One more is closed at once."""

PAGE = 100
"""Entries of a page, unless more or fewer are asked for."""
PIECE = 1 << 20
"""Bytes of a payload that are asked of the core at a time."""
AHEAD = 2
"""Pieces that are asked for before they are needed: a download holds one more than these."""
WRITE = 256 << 10
"""Bytes that are handed to the connection at a time."""
DOWNLOADS = 32
"""Downloads at a time; one more is told to come again."""

LISTENERS = 100
"""Listeners to events at a time; one more is told to come again."""
QUEUED = 1000
"""Events that wait for one listener; who is further behind is cut off, and resumes by itself."""
POLL = 0.2
"""Seconds between two questions for new events, while somebody listens."""
HEARTBEAT = 10.0
"""Seconds of silence after which a listener is told that there is nothing new."""
EVENTS = 500
"""Events asked for at a time."""
