"""Uploads through slots over links that lose, repeat, reorder and break: equal bytes, one version each, in nobody else's slot."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from broadcaster.protocol.errors import BroadcasterError, RemoteProtocolError, RequestTimeout
from broadcaster.protocol.frames import Chunk, decode
from broadcaster.protocol.machines import grant, upload
from broadcaster.protocol.messages import Abort, Begin, Commit, Filled, Grant, Message
from clients._driver.frames import Frames
from clients._driver.granted import SlotUpload
from tests.fault.sim.broadcaster import MODEL, SmallBroadcaster, digest_of
from tests.fault.sim.link import NONE, Link, connection, profile
from tests.fault.sim.peers import wire

BOUND = 60.0
"""Seconds after the last fault within which an upload is over."""


class Host(SmallBroadcaster):
    """Grants slots, and gives a slot to another learner as soon as it may."""

    def _start(self) -> None:
        super()._start()
        self.slots: dict[str, bytearray] = {}
        self._free: list[str] = []
        self._granted: dict[bytes, str] = {}

    def _control(self, message: Message, now: float) -> Iterable[Message]:
        if isinstance(message, Filled):
            self._fill(message.upload_id, message.size, now)
            return []
        if isinstance(message, Abort) and message.upload_id in self._granted:
            self._free.append(self._granted.pop(message.upload_id))
        return super()._control(message, now)

    def _begin(self, begin: Begin, now: float) -> Iterable[Message]:
        known, slot = self._uploads.get(begin.upload_id), self._granted.get(begin.upload_id)
        if known is not None and slot is not None:
            if begin.host_token is not None:
                known.assembler.filled(0, now)
                return [_grant(begin, slot)]
            self._forget(begin.upload_id)  # Withdrawn: nobody gets this slot any more.
            super()._begin(begin, now)
            return super()._begin(begin, now)
        finished = begin.upload_id in self._finished
        if known is not None or finished or begin.host_token is None or self.random.random() < 0.15:
            return super()._begin(begin, now)
        super()._begin(begin, now)
        name = self._free.pop(0) if self._free else f"slot-{self.random.randrange(1 << 60)}-00000000"
        buffer = self.slots.setdefault(name, bytearray())
        if len(buffer) != begin.size:  # One of another size is as good as a new one.
            name = f"slot-{self.random.randrange(1 << 60)}-00000000"
            buffer = self.slots[name] = bytearray(begin.size)
        buffer[:] = b"\xee" * begin.size
        made = self._uploads[begin.upload_id]
        made.buffer = buffer
        made.assembler = upload.Assembler(begin, memoryview(buffer), now, idle=20.0)
        self._granted[begin.upload_id] = name
        return [_grant(begin, name)]

    def _commit(self, commit: Commit, now: float) -> Iterable[Message]:
        known = self._uploads.get(commit.upload_id)
        if known is not None and commit.upload_id in self._granted:
            self._fill(commit.upload_id, known.assembler.begin.size, now)
        answer = super()._commit(commit, now)
        if commit.upload_id in self._granted:
            self._free.append(self._granted.pop(commit.upload_id))
        return answer

    def _fill(self, upload_id: bytes, size: int, now: float) -> None:
        known = self._uploads.get(upload_id)
        if known is not None and upload_id in self._granted:
            known.assembler.filled(size, now)
            while known.assembler.behind:
                known.assembler.follow()

    def _forget(self, upload_id: bytes) -> None:
        self._granted.pop(upload_id, None)
        super()._forget(upload_id)


def _grant(begin: Begin, name: str) -> Grant:
    return Grant(request_id=begin.request_id, upload_id=begin.upload_id, slot=name, generation=1)


class HostLearner:
    """Publishes one payload with the client's own upload; both of its threads are played by `step`."""

    def __init__(self, random: Random, host: Host, size: int, now: float) -> None:
        self.random, self.host = random, host
        self.payload = random.randbytes(size)
        self.out, self.back = Link(random), Link(random)
        begin = Begin(
            request_id=random.randbytes(16), model_id=MODEL, upload_id=random.randbytes(16), size=size, host_token="here"
        )
        self.given_up = False
        self.upload = SlotUpload(begin, self._send, lambda _upload, _intact: None, now + 600, 600)
        self._now = now
        self._place: memoryview | None = None
        self._filled = 0
        self._patient_until = now + random.choice([0.01, 0.5, 3.0])
        self._write_at = now
        self._turn_at = now + random.choice([0.0, 0.0, 2.0])
        self.upload.ask(now)

    @property
    def deadline(self) -> float:
        own = [self.out.deadline, self.back.deadline, None if self.upload.over else self.upload.deadline]
        if not self.upload.over and self._filled < len(self.payload):
            own.append(self._write_at if self._place is not None else self._patient_until)
        if not self.upload.started and not self.upload.over:
            own.append(self._turn_at)
        return min((time for time in own if time is not None), default=float("inf"))

    def step(self, now: float) -> None:
        self._now = now
        while (frames := self.out.take(now)) is not None:
            for answer in self.host.upload(list(frames), now):
                self.back.send(answer, now)
        while (frames := self.back.take(now)) is not None:
            try:
                if not self.upload.over:
                    self.upload.receive(decode(frames), None, now)
            except RemoteProtocolError:
                pass  # As the loop does: what makes no sense here is dropped.
        if not self.upload.over and not self.upload.started and now >= self._turn_at:
            self.upload.start(now)
        self._write(now)
        if not self.upload.over and (due := self.upload.deadline) is not None and now >= due:
            self.upload.expire(now)

    def _write(self, now: float) -> None:
        """The user's thread: it goes on to write even when the upload is over, as it does not look."""
        if self._place is None and not self.upload.over:
            granted = self.upload.wait_for_grant(0)
            if granted is not None and granted.slot in self.host.slots:
                self._place = memoryview(self.host.slots[granted.slot])
                self.upload.use(self._place)
            elif granted is not None or now >= self._patient_until or not self.upload.has_slot:
                self.upload.written()
                self._place = memoryview(bytearray(len(self.payload)))
                self.upload.in_chunks(self._place, Frames(), now)
        if self._place is None or now < self._write_at or self._filled == len(self.payload):
            return
        end = min(self._filled + self.random.choice([50, 200, 5000]), len(self.payload))
        self._place[self._filled : end] = self.payload[self._filled : end]
        self._filled, self._write_at = end, now + self.random.choice([0.0001, 0.01, 0.6])
        self.upload.filled(end, now)
        if end == len(self.payload):
            self.upload.written()
            self.upload.finish(digest_of(self.payload), now)

    def give_up(self, now: float) -> None:
        if not self.upload.over:
            self.given_up = True
            self.upload.fail(RequestTimeout(what="publishing", timeout=1))

    def cut(self) -> None:
        self.out.cut()
        self.back.cut()

    def _send(self, message: Message | Chunk, payload: object = None) -> None:
        self.out.send(wire(message), self._now)


def run(host: Host, learners: list[HostLearner], now: float, end: float) -> float:
    for _ in range(50_000):
        if all(learner.upload.over and learner._filled == len(learner.payload) for learner in learners):
            return now
        due = min(learner.deadline for learner in learners)
        if due > end:
            return end
        now = max(now, due)
        for learner in learners:
            learner.step(now)
        host.tick(now)
    raise AssertionError("this never ends")


@pytest.fixture(autouse=True)
def small_marks(monkeypatch: pytest.MonkeyPatch, small_chunks: int) -> None:
    for module in (grant, upload):
        monkeypatch.setattr(module, "FILLED", 4 * small_chunks)


@pytest.mark.parametrize("seed", range(200))
def test_uploads_through_slots_end_with_one_version_each_whatever_the_links_do(seed: int) -> None:
    print(f"seed {seed}")
    random, now, restarts = Random(seed), 1000.0, 0
    host = Host(random)
    hostile = random.random() < 0.4
    learners: list[HostLearner] = []

    def begin() -> None:
        learner = HostLearner(random, host, random.choice([640, 640, 640, 1]), now)
        learner.out.faults = learner.back.faults = profile(random) if hostile else connection(random)
        learners.append(learner)

    for _ in range(random.choice([1, 3, 5])):
        begin()
    for _ in range(random.randrange(12)):
        now = run(host, learners, now, now + random.choice([0.01, 0.2, 1.5, 15.0]))
        match random.randrange(6):
            case 0 if restarts < 2:
                restarts += 1
                for learner in learners:
                    learner.cut()
                host.restart(now)
            case 1 | 2:
                random.choice(learners).give_up(now)
                begin()  # Who gets the slot, if it is free.
            case 3 | 4:
                random.choice(learners).cut()
    for learner in learners:
        learner.out.faults = learner.back.faults = NONE
    run(host, learners, now, now + BOUND)
    for learner in learners:
        numbers = host.made_of.get(learner.upload.key, [])
        assert len(numbers) <= 1 + restarts and all(host.truth[number] == learner.payload for number in numbers)
        assert learner.upload.over
        error = learner.upload.future.exception(0)
        if not learner.given_up:
            assert error is None and learner.upload.future.result(0).number in numbers
        else:
            assert error is None or isinstance(error, BroadcasterError)
