"""The checker itself: a good history has no breach, and each kind of bad one is found, by the right invariant."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broadcaster.protocol.errors import BudgetExceeded, NoSpace, RequestTimeout
from tests.fault.history.checker import Bounds, check, slowdown
from tests.fault.history.events import (
    FAILED,
    OK,
    UNKNOWN,
    Delivery,
    Follower,
    Gone,
    History,
    Operation,
    Recorder,
    Sample,
    Span,
    history_of,
)

BOUNDS = Bounds(memory=100 << 20, descriptors=50)


class Story:
    """A history that is written by hand: each line of it takes a second."""

    def __init__(self) -> None:
        self.history = History()
        self.now = 0.0

    def do(self, name: str, outcome: str = OK, *, took: float = 0.5, limit: float = 10.0, who: str = "a", **facts: Any) -> None:
        self.now += 1
        end = None if outcome == "killed" else self.now + took
        outcome = UNKNOWN if outcome == "killed" else outcome
        self.history.operations.append(Operation(who, name, self.now, end, outcome, limit, {"model": "m"} | facts))
        self.now += took

    def publish(self, number: int | None, digest: str, outcome: str = OK, **facts: Any) -> None:
        self.do("publish", outcome, number=number, digest=digest, **({"archived": False} | facts))

    def fetch(self, ref: int, number: int | None, digest: str | None = None, error: str | None = None, **facts: Any) -> None:
        self.do("fetch", FAILED if error else OK, ref=ref, number=number, digest=digest, said=digest, error=error, **facts)

    def list(self, *versions: tuple[int, str], **facts: Any) -> None:
        self.do("list", versions=versions, **facts)

    def follow(self, who: str, *, every: bool = False) -> None:
        self.now += 1
        self.history.followers.append(Follower(who, "m", every, self.now))

    def deliver(self, who: str, number: int, digest: str, found: str | None = None, *, after: float = 1.0) -> None:
        self.now += after
        self.history.deliveries.append(Delivery(who, "m", number, self.now, digest, found or digest))

    def restart(self) -> None:
        self.now += 1
        self.history.away.append(Span(self.now, self.now + 1))
        self.now += 2

    def heal(self) -> None:
        self.now += 1
        self.history.healed = self.now


def good() -> Story:
    """Everything that may happen, and is right."""
    story = Story()
    story.follow("latest")
    story.follow("every", every=True)
    story.publish(1, "one", archived=True)
    story.deliver("latest", 1, "one")
    story.deliver("every", 1, "one")
    story.publish(2, "two")
    story.fetch(-1, 2, "two")
    story.fetch(1, 1, "one")
    story.list((1, "one"), (2, "two"))
    story.publish(None, "refused", FAILED)
    story.publish(None, "lost", "killed")
    story.deliver("latest", 3, "lost")
    story.do("set-alias", alias="best", expect=0, number=1)
    story.do("read-alias", alias="best", number=1)
    story.restart()
    story.fetch(2, None, error="version-evicted")
    story.fetch(-1, 1, "one")
    story.publish(1024, "pruned", archived=True)
    story.publish(1025, "four", archived=True)
    story.do("prune", numbers=[1024], every=5)
    story.do("delete", number=1025)
    story.fetch(1025, None, error="unknown-version")
    story.publish(1026, "five")
    story.history.gone.append(Gone("every", "m", 2, 1025, story.now))
    story.deliver("every", 1026, "five")
    story.heal()
    story.fetch(1, 1, "one")
    story.publish(1027, "last")
    for who in ("latest", "every"):
        story.deliver(who, 1027, "last")
    story.history.samples.append(Sample(story.now, 99 << 20, 50))
    return story


def test_a_good_history_has_no_breach() -> None:
    assert check(good().history, BOUNDS) == []


Plant = Callable[[Story], None]


def skipped(story: Story) -> None:
    story.history.gone.clear()


def stale_alias(story: Story) -> None:
    story.publish(1028, "more", archived=True)
    story.do("set-alias", alias="best", expect=1, number=1028)
    story.do("read-alias", alias="best", number=1)


def lost_update(story: Story) -> None:
    story.publish(1028, "more", archived=True)
    story.do("set-alias", alias="best", expect=1, number=1028)
    story.do("set-alias", alias="best", expect=1, number=1027, who="b")


def denied_newest(story: Story) -> None:
    story.history.operations = [one for one in story.history.operations if one["digest"] != "lost"]
    story.history.deliveries = [one for one in story.history.deliveries if one.found != "lost"]
    story.fetch(1027, None, error="version-evicted")


def stopped_does_not_excuse(story: Story) -> None:
    story.history.stops["a"] = [Span(story.now + 1, story.now + 4)]
    story.do("list", versions=(), took=16)


def archived_and_not_read_back(story: Story) -> None:
    story.publish(1028, "kept", archived=True)
    for who in ("latest", "every"):
        story.deliver(who, 1028, "kept")


def denied_after_archive_of_an_older_one(story: Story) -> None:
    story.do("archive", number=1026, digest="five")
    story.list((1, "one"), (1027, "last"))


def resurrected_for_a_newcomer(story: Story) -> None:
    story.follow("newcomer")
    story.deliver("newcomer", 1025, "four")
    story.deliver("newcomer", 1027, "last")


def resurrected_with_its_model(story: Story) -> None:
    story.do("delete-model")
    story.restart()
    story.list((1, "one"))


def never_converged(story: Story) -> None:
    story.follow("deaf")


def late(story: Story) -> None:
    story.publish(1028, "more")
    story.deliver("every", 1028, "more")
    story.deliver("latest", 1028, "more", after=9)


BAD: dict[str, list[Plant]] = {
    "I1 torn": [
        lambda story: story.deliver("latest", 1028, "last", found="half"),
        lambda story: story.do("fetch", ref=1027, number=1027, digest="half", said="last"),
    ],
    "I1 invented": [lambda story: story.deliver("latest", 1028, "nobody's"), lambda story: story.fetch(1028, 1028, "nobody's")],
    "I2 reused": [
        lambda story: story.publish(1027, "another"),
        lambda story: story.fetch(1, 1, "last"),
        lambda story: story.list((1, "one"), (3, "two"), (1027, "last")),
    ],
    "I2 twice": [
        lambda story: story.list((1, "one"), (1027, "last"), (1028, "last")),
        lambda story: story.deliver("latest", 1028, "last"),
    ],
    "I3 back": [lambda story: story.deliver("latest", 1, "one"), lambda story: story.deliver("every", 1027, "last")],
    "I3 skipped": [skipped],
    "I4 lost": [
        lambda story: story.fetch(1, None, error="version-evicted"),
        lambda story: story.fetch(1, None, error="store-corrupt"),
        lambda story: story.list((1027, "last")),
        lambda story: story.do("list", FAILED, error="unknown-model"),
        denied_after_archive_of_an_older_one,
    ],
    "I4 pruned": [
        lambda story: story.do("prune", numbers=[1025], every=5),
        lambda story: story.do("prune", numbers=[1], every=5),
    ],
    "I4 not read back": [archived_and_not_read_back],
    "I5 resurrected": [
        lambda story: story.fetch(1025, 1025, "four"),
        lambda story: story.fetch(1024, 1024, "pruned"),
        lambda story: story.list((1, "one"), (1025, "four"), (1027, "last")),
        resurrected_for_a_newcomer,
        resurrected_with_its_model,
    ],
    "I6 not seen": [
        lambda story: story.fetch(-1, 1026, "five"),
        lambda story: story.fetch(-1, None, error="unknown-version", named=-1),
        lambda story: story.fetch(-1, None, error="unknown-version", named=1026),
        lambda story: story.fetch(1027, None, error="unknown-version"),
        lambda story: story.list((1, "one"), (1026, "five")),
        denied_newest,
        stale_alias,
    ],
    "I6 lost update": [lost_update],
    "I7 not converged": [never_converged, late],
    "I8 hang": [lambda story: story.do("list", versions=((1, "one"), (1027, "last")), took=11.5), stopped_does_not_excuse],
    "I8 effect": [lambda story: story.deliver("latest", 1028, "refused")],
    "I10 memory": [lambda story: story.history.samples.append(Sample(1.0, 101 << 20, 1))],
    "I10 descriptors": [lambda story: story.history.samples.append(Sample(1.0, 1, 51))],
    "I11 left over": [lambda story: story.history.left_over.append("staging/4711")],
}


@pytest.mark.parametrize("said, plant", [(said, plant) for said, plants in BAD.items() for plant in plants])
def test_a_bad_history_is_found(said: str, plant: Plant) -> None:
    story = good()
    plant(story)
    found = check(story.history, BOUNDS)
    assert any(sentence.startswith(f"{said}:") for sentence in found), found


def excused(story: Story) -> None:
    story.history.stops["a"] = [Span(story.now + 1, story.now + 6)]
    story.do("list", versions=((1, "one"), (1027, "last")), took=16)


def killed_in_the_middle(story: Story) -> None:
    story.do("list", "killed", who="doomed")
    story.history.killed["doomed"] = story.now + 1


def deleted_by_a_call_of_unknown_outcome(story: Story) -> None:
    story.do("delete", UNKNOWN, number=1)
    story.fetch(1, None, error="unknown-version")
    story.fetch(1, 1, "one")


def handed_out_after_its_deletion(story: Story) -> None:
    story.publish(1028, "more")
    story.do("delete", number=1028)
    story.deliver("every", 1028, "more")
    story.publish(1029, "most")
    for who in ("latest", "every"):
        story.deliver(who, 1029, "most")


def the_lost_number_of_another_life(story: Story) -> None:
    story.publish(None, "again", UNKNOWN)
    story.deliver("latest", 1028, "again")
    story.restart()
    story.publish(1029, "again", archived=True)
    for who in ("latest", "every"):
        story.deliver(who, 1029, "again")
    story.fetch(1029, 1029, "again")


def one_after_the_other(story: Story) -> None:
    story.publish(1028, "more")
    story.deliver("latest", 1028, "more")
    story.deliver("every", 1028, "more", after=9)


def superseded_while_it_was_fetched(story: Story) -> None:
    story.fetch(-1, None, error="version-evicted", named=1028)


FAIR: list[Plant] = [
    superseded_while_it_was_fetched,
    one_after_the_other,
    excused,
    killed_in_the_middle,
    deleted_by_a_call_of_unknown_outcome,
    handed_out_after_its_deletion,
    the_lost_number_of_another_life,
]


@pytest.mark.parametrize("plant", FAIR)
def test_what_may_happen_is_not_a_breach(plant: Plant) -> None:
    story = good()
    plant(story)
    assert check(story.history, BOUNDS) == []


def test_the_slowdown_is_a_ratio_of_percentiles() -> None:
    assert slowdown([1.0] * 99 + [2.0], [3.0] * 100) == 1.5
    assert slowdown([1.0, 2.0, 4.0], [1.0, 2.0, 4.0], 0.5) == 1.0


# --- the files -----------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_read_back_and_a_half_line_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    recorder = Recorder(path, "a")
    with recorder.operation("publish", limit=3, model="m", digest="one") as result:
        result["number"] = 7
    with recorder.operation("publish", limit=3, model="m", digest="two"):
        raise RequestTimeout(what="it", timeout=3)
    with recorder.operation("publish", limit=3, model="m", digest="three"):
        raise NoSpace(size=1, where="x", number=8)
    with recorder.operation("publish", limit=3, model="m", digest="four"):
        raise BudgetExceeded(model_id="m")
    recorder.write("follow", model="m", every=True)
    recorder.write("deliver", model="m", number=7, digest="one", found="one")
    with pytest.raises(ZeroDivisionError), recorder.operation("list", limit=3, model="m"):
        raise ZeroDivisionError  # Not an answer: this process ends here.
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b'{"kind": "end", "id": 5')
    os.close(fd)
    history = history_of([path])
    assert [one.outcome for one in history.operations] == [OK, UNKNOWN, UNKNOWN, FAILED, UNKNOWN]
    assert history.operations[0]["number"] == 7 and history.operations[4].end is None
    assert [one.who for one in history.followers] == ["a"] and history.deliveries[0].number == 7


def test_what_the_conductor_says_is_part_of_the_history_whatever_is_read_first(tmp_path: Path) -> None:
    conductor, actor = Recorder(tmp_path / "0", "conductor"), Recorder(tmp_path / "1", "actor")
    actor.write("follow", model="m", every=False)
    conductor.write("killed", whom="actor")
    conductor.write("away", since=1.0)
    conductor.write("stopped", whom="learner", since=2.0)
    conductor.write("sample", memory=3, descriptors=4)
    conductor.write("left-over", what="a file")
    conductor.write("healed")
    conductor.write("ended")
    history = history_of([tmp_path / "0", tmp_path / "1"])
    assert set(history.killed) == {"actor"} and history.away[0].start == 1.0 and history.stops["learner"][0].start == 2.0
    assert history.samples[0].memory == 3 and history.left_over == ["a file"]
    assert history.healed is not None and history.ended is not None
