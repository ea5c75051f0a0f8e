"""When a client tells how far its subscribers are, and what: on a clock of the test's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from broadcaster.protocol.errors import RequestTimeout
from broadcaster.protocol.limits import ACK_IDLE, ACK_INTERVAL
from broadcaster.protocol.messages import Ack, Acks, AwaitAcks
from clients._driver import acking
from clients._driver.acking import Acking, Mark
from clients._driver.awaiting import LAST_WORD, AckCounts, Await

EPOCH = 5


class Feed:
    """The acks of one feed, with the time at which each left."""

    def __init__(self, *names: str) -> None:
        self.now = 100.0
        self.sent: list[tuple[float, Ack]] = []
        self.acking = Acking("lab", "policy", self._send, delay=0.05)
        self.marks = [Mark(name) for name in names]
        for mark in self.marks:
            self.acking.join(mark, self.now)

    def _send(self, message: Any, payload: Any = None) -> None:
        self.sent.append((self.now, message))

    def look(self, visible: int, epoch: int | None = EPOCH) -> None:
        self.acking.look(visible, epoch, self.now)

    def run(self, seconds: float, each: Callable[[], None] | None = None) -> list[tuple[float, int, int]]:
        """Time goes by. What was sent meanwhile, and when: (seconds from the start, received, applied)."""
        start, count = self.now, len(self.sent)
        until = start + seconds
        while (at := min(until, self.acking.due if each is None else self.now + 0.001)) < until:
            self.now = max(self.now, at)
            if each is not None:
                each()
            self.acking.expire(self.now)
        self.now = until
        return [(round(when - start, 3), ack.received, ack.applied) for when, ack in self.sent[count:]]

    @property
    def last(self) -> Ack:
        return self.sent[-1][1]


def test_nothing_is_said_before_the_epoch_is_known() -> None:
    feed = Feed("actor")
    feed.look(0, None)
    assert feed.acking.due == math.inf and feed.run(60.0) == []
    feed.look(0)
    assert feed.run(1.0) == [(0.05, 0, 0)]
    assert (feed.last.name, feed.last.namespace, feed.last.model_id, feed.last.epoch) == ("actor", "lab", "policy", EPOCH)
    assert feed.last.subscriber == feed.marks[0].subscriber and not feed.last.gone


def test_an_ack_leaves_a_little_behind_the_version_with_all_that_came_meanwhile() -> None:
    feed = Feed("actor")
    feed.look(1)
    feed.run(1.0)
    feed.look(2)
    feed.now += 0.03
    feed.look(3)
    feed.marks[0].handed = 3
    assert feed.run(1.0) == [(0.02, 3, 3)]


def test_ten_a_second_at_most_however_often_versions_come() -> None:
    feed = Feed("actor")
    number = 0

    def publish() -> None:
        nonlocal number
        number += 1
        feed.look(number)
        feed.marks[0].handed = number

    said = feed.run(2.0, publish)
    assert 19 <= len(said) <= 20
    assert all(later[0] - earlier[0] >= ACK_INTERVAL - 1e-6 for earlier, later in zip(said, said[1:], strict=False))
    assert all(received == applied for _, received, applied in said)


def test_a_crowd_is_asked_to_say_less_and_spreads_over_the_time_that_it_is_given() -> None:
    feed = Feed("actor")
    feed.acking.pace(2000)
    number = 0

    def publish() -> None:
        nonlocal number
        number += 1
        feed.look(number)
        feed.marks[0].handed = number

    said = feed.run(10.0, publish)
    assert 4 <= len(said) <= 6 and said[0][0] >= 1.0
    assert all(later[0] - earlier[0] >= 2.0 - 1e-6 for earlier, later in zip(said, said[1:], strict=False))
    feed.acking.pace(None)
    assert len(feed.run(2.0, publish)) >= 17, "the crowd has gone"
    feed.acking.pace(1 << 40)
    assert len(feed.run(3 * ACK_IDLE, publish)) >= 3, "who is there says so all the same"


def test_a_user_who_takes_a_version_later_is_looked_at_less_and_less_often() -> None:
    feed = Feed("actor")
    looks: list[float] = []
    feed.look(1)
    while feed.now < 108.0:
        start = feed.now = feed.acking.due
        feed.acking.expire(start)
        looks.append(round(feed.acking.due - start, 3))
    assert looks[:6] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert len(feed.sent) == 1, "looking says nothing"
    feed.marks[0].handed = 1
    assert feed.run(1.1)[0][1:] == (1, 1)
    feed.look(2)
    assert feed.run(0.16) == [(0.05, 2, 1)] and feed.acking.due - feed.now <= 0.2, "with a new version it is looked at soon again"


def test_without_news_a_word_every_ten_seconds_with_the_name() -> None:
    feed = Feed("actor")
    feed.look(1)
    feed.marks[0].handed = 1
    said = feed.run(35.0)
    assert [when for when, _, _ in said] == [0.05, 10.05, 20.05, 30.05]
    assert [ack.name for _, ack in feed.sent] == ["actor"] * 4


def test_the_name_is_said_with_the_first_word_and_every_ten_seconds_only() -> None:
    feed = Feed("actor")
    number = 0

    def publish() -> None:
        nonlocal number
        number += 1
        feed.look(number)

    feed.run(2 * ACK_IDLE + 1.0, publish)
    assert len(feed.sent) > 150 and [ack.name for _, ack in feed.sent if ack.name is not None] == ["actor"] * 3


def test_another_life_of_the_broadcaster_is_told_again() -> None:
    feed = Feed("actor")
    feed.look(7)
    feed.marks[0].handed = 7
    feed.run(1.0)
    feed.look(7, EPOCH + 1)
    assert feed.run(1.0) == [(0.05, 7, 7)]
    assert (feed.last.epoch, feed.last.name) == (EPOCH + 1, "actor")


def test_what_was_handed_out_never_goes_back_and_counts_as_received() -> None:
    feed = Feed("actor")
    feed.look(3)
    feed.marks[0].handed = 5  # By `every`, which reads versions of its own.
    assert feed.run(1.0) == [(0.05, 5, 5)]
    feed.marks[0].handed = 4
    assert feed.run(5.0) == []


def test_each_subscriber_of_a_feed_speaks_for_itself() -> None:
    feed = Feed("one", "two")
    feed.look(4)
    feed.marks[1].handed = 4
    feed.run(0.06)
    assert {ack.name: ack.applied for _, ack in feed.sent} == {"one": 0, "two": 4}
    assert len({ack.subscriber for _, ack in feed.sent}) == 2


def test_who_leaves_says_so_at_once_and_only_once() -> None:
    feed = Feed("one", "two", "three")
    one, two, _ = feed.marks
    feed.look(4)
    feed.run(0.06)
    one.handed = 4
    feed.acking.leave(one)
    feed.acking.leave(one)
    gone = feed.last
    assert gone.gone and (gone.subscriber, gone.received, gone.applied) == (one.subscriber, 4, 4)
    assert len(feed.sent) == 4
    feed.acking.close()
    assert [ack.gone for _, ack in feed.sent[4:]] == [True, True] and feed.acking.due == math.inf


def test_who_was_never_told_of_does_not_say_goodbye() -> None:
    feed = Feed("actor")
    feed.acking.close()
    assert feed.sent == []
    feed.look(1)
    assert feed.acking.due == math.inf


def test_a_crowd_does_not_speak_all_at_once() -> None:
    delays = set()
    for _ in range(50):
        made = Acking("lab", "policy", lambda message, payload=None: None)
        made.join(Mark("actor"), 0.0)
        made.look(1, EPOCH, 0.0)
        delays.add(made.due)
    assert len(delays) > 10 and acking.DELAY <= min(delays) and max(delays) <= 2 * acking.DELAY + 1e-9


# --- waiting for them ----------------------------------------------------------------------------------------------


def test_a_wait_asks_again_with_the_same_id_and_leaves_the_last_word_to_the_broadcaster() -> None:
    sent: list[AwaitAcks] = []
    waiting = Await("lab", "policy", 7, 3, "applied", lambda message, payload=None: sent.append(message), 12.5, 2.5)  # type: ignore[arg-type]
    waiting.start(10.0)
    assert waiting.deadline == 11.0 and not waiting.expire(11.0) and not waiting.expire(12.0), "silence is no bad sign here"
    assert [message.budget_ms for message in sent] == [2500, 1500, 500] and len({message.request_id for message in sent}) == 1
    assert (sent[0].namespace, sent[0].model_id, sent[0].number, sent[0].count, sent[0].stage) == (
        "lab",
        "policy",
        7,
        3,
        "applied",
    )
    assert not waiting.over and waiting.deadline == 12.5 + LAST_WORD
    waiting.receive(Acks(request_id=sent[0].request_id, received=4, applied=3), None, 12.9)
    assert waiting.future.result(0) == AckCounts(received=4, applied=3)


def test_a_wait_that_nobody_answers_ends_by_itself() -> None:
    waiting = Await("lab", "policy", 7, 3, "applied", lambda message, payload=None: None, 12.5, 2.5)
    waiting.start(10.0)
    waiting.expire(12.5 + LAST_WORD)
    error = waiting.future.exception(0)
    assert isinstance(error, RequestTimeout) and "3 subscribers of policy have applied version 7 did not finish" in str(error)


def test_the_first_ack_of_a_version_says_how_long_it_was_visible_and_a_late_joiners_does_not() -> None:
    feed = Feed("actor")
    feed.look(7)
    feed.run(1.0)
    assert (feed.last.received, feed.last.age_us) == (7, None)
    feed.look(8)
    feed.run(1.0)
    assert (feed.last.received, feed.last.age_us) == (8, 50_000)
    feed.marks[0].handed = 8
    feed.run(10.0)
    assert (feed.last.received, feed.last.applied, feed.last.age_us) == (8, 8, None)
