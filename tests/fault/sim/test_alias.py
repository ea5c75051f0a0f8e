"""An alias that moves while learners publish and a broadcaster restarts: actors show what it names, in the order of its moves."""

from __future__ import annotations

from random import Random

import pytest

from broadcaster.protocol.errors import BroadcasterError, Busy, RemoteProtocolError, UnknownModel, UnknownVersion
from broadcaster.protocol.frames import ChunkHeader, decode, decode_header, encode
from broadcaster.protocol.limits import BEACON_IDLE
from broadcaster.protocol.machines.alias import AliasFollower, AliasState, Moved, Out
from broadcaster.protocol.messages import Error, GetVersion, Read, Version
from tests.fault.sim.broadcaster import KEY, MODEL, NAMESPACE, Frames, SmallBroadcaster, digest_of
from tests.fault.sim.link import Faults, Link, lossy_push
from tests.fault.sim.peers import CountingPool, wire
from tests.fault.sim.world import World

ALIAS = "champion"
BOUND = 3 * BEACON_IDLE + 25.0
"""Seconds after the last fault within which every actor shows what is named."""


class AliasBroadcaster(SmallBroadcaster):
    """Aliases are durable, and so is every version that one ever named."""

    def __init__(self, random: Random) -> None:
        super().__init__(random, kept_events=1000)
        self.history: list[int | None] = []
        """What the alias named, one after the other; None: nothing."""
        self.archived: set[int] = set()

    @property
    def named(self) -> int | None:
        return self.history[-1] if self.history else None

    def move(self, number: int | None, now: float) -> None:
        self.history.append(number)
        self.archived |= set() if number is None else {number}
        self._tell(self.log.append(KEY, "aliased", alias=ALIAS, number=number), now)

    def move_another(self, now: float) -> None:
        self._tell(self.log.append(KEY, "aliased", alias="another", number=1), now)

    def _tell(self, event: object, now: float) -> None:
        self.beacons.news(KEY, now)
        self.pushed.append(encode(event))  # type: ignore[arg-type]

    def ask(self, frames: Frames) -> Frames:
        message = decode(frames)
        if isinstance(message, Read) and message.number in self.archived:
            payload = self.truth[message.number]
            data = payload[message.offset : message.offset + message.length]
            return [b"", ChunkHeader(message.request_id, len(payload), message.offset, len(data)).pack(), data]
        if not isinstance(message, GetVersion):
            return super().ask(frames)
        assert message.ref == ALIAS
        error: BroadcasterError | None = None
        if self.random.random() < 0.02:
            error = Busy(what="the broadcaster", retry_after=1.0)
        elif not self.truth:
            error = UnknownModel(model_id=MODEL, namespace=NAMESPACE)
        elif self.named is None:
            error = UnknownVersion(model_id=MODEL, number=ALIAS)
        if error is not None:
            return encode(Error(request_id=message.request_id, code=error.code, message=str(error), facts=error.facts))
        assert self.named is not None
        return encode(Version(request_id=message.request_id, version=self.infos[self.named]))


class AliasActor:
    """Follows the alias, and checks every version the moment it is shown."""

    def __init__(self, random: Random, broadcaster: AliasBroadcaster) -> None:
        self.broadcaster = broadcaster
        self.pool = CountingPool()
        self.push, self.out, self.back = Link(random), Link(random), Link(random)
        self.shown: list[int] = []
        self._at = 0
        """Place in the history of what was shown last."""
        self.machine = AliasFollower(NAMESPACE, MODEL, ALIAS, lambda: random.randbytes(16), self.pool, retry=1.0)

    @property
    def links(self) -> tuple[Link, Link, Link]:
        return self.push, self.out, self.back

    @property
    def deadline(self) -> float | None:
        times = (self.push.deadline, self.out.deadline, self.back.deadline, self.machine.deadline)
        return min(time for time in times if time is not None)

    def start(self, now: float) -> None:
        self._act(self.machine.start(now), now)

    def step(self, now: float) -> None:
        """Everything that is due by now."""
        while (frames := self.out.take(now)) is not None:
            self.back.send(self.broadcaster.ask(list(frames)), now)
        while (frames := self.push.take(now)) is not None:
            if frames[0]:  # It is subscribed to no chunks.
                self._act(self.machine.receive(decode(frames), now), now)
        while (frames := self.back.take(now)) is not None:
            self._answered(list(frames), now)
        if now >= self.machine.deadline:
            self._act(self.machine.expire(now), now)
            assert self.machine.deadline > now, "expire() leaves a deadline that is over: a loop would spin"

    def _answered(self, frames: Frames, now: float) -> None:
        if frames[0]:
            self._act(self.machine.receive(decode(frames), now), now)
            return
        header = decode_header(frames[1])
        try:
            view = self.machine.place(header)
        except RemoteProtocolError:
            return
        if view is not None:
            view[:] = frames[2]
            self._act(self.machine.placed(header, now), now)

    def _act(self, out: Out, now: float) -> None:
        for item in out:
            if isinstance(item, Moved):
                self._check(item)
            else:
                self.out.send(wire(item), now)

    def _check(self, moved: Moved) -> None:
        number, history = moved.version.number, self.broadcaster.history
        assert bytes(moved.payload) == self.broadcaster.truth[number], f"version {number} is torn"
        assert digest_of(bytes(moved.payload)) == moved.version.digest
        assert not self.shown or self.shown[-1] != number, f"{number} is shown twice"
        assert number in history[self._at :], f"{number} after {self.shown}: it was named before that only, in {history}"
        self._at = history.index(number, self._at)
        self.pool.deliver(moved.payload)
        self.shown.append(number)

    def close(self) -> None:
        self.machine.close()
        assert not self.pool.lent, f"{len(self.pool.lent)} of {self.pool.lends} buffers leaked"


class AliasWorld(World):
    """A world in which an alias moves too."""

    def __init__(self, seed: int, chunk: int) -> None:
        super().__init__(seed, chunk)
        self.aliases = AliasBroadcaster(self.random)
        self.broadcaster = self.aliases
        self.broadcaster.beacons.subscribed(KEY, self.now)

    def follower(self) -> AliasActor:
        actor = AliasActor(self.random, self.aliases)
        actor.push.faults = lossy_push(self.random) if self.faulty and not self._hostile else self._faults()
        actor.out.faults, actor.back.faults = self._faults(), self._faults()
        self.actors.append(actor)  # type: ignore[arg-type]
        actor.start(self.now)
        return actor

    def move(self) -> None:
        """To any version that is there, newer or older, or to nothing; or another alias moves."""
        known = [*self.aliases.archived, *self.aliases.available]
        choice = self.random.randrange(8)
        if choice == 0:
            self.aliases.move_another(self.now)
        elif choice == 1 and self.aliases.named is not None:
            self.aliases.move(None, self.now)
        elif known:
            self.aliases.move(self.random.choice(known), self.now)


@pytest.mark.parametrize("seed", range(150))
def test_actors_show_what_the_alias_names_whatever_was_lost(seed: int, small_chunks: int) -> None:
    converge(seed, small_chunks)


@pytest.mark.fault_long
@pytest.mark.deadline(300)
@pytest.mark.parametrize("first", range(20_000, 22_000, 500))
def test_actors_show_what_the_alias_names_under_thousands_of_seeds(first: int, small_chunks: int) -> None:
    for seed in range(first, first + 500):
        converge(seed, small_chunks)


def converge(seed: int, small_chunks: int) -> None:
    print(f"seed {seed}")
    world = AliasWorld(seed, small_chunks)
    actors = [world.follower(), world.follower()]
    for _ in range(25):
        world.disturb() if world.random.random() < 0.6 else world.move()
        world.run(world.random.choice([0.0, 0.01, 0.3, 2.0]))
    actors.append(world.follower())  # comes late
    world.heal()

    def current() -> bool:
        named = world.aliases.named
        return named is None or all(actor.shown[-1:] == [named] for actor in actors)

    world.run(BOUND, until=lambda: not world.learners and current())
    assert current(), (world.aliases.history, [actor.shown for actor in actors])
    if world.aliases.named is None:
        world.run(BOUND)
        assert all(actor.machine.state is not AliasState.READING for actor in actors)
    for actor in actors:
        actor.close()


@pytest.mark.parametrize("seed", range(1000, 1030))
def test_without_faults_each_move_is_shown_in_order(seed: int, small_chunks: int) -> None:
    print(f"seed {seed}")
    world = AliasWorld(seed, small_chunks)
    world.heal()
    actor = world.follower()
    for _ in range(3):
        world.publish()
        world.run(100.0, until=lambda: not world.learners)
    expected: list[int] = []
    for _ in range(10):
        world.move()
        world.run(4.0)
        named = world.aliases.named
        if named is not None and expected[-1:] != [named]:
            expected.append(named)
        assert actor.shown == expected
    assert expected and actor.machine.gaps <= 1
    actor.close()


@pytest.mark.parametrize("faults", [Faults(delay=0.7), Faults(loss=0.05, delay=0.3)])
def test_an_alias_that_moves_faster_than_it_can_be_read_is_followed_in_steps(small_chunks: int, faults: Faults) -> None:
    world = AliasWorld(1, small_chunks)
    world.heal()
    for _ in range(4):
        world.publish(20 * small_chunks)
        world.run(100.0, until=lambda: not world.learners)
    actor = world.follower()
    actor.back.faults = faults
    for step in range(60):
        world.aliases.move(1 + step % 4, world.now)
        world.run(0.4)
    assert len(actor.shown) > 3, "it never finishes one"
    actor.close()
