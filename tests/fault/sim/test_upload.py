"""Uploads over links that lose, repeat, reorder and break: equal bytes and one version, or a typed error."""

from __future__ import annotations

import pytest

from broadcaster.protocol.errors import BroadcasterError, DigestMismatch, RequestTimeout
from broadcaster.protocol.machines.upload import UploaderState
from tests.fault.sim.broadcaster import payload_sizes
from tests.fault.sim.peers import Learner
from tests.fault.sim.world import World

BOUND = 60.0
"""Seconds after the last fault within which an upload is over."""


def check(world: World, learner: Learner) -> None:
    """DONE, with a version whose bytes are the payload's, or FAILED with a typed error; never two versions in one epoch."""
    machine = learner.machine
    numbers = world.broadcaster.made_of.get(machine.begin.upload_id, [])
    if machine.state is UploaderState.DONE:
        assert machine.version is not None and machine.version.number in numbers
        assert machine.version == world.broadcaster.infos[machine.version.number]
    else:
        assert machine.state is UploaderState.FAILED and isinstance(machine.error, BroadcasterError)
    assert len(numbers) <= 1 + world.restarts
    assert all(world.broadcaster.truth[number] == learner.payload for number in numbers)


@pytest.mark.parametrize("seed", range(200))
def test_an_upload_ends_with_one_version_of_equal_bytes_whatever_the_link_does(seed: int, small_chunks: int) -> None:
    print(f"seed {seed}")
    world = World(seed, small_chunks)
    learners = [world.publish() for _ in range(world.random.choice([1, 1, 3]))]
    for _ in range(world.random.randrange(12)):
        world.run(world.random.choice([0.01, 0.2, 1.5]))
        cut = world.random.choice(learners)
        cut.out.cut()
        cut.back.cut()
        if world.random.random() < 0.05:
            world.restart()
    world.heal()
    world.run(BOUND, until=lambda: all(learner.over for learner in learners))
    for learner in learners:
        assert learner.machine.state is UploaderState.DONE
        check(world, learner)


@pytest.mark.parametrize("size", payload_sizes(64))
def test_payloads_of_every_size_arrive(size: int, small_chunks: int) -> None:
    world = World(0, small_chunks)
    world.heal()
    learner = world.publish(size)
    world.run(BOUND, until=lambda: learner.over)
    check(world, learner)
    assert learner.machine.state is UploaderState.DONE


@pytest.mark.parametrize("seed", range(50))
def test_an_upload_that_is_given_up_or_wrong_makes_no_second_version_and_no_false_one(seed: int, small_chunks: int) -> None:
    print(f"seed {seed}")
    world = World(seed, small_chunks)
    wrong = world.publish(digest="0" * 32)
    given_up = world.publish()
    world.run(world.random.choice([0.01, 0.5, 3.0]))
    given_up.give_up(RequestTimeout(what="publishing", timeout=1), world.now)
    world.heal()
    world.run(BOUND, until=lambda: wrong.over)
    check(world, wrong)
    check(world, given_up)
    assert isinstance(wrong.machine.error, DigestMismatch)
    assert wrong.machine.begin.upload_id not in world.broadcaster.made_of
