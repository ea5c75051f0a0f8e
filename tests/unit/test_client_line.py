"""The order of a publisher's uploads, and whose memory may be written again."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from broadcaster.protocol.errors import Aborted, BroadcasterError, Busy, Closed, RequestTimeout, VersionSuperseded
from broadcaster.protocol.frames import Chunk
from broadcaster.protocol.messages import Abort, Begin, Commit, Credit, Done, Error, Publish
from broadcaster.protocol.version import VersionInfo
from clients._driver.lane import Lane
from clients._driver.uploading import ChunkedUpload, Upload, WholeUpload
from clients._line import Line
from clients.buffers import view_of

MIB = 1 << 20


class Desk:
    """A driver without thread and sockets: commands run when the test says so, at the time it says."""

    def __init__(self) -> None:
        self.commands: deque[Callable[[float], None]] = deque()
        self.sent: list[Any] = []
        self.lane = Lane(lambda: "", lambda address: pytest.fail("nothing goes directly here"))
        self.line = Line(self)  # type: ignore[arg-type]

    def post(self, command: Callable[[float], None]) -> None:
        self.commands.append(command)

    def run(self, now: float = 0.0) -> None:
        while self.commands:
            self.commands.popleft()(now)

    def add_upload(self, upload: Upload) -> None:
        pass

    def start_upload(self, upload: Upload, now: float) -> None:
        upload.start(now)

    def fail_upload(self, upload: Upload, error: BroadcasterError) -> None:
        upload.fail(error)

    def send(self, message: Any, payload: Any = None) -> None:
        self.sent.append(message)

    def upload(self, size: int = 3 * MIB) -> tuple[ChunkedUpload, Any]:
        """An upload that has been copied whole, and the memory that it was copied to."""
        memory, frames = self.line.memory(size)
        upload = ChunkedUpload(begin(size), view_of(memory, size), frames, self.send, self.line.ended, 30.0, 30.0)
        self.line.begin(upload, memory)
        self.post(lambda now: upload.finish("digest", now))
        self.line.queue(upload)
        self.run()
        return upload, memory


def begin(size: int) -> Begin:
    return Begin(request_id=os.urandom(16), model_id="policy", upload_id=os.urandom(16), size=size)


def done(upload: Upload) -> Done:
    info = VersionInfo(namespace="default", model_id="policy", number=1, size=3, digest="d", creation_timestamp=1)
    return Done(request_id=upload.begin.request_id, upload_id=upload.key, version=info)


def refused(upload: Upload, code: str, **facts: Any) -> Error:
    return Error(request_id=upload.begin.request_id, upload_id=upload.key, code=code, message="", facts=facts)


def test_memory_is_used_again_when_its_version_is_done() -> None:
    desk = Desk()
    first, memory = desk.upload()
    first.receive(done(first), None, 0.0)
    assert first.future.result(0).number == 1
    assert desk.upload()[1] is memory


@pytest.mark.parametrize("how", ["refused", "timeout", "aborted"])
def test_memory_of_an_upload_that_failed_is_never_written_again(how: str) -> None:
    desk = Desk()
    first, memory = desk.upload()
    if how == "refused":
        first.receive(refused(first, "no-space", size=1, where="x"), None, 0.0)
    elif how == "timeout":
        assert first.expire(30.0)
    else:
        first.fail(Aborted(model_id="policy", reason="x"))
    assert first.future.exception(0) is not None
    assert desk.upload()[1] is not memory


def test_one_upload_runs_and_one_waits_and_a_third_takes_its_place() -> None:
    desk = Desk()
    first, memory = desk.upload()
    second, other = desk.upload()
    third, again = desk.upload()
    assert other is not memory and again is other  # Nothing of the second was sent, so its memory may be written again.
    with pytest.raises(VersionSuperseded, match="policy"):
        second.future.result(0)
    assert (first.started, second.started, third.started) == (True, False, False)
    first.receive(done(first), None, 0.0)
    desk.run()
    assert third.started and not third.future.done()


def test_what_waits_is_sent_in_its_order_only_when_its_turn_comes() -> None:
    desk = Desk()
    first, _ = desk.upload()
    desk.sent.clear()
    second, _ = desk.upload()
    assert desk.sent == []
    first.receive(done(first), None, 0.0)
    desk.run()
    assert [type(message) for message in desk.sent] == [Begin, Chunk, Chunk, Chunk, Commit]
    assert desk.sent[0].upload_id == second.key


def test_an_upload_that_waits_too_long_ends_by_its_deadline() -> None:
    desk = Desk()
    first, _ = desk.upload()
    second, _ = desk.upload()
    desk.sent.clear()
    second.expire(30.0)
    with pytest.raises(RequestTimeout):
        second.future.result(0)
    first.receive(done(first), None, 30.0)
    desk.run(30.0)
    assert desk.sent == [], "what ended is not sent"


def test_only_one_buffer_is_kept_by_who_waits_for_each_version() -> None:
    desk = Desk()
    places = set()
    for _ in range(5):
        upload, memory = desk.upload()
        upload.receive(done(upload), None, 0.0)
        places.add(id(memory))
    assert len(places) == 1 and desk.line._kept.idle == [], "the last version's is kept as it is, to be announced again"


def test_a_busy_broadcaster_is_asked_again_in_time_with_the_same_upload() -> None:
    desk = Desk()
    upload, _ = desk.upload()
    desk.sent.clear()
    upload.receive(refused(upload, Busy.code, what="upload", retry_after=2.0), None, 1.0)
    assert not upload.future.done() and upload.deadline == 3.0
    upload.expire(3.0)
    assert [type(message) for message in desk.sent][:1] == [Begin] and desk.sent[0].upload_id == upload.key
    upload.receive(refused(upload, Busy.code, what="upload", retry_after=60.0), None, 4.0)
    assert isinstance(upload.future.exception(0), Busy)


def test_an_upload_that_times_out_is_taken_back() -> None:
    desk = Desk()
    upload, _ = desk.upload()
    upload.expire(30.0)
    assert isinstance(desk.sent[-1], Abort) and desk.sent[-1].upload_id == upload.key


def test_each_message_tells_the_time_that_is_left() -> None:
    desk = Desk()
    upload, _ = desk.upload()
    assert desk.sent[0].budget_ms == 30_000
    upload.expire(10.0)
    assert desk.sent[-1].budget_ms == 20_000 and desk.sent[-1].request_id == desk.sent[0].request_id


def test_a_small_payload_is_sent_again_until_it_is_answered() -> None:
    desk = Desk()
    message = Publish(request_id=os.urandom(16), model_id="policy", upload_id=os.urandom(16), size=3, digest="d")
    upload = WholeUpload(message, b"abc", desk.send, desk.line.ended, 30.0, 30.0)
    desk.line.begin(upload, None)
    desk.run()
    assert not upload.expire(0.5) and upload.expire(1.0) and upload.expire(2.0)
    assert len(desk.sent) == 3 and len({sent.request_id for sent in desk.sent}) == 1
    upload.receive(done(upload), None, 2.1)
    assert upload.future.result(0).number == 1


def test_credit_is_progress() -> None:
    desk = Desk()
    upload, _ = desk.upload(40 * MIB)
    upload.receive(Credit(request_id=upload.begin.request_id, upload_id=upload.key, received=7, until=23), None, 0.0)
    assert upload.acknowledged == 7 * MIB


def test_the_end_of_the_client_ends_who_runs_though_another_waits_behind_it() -> None:
    desk = Desk()
    first, _ = desk.upload()
    second, _ = desk.upload()

    def ended(command: Callable[[float], None]) -> None:
        raise Closed(what="the client")

    desk.post = ended  # type: ignore[method-assign]
    for upload in (first, second):
        upload.fail(Closed(what="the client"))
        assert isinstance(upload.future.exception(0), Closed)
