"""Learners, a broadcaster that restarts, actors that lose what PUB drops: whole versions, newer ones, the newest in the end."""

from __future__ import annotations

import pytest

from broadcaster.protocol.limits import BEACON_IDLE
from broadcaster.protocol.machines.follow import Hole, Listed
from tests.fault.sim.world import World

BOUND = 3 * BEACON_IDLE + 25.0
"""Seconds after the last fault within which everyone has the newest version: silence is noticed after three beacons, and a
fetch that was refused or lost has grown as patient as it gets."""


def disturbed(seed: int, chunk: int, rounds: int) -> World:
    """A world after so many rounds of faults, with two or three actors, one of which wants every version."""
    print(f"seed {seed}")
    world = World(seed, chunk)
    world.actor(every=True)
    world.actor(every=False)
    for _ in range(rounds):
        world.disturb()
        world.run(world.random.choice([0.0, 0.01, 0.3, 2.0]))
    world.actor(every=world.random.random() < 0.5)  # comes late
    return world


@pytest.mark.parametrize("seed", range(200))
def test_actors_converge_to_the_newest_version_whatever_was_lost(seed: int, small_chunks: int) -> None:
    converge(seed, small_chunks)


@pytest.mark.fault_long
@pytest.mark.deadline(300)
@pytest.mark.parametrize("first", range(10_000, 14_000, 500))
def test_actors_converge_under_thousands_of_seeds(first: int, small_chunks: int) -> None:
    for seed in range(first, first + 500):
        converge(seed, small_chunks)


def converge(seed: int, small_chunks: int) -> None:
    world = disturbed(seed, small_chunks, rounds=25)
    world.heal()
    world.run(BOUND, until=lambda: not world.learners)
    world.run(BOUND, until=lambda: all(_is_current(world, actor.machine.visible) for actor in world.actors))
    newest = world.broadcaster.newest
    for actor in world.actors:
        assert newest is None or actor.machine.visible >= newest.number
        actor.close()


@pytest.mark.parametrize("seed", range(1000, 1080))
def test_whoever_wants_every_version_gets_the_ones_that_come_after_the_faults(seed: int, small_chunks: int) -> None:
    world = disturbed(seed, small_chunks, rounds=15)
    world.heal()
    world.run(2 * BOUND)
    for _ in range(3):
        learner = world.publish(world.random.choice([0, 1, 3 * small_chunks]))
        world.run(5.0)
        assert learner.over and learner.machine.version is not None
    newest = [number for number in sorted(world.broadcaster.truth)][-3:]
    for actor in world.actors:
        if actor.machine.every:
            listed = [one.version.number for one in actor.listing if isinstance(one, Listed)]
            assert listed[-3:] == newest and not any(isinstance(one, Hole) for one in actor.listing[-2:])
        assert actor.machine.visible == newest[-1]
        actor.close()


@pytest.mark.parametrize("seed", range(2000, 2030))
def test_without_faults_every_version_is_listed_and_nothing_is_repaired(seed: int, small_chunks: int) -> None:
    print(f"seed {seed}")
    world = World(seed, small_chunks)
    world.heal()
    world.broadcaster.annotate(world.now)  # The model exists: nobody waits for it.
    actors = [world.actor(every=True, shared=False), world.actor(every=False, shared=False)]
    world.run(1.0)
    for _ in range(8):
        world.publish()
        world.run(100.0, until=lambda: not world.learners)
    world.run(0.5)
    numbers = sorted(world.broadcaster.truth)
    assert numbers == list(range(1, 9))
    for actor in actors:
        assert actor.delivered == numbers
        assert (actor.machine.gaps, actor.machine.repaired) == (0, 0)
        assert actor.expected or not any(len(payload) > 2 * small_chunks for payload in world.broadcaster.truth.values())
        actor.close()
    assert [one.version.number for one in actors[0].listing if isinstance(one, Listed)] == numbers


@pytest.mark.parametrize("seed", range(3000, 3060))
def test_actors_whose_leases_fail_at_random_converge_too(seed: int, small_chunks: int) -> None:
    print(f"seed {seed}")
    world = World(seed, small_chunks)
    for every in (False, True):
        world.actor(every=every, shared=True)
    for _ in range(15):
        world.disturb()
        world.run(world.random.choice([0.0, 0.01, 0.3, 2.0]))
    world.heal()
    world.publish(3 * small_chunks)
    world.run(BOUND, until=lambda: not world.learners)
    world.run(BOUND, until=lambda: all(_is_current(world, actor.machine.visible) for actor in world.actors))
    for actor in world.actors:
        assert actor.delivered[-1] == max(world.broadcaster.truth)
        actor.close()


def test_leases_are_taken_in_the_simulation(small_chunks: int) -> None:
    world = World(1, small_chunks)
    actors = [world.actor(every=False, shared=True) for _ in range(3)]
    world.heal()
    for _ in range(20):
        world.publish(3 * small_chunks)
        world.run(100.0, until=lambda: not world.learners)
        world.run(0.5)
    for actor in actors:
        assert actor.delivered == list(range(1, 21)) and 5 < actor.leased < 20 and not actor.expected
        actor.close()


def _is_current(world: World, visible: int) -> bool:
    newest = world.broadcaster.newest
    return newest is None or visible >= newest.number
