"""Where an iteration over every version begins, whatever the I/O thread is busy with."""

from __future__ import annotations

import threading

from clients import connect
from tests.broadcaster_process import BroadcasterProcess

WAIT = 10.0


def test_it_begins_with_what_was_newest_when_it_was_asked_for(shared: BroadcasterProcess, model: str) -> None:
    with connect(shared.url) as client, connect(shared.url) as learner:
        publisher, subscriber = learner.publisher(model), client.subscriber(model)
        for value in range(3):
            publisher.publish(b"%d" % value)
        subscriber.wait(timeout=WAIT, newer_than=2)
        busy, driver = threading.Event(), client._driver
        asked = threading.Event()

        def until_more_came(now: float) -> None:
            busy.set()
            assert asked.wait(WAIT) and driver._channels["push"].socket.poll(WAIT * 1000)

        driver.post(until_more_came)
        assert busy.wait(WAIT)
        every = subscriber.every()
        publisher.publish(b"3")
        publisher.publish(b"4")
        asked.set()
        assert [next(every).version.number for _ in range(3)] == [3, 4, 5]
