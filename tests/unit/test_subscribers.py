"""Subscriptions are counted by topic, and only whole topics count."""

from __future__ import annotations

import pytest

from broadcaster.protocol.names import CHUNKS, EVENTS, topic
from broadcaster.server.subscribers import Subscribers

KEY, OTHER = ("lab", "policy"), ("lab", "pol")
E, C = topic(*KEY, EVENTS), topic(*KEY, CHUNKS)


def test_a_topic_is_wanted_while_somebody_subscribes_to_it() -> None:
    known = Subscribers()
    assert known.events(KEY) is None and known.chunks(KEY) is None
    assert known.add(E) == (KEY, EVENTS) and known.add(C) == (KEY, CHUNKS)
    assert (known.events(KEY), known.chunks(KEY)) == (E, C)
    assert known.events(OTHER) is None
    assert known.add(E) == (KEY, EVENTS) and known.count == 2
    assert known.remove(E) is None, "one is left"
    assert known.remove(E) == KEY
    assert known.events(KEY) is None and known.count == 0
    assert known.remove(C) is None, "who wanted chunks alone had no beacon"
    assert known.chunks(KEY) is None


@pytest.mark.parametrize("raw", [b"", b"lab/policy", b"lab/policy\0", b"lab/pol", E + b"x", b"\0e"])
def test_a_prefix_or_a_strangers_bytes_do_not_count(raw: bytes) -> None:
    known = Subscribers()
    assert known.add(raw) is None and known.remove(raw) is None
    assert known.count == 0


def test_what_was_never_subscribed_to_is_not_removed() -> None:
    known = Subscribers()
    known.add(E)
    assert known.remove(topic(*OTHER, EVENTS)) is None and known.remove(C) is None
    assert known.count == 1
