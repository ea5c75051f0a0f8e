"""Two learners on one model: the first is stopped in mid-publication, another takes over, and the first comes back."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import clients
from tests.bare_peer import BarePeer, wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.fault.real.parties import Exclusive

SLOTS = pytest.mark.parametrize("slot_dir", ["", "/nonexistent"], ids=["slots", "chunks"])
OTHERS = bytes([2]) * (5 << 20)
"""What the second learner publishes; the first one's bytes are 1."""


@pytest.fixture(scope="module")
def broadcaster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path_factory.mktemp("paused") / "broadcaster") as process:
        yield process


@SLOTS
@pytest.mark.parametrize("how", Exclusive.HOWS)
def test_a_learner_that_was_stopped_commits_nothing_after_another_took_over(
    broadcaster: BroadcasterProcess, how: str, slot_dir: str
) -> None:
    model = f"{how.replace(' ', '-')}-{slot_dir[1:] or 'slots'}"
    with Exclusive(broadcaster.url, model, how, slot_dir) as first, BarePeer(broadcaster.ready) as peer:
        assert first.next() == "half"
        wait_until(lambda: peer.numbers(model) == [1, 2, 3], "what it published before")
        first.pause()
        with clients.connect(broadcaster.url) as client, client.publisher(model, exclusive=True) as second:
            assert [second.publish(OTHERS).number for _ in range(2)] == [4, 5]
            first.resume()
            assert [first.next() for _ in range(3)] == ["fenced", "fenced", "fenced"]
            assert second.publish(OTHERS).number == 6
            for number in (4, 5, 6):
                assert bytes(client.registry.get(model, number).read()) == OTHERS
        assert peer.numbers(model) == [1, 2, 3, 4, 5, 6]
        wait_until(lambda: peer.stats()["memory_uploads"] == 0, "nothing is left of its uploads")


@pytest.mark.parametrize("seed", range(3))
def test_whenever_learners_take_over_from_each_other_their_versions_never_mix(broadcaster: BroadcasterProcess, seed: int) -> None:
    print(f"seed {seed}")
    rng, model = random.Random(seed), f"in-turn-{seed}"
    made: dict[int, list[int]] = {}
    """Numbers of versions by term."""

    def learn(client: clients.Client, sizes: list[int]) -> None:
        publisher = client.publisher(model, exclusive=True)
        mine = made.setdefault(publisher.term() or 0, [])
        try:
            while True:
                size = sizes[len(mine) % len(sizes)]
                mine.append(publisher.publish(os.urandom(size), timeout=30).number)
        except clients.Fenced:
            return

    near, far = clients.connect(broadcaster.url), clients.connect(broadcaster.url, slot_dir="/nonexistent")
    with near, far:
        threads = []
        for _ in range(8):
            sizes = rng.choices([100, 70_000, 300_000, 1 << 20, 3 << 20], k=3)
            before, terms = sum(map(len, list(made.values()))), len(made)
            threads.append(threading.Thread(target=learn, args=(rng.choice([near, far]), sizes)))
            threads[-1].start()
            wanted = before + rng.randrange(1, 6)
            # Its own term, too: the one before goes on until then, and who takes a term after the last one is never fenced.
            wait_until(lambda terms=terms: len(made) > terms, "the term of the next one")
            wait_until(lambda wanted=wanted: sum(map(len, list(made.values()))) >= wanted, "some versions")
        last = near.publisher(model, exclusive=True)
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        final = last.publish(b"the end").number
    order = [number for term in sorted(made) for number in made[term]]
    assert order == sorted(order) and order[-1] < final and len(made) == 8, made


def test_a_stopped_learner_finds_itself_fenced_by_a_broadcaster_that_was_restarted_meanwhile(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path / "broadcaster") as own:
        with Exclusive(own.url, "policy", "publish", "") as first:
            assert first.next() == "half"
            first.pause()
            with clients.connect(own.url) as client:
                second = client.publisher("policy", exclusive=True)
                second.publish(OTHERS)
                own.restart(kill=True)
                number = second.publish(OTHERS, timeout=30).number
                first.resume()
                assert [first.next(seconds=30) for _ in range(3)] == ["fenced", "fenced", "fenced"]
                assert client.registry.model("policy").newest == number
                os.kill(first.process.pid, signal.SIGCONT)


@pytest.mark.fault_long
@pytest.mark.deadline(180)
def test_a_term_that_was_given_before_a_kill_is_given_to_nobody_else(tmp_path: Path) -> None:
    given: list[int] = []
    over = threading.Event()

    def take(url: str) -> None:
        with clients.connect(url) as client:
            while not over.is_set():
                publisher = client.publisher("policy", exclusive=True)
                given.append(publisher.term() or 0)
                publisher.publish(b"mine", timeout=30)

    with BroadcasterProcess(tmp_path / "broadcaster") as own:
        thread = threading.Thread(target=take, args=(own.url,))
        thread.start()
        try:
            for wanted in (20, 40):
                wait_until(lambda wanted=wanted: len(given) >= wanted, "terms are taken")
                own.restart(kill=True)
            wait_until(lambda: len(given) >= 60, "terms are taken", seconds=40)
        finally:
            over.set()
            thread.join(40)
    assert not thread.is_alive() and given == sorted(set(given)), given
