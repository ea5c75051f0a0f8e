"""The clients of the simulation: learners around an Uploader, actors around a Follower. They check what they get at once."""

from __future__ import annotations

from random import Random

from broadcaster.protocol.errors import BroadcasterError, RemoteProtocolError
from broadcaster.protocol.frames import Chunk, decode, decode_header, encode
from broadcaster.protocol.machines.follow import Delivered, Follower, Hole, Lease, Listed
from broadcaster.protocol.machines.follow import Out as FollowerOut
from broadcaster.protocol.machines.upload import Uploader
from broadcaster.protocol.messages import Begin, Message
from tests.fault.sim.broadcaster import MODEL, NAMESPACE, SmallBroadcaster, digest_of
from tests.fault.sim.link import Frames, Link


def wire(item: Message | Chunk) -> list[bytes]:
    """The frames of one message, copied now."""
    if isinstance(item, Chunk):
        return [b"", item.header.pack(), bytes(item.data)]
    return encode(item)


class Learner:
    """Publishes one payload, filling its buffer step by step."""

    def __init__(self, random: Random, payload: bytes, *, digest: str | None = None) -> None:
        self.random = random
        self.payload = payload
        self.out = Link(random)
        self.back = Link(random)
        self._buffer = bytearray(len(payload))
        self._filled = 0
        self._digest = digest or digest_of(payload)
        begin = Begin(request_id=random.randbytes(16), model_id=MODEL, upload_id=random.randbytes(16), size=len(payload))
        self.machine = Uploader(begin, memoryview(self._buffer), retry=1.0)
        self._fill_at: float | None = None

    @property
    def over(self) -> bool:
        return self.machine.over

    @property
    def deadline(self) -> float | None:
        return _least(self.out.deadline, self.back.deadline, None if self.over else self._fill_at, self.machine.deadline)

    def start(self, now: float) -> None:
        self._fill_at = now
        self._send(self.machine.start(now), now)

    def step(self, broadcaster: SmallBroadcaster, now: float) -> None:
        """Everything that is due by now."""
        while (frames := self.out.take(now)) is not None:
            for answer in broadcaster.upload(list(frames), now):
                self.back.send(answer, now)
        while (frames := self.back.take(now)) is not None:
            self._send(self.machine.receive(decode(frames), now), now)
        if self._fill_at is not None and now >= self._fill_at and not self.over:
            self._fill(now)
        if self.machine.deadline is not None and now >= self.machine.deadline:
            self._send(self.machine.expire(now), now)

    def _fill(self, now: float) -> None:
        step = self.random.choice([1, 50, 200, 5000])
        end = min(self._filled + step, len(self.payload))
        self._buffer[self._filled : end] = self.payload[self._filled : end]
        self._filled = end
        if end == len(self.payload):
            self._fill_at = None
            self._send(self.machine.finish(self._digest, now), now)
        else:
            self._fill_at = now + self.random.choice([0.0001, 0.01])
            self._send(self.machine.filled(end, now), now)

    def give_up(self, error: BroadcasterError, now: float) -> None:
        self._send(self.machine.abort(error), now)

    def _send(self, out: list[Message | Chunk], now: float) -> None:
        for item in out:
            self.out.send(wire(item), now)


class CountingPool:
    """Lends buffers full of old bytes, and knows which are out."""

    def __init__(self) -> None:
        self.lent: dict[int, memoryview] = {}
        self.lends = self.gives = 0

    def lend(self, size: int) -> memoryview:
        buffer = memoryview(bytearray(b"\xbb" * size))
        self.lent[id(buffer)] = buffer
        self.lends += 1
        return buffer

    def give(self, buffer: memoryview) -> None:
        self.gives += 1
        self._out(buffer)

    def deliver(self, buffer: memoryview) -> None:
        self._out(buffer)

    def _out(self, buffer: memoryview) -> None:
        assert self.lent.pop(id(buffer), None) is buffer, "a buffer came back that was not lent, or twice"


class Actor:
    """Follows the model, and checks every version the moment it becomes visible.

    With `leases`, it is on the broadcaster's host and takes no chunks: it leases, or fails to, as they decide.
    """

    def __init__(self, random: Random, broadcaster: SmallBroadcaster, *, every: bool, leases: Random | None = None) -> None:
        self.broadcaster = broadcaster
        self.pool = CountingPool()
        self.push = Link(random)
        self.out = Link(random)
        self.back = Link(random)
        self.delivered: list[int] = []
        self.listing: list[Listed | Hole] = []
        self.refused = 0
        self.leases = leases
        self.leased = 0
        self._tried: Lease | None = None
        self.expected = 0
        """Chunks that came as the machine had expected them."""
        self._before = max(broadcaster.truth, default=0)
        """What was published before the listing began may be gone already, and is not missed."""
        self.machine = Follower(
            NAMESPACE, MODEL, lambda: random.randbytes(16), self.pool, every=every, shared=leases is not None, retry=1.0
        )

    @property
    def deadline(self) -> float | None:
        return _least(self.push.deadline, self.out.deadline, self.back.deadline, self.machine.deadline)

    def start(self, now: float) -> None:
        self._act(self.machine.start(now), now)

    def step(self, now: float) -> None:
        """Everything that is due by now."""
        while (frames := self.out.take(now)) is not None:
            self.back.send(self.broadcaster.ask(list(frames)), now)
        while (frames := self.push.take(now)) is not None:
            self._arrived(frames, now, pushed=True)
        while (frames := self.back.take(now)) is not None:
            self._arrived(frames, now, pushed=False)
        deadline = self.machine.deadline
        if deadline is not None and now >= deadline:
            self._act(self.machine.expire(now), now)
            again = self.machine.deadline
            assert again is None or again > now, "expire() leaves a deadline that is over: a loop would spin"

    def _arrived(self, frames: Frames, now: float, *, pushed: bool) -> None:
        if frames[0]:
            self._act(self.machine.receive(decode(frames), now, frames[2] if len(frames) > 2 else None), now)
            return
        if pushed and self.leases is not None:
            return  # It is subscribed to no chunks.
        if pushed and bytes(frames[1]) == self.machine.expected:
            place = self.machine.front
            place[:] = frames[2]
            self.expected += 1
            self.machine.came(place, now)
            return
        header = decode_header(frames[1])
        try:
            view = self.machine.place(header, now) if pushed else self.machine.place_read(header)
        except RemoteProtocolError:
            self.refused += 1
            return
        if view is not None:
            view[:] = frames[2]
            self._act(self.machine.placed(header, now), now)

    def _lease(self, lease: Lease, now: float) -> FollowerOut:
        """What comes of a lease. It fails at random, and where the version has left its slot."""
        assert self.leases is not None, "a lease is wanted by one that takes chunks"
        assert lease != self._tried, f"{lease} is tried again"
        self._tried = lease
        number = lease.version.number
        assert self.broadcaster.place_of(lease.version) == {"slot": lease.slot, "generation": lease.generation}
        if number not in self.broadcaster.available or self.leases.random() < 0.3:
            return self.machine.lease_failed(lease, now)
        self.leased += 1
        return self.machine.leased(lease, self.broadcaster.truth[number], now)

    def _act(self, out: FollowerOut, now: float) -> None:
        for item in out:
            match item:
                case Lease():
                    self._act(self._lease(item, now), now)
                case Delivered():
                    self._check(item)
                case Listed() | Hole():
                    self._check_listing(item)
                case _:
                    self.out.send(wire(item), now)

    def _check(self, item: Delivered) -> None:
        number = item.version.number
        assert not self.delivered or number > self.delivered[-1], f"{number} after {self.delivered[-1]}"
        assert item.version == self.broadcaster.infos[number]
        assert bytes(item.payload) == self.broadcaster.truth[number], f"version {number} is torn"
        assert digest_of(bytes(item.payload)) == item.version.digest
        if isinstance(item.payload, memoryview):
            self.pool.deliver(item.payload)
        self.delivered.append(number)
        assert self.machine.visible >= number

    def _check_listing(self, item: Listed | Hole) -> None:
        last = next((one.version.number for one in reversed(self.listing) if isinstance(one, Listed)), 0)
        if isinstance(item, Hole):
            assert item.after == last
        else:
            number = item.version.number
            assert number > last
            if not self.listing:
                self._before = max(self._before, self.broadcaster.lost)
            if item.payload is not None:
                assert item.payload == self.broadcaster.truth[number]
            told = not self.listing or isinstance(self.listing[-1], Hole)
            missing = [one for one in self.broadcaster.truth if max(last, self._before) < one < number]
            assert told or not missing, f"{missing} are missing between {last} and {number}, and no hole was told"
        self.listing.append(item)

    @property
    def links(self) -> tuple[Link, Link, Link]:
        return self.push, self.out, self.back

    def close(self) -> None:
        """Every buffer that was lent is given back or was delivered."""
        self.machine.close()
        assert not self.pool.lent, f"{len(self.pool.lent)} of {self.pool.lends} buffers leaked"


def _least(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)
