"""An upload through a slot between its two threads: nobody writes to a slot that was given back, nothing is written twice."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from dataclasses import replace
from typing import Any

import pytest

from broadcaster.protocol.errors import Aborted, Busy, Closed, InvalidRequest, RequestTimeout, VersionSuperseded
from broadcaster.protocol.frames import Chunk
from broadcaster.protocol.limits import CHUNK
from broadcaster.protocol.messages import Abort, Begin, Commit, Credit, Done, Error, Filled, Grant, Message
from broadcaster.protocol.version import VersionInfo
from clients._driver.frames import Frames
from clients._driver.granted import SlotUpload
from clients._driver.lane import Lane
from clients._driver.uploading import Upload
from clients._line import Line
from clients._ready import IDLE, Ready

SIZE = 3 * CHUNK


class Desk:
    """A driver without thread and sockets: commands run at once, at the time that it says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[Any] = []
        self.lane = Lane(lambda: "", lambda address: pytest.fail("nothing goes directly here"))
        self.line = Line(self)  # type: ignore[arg-type]

    def post(self, command: Any) -> None:
        command(self.now)

    def add_upload(self, upload: Upload) -> None:
        pass

    def start_upload(self, upload: Upload, now: float) -> None:
        upload.start(now)

    def fail_upload(self, upload: Upload, error: Any) -> None:
        upload.fail(error)

    def send_upload(self, message: Any, payload: Any = None) -> None:
        self.sent.append(message)

    def kinds(self) -> list[type]:
        """What was sent since this was asked last."""
        found, self.sent[:] = [type(message) for message in self.sent], []
        return found

    def asked(self, *, deadline: float = 30.0) -> SlotUpload:
        upload = SlotUpload(begin(), self.send_upload, self.line.ended, deadline, 30.0)
        self.line.begin(upload, None)
        upload.ask(self.now)
        return upload

    def granted(self, *, deadline: float = 30.0) -> SlotUpload:
        """An upload whose slot is being written to."""
        upload = self.asked(deadline=deadline)
        answer(upload, Grant, slot="slot-1-00000000", generation=1)
        assert upload.wait_for_grant(0) is not None
        upload.use(memoryview(bytearray(b"x" * SIZE)))
        self.sent.clear()
        return upload

    def whole(self, upload: SlotUpload) -> None:
        upload.written()
        upload.finish("d", self.now)
        self.line.queue(upload)


def begin() -> Begin:
    return Begin(request_id=os.urandom(16), model_id="policy", upload_id=os.urandom(16), size=SIZE, host_token="here")


def answer(upload: SlotUpload, kind: type[Message], **fields: Any) -> None:
    message = kind(request_id=upload.begin.request_id, upload_id=upload.key, **fields)  # type: ignore[call-arg]
    upload.receive(message, None, 0.0)


def done(upload: SlotUpload, number: int = 1) -> None:
    version = VersionInfo(
        namespace="default",
        model_id="policy",
        number=number,
        size=SIZE,
        digest="d",
        creation_timestamp=1,
    )
    answer(upload, Done, version=version)


def refused(upload: SlotUpload, code: str, **facts: Any) -> None:
    answer(upload, Error, code=code, message="", facts=facts)


def test_a_payload_is_committed_when_it_is_whole() -> None:
    desk = Desk()
    upload = desk.granted()
    desk.whole(upload)
    assert desk.kinds() == [Commit]
    done(upload)
    assert upload.future.result(0).number == 1 and upload.through_slot


def test_an_upload_is_not_taken_back_while_its_slot_is_being_written_to() -> None:
    desk = Desk()
    upload = desk.granted(deadline=1.0)
    assert upload.deadline is not None and upload.deadline > 1.0
    upload.expire(2.0)
    assert desk.kinds() == [] and not upload.over, "others would get the slot under our hands"
    desk.now = 2.0
    desk.whole(upload)
    assert upload.deadline is not None and upload.deadline <= 2.0
    desk.kinds()
    upload.expire(2.0)
    assert desk.kinds() == [Abort]
    assert isinstance(upload.future.exception(0), RequestTimeout)


def test_a_client_that_is_closed_while_a_slot_is_being_written_to_gives_it_to_nobody() -> None:
    desk = Desk()
    upload = desk.granted()
    upload.fail(Closed(what="the client"))
    assert desk.kinds() == [] and isinstance(upload.future.exception(0), Closed)


def test_a_client_that_is_closed_gives_back_what_nobody_writes_to() -> None:
    desk = Desk()
    upload = desk.asked()
    desk.kinds()
    upload.fail(Closed(what="the client"))
    assert desk.kinds() == [Abort]
    answer(upload, Grant, slot="slot-1-00000000", generation=1)
    assert upload.wait_for_grant(0) is None, "nobody begins to write once it was taken back"


def test_a_draft_that_is_being_written_to_is_not_sent_when_its_slot_is_withdrawn() -> None:
    desk = Desk()
    upload = SlotUpload(begin(), desk.send_upload, desk.line.ended, math.inf, math.inf, settled=False)
    upload.ask(0.0)
    answer(upload, Grant, slot="slot-1-00000000", generation=1)
    assert upload.wait_for_grant(0) is not None
    upload.use(memoryview(bytearray(SIZE)))
    desk.kinds()
    refused(upload, Aborted.code, model_id="policy", reason="no progress")
    assert desk.kinds() == [] and not upload.over
    assert upload.settle(replace(upload.begin, metrics={"a": 1.0}), desk.line.ended, 30.0, 30.0)
    desk.line.begin(upload, None)
    desk.whole(upload)
    (again,) = desk.sent
    assert again.metrics == {"a": 1.0} and again.host_token is None and again.budget_ms == 30_000


def test_who_waits_for_a_slot_hears_at_once_that_there_is_none() -> None:
    desk = Desk()
    upload = desk.asked()
    refused(upload, "budget-exceeded", model_id="policy", size=1, in_flight=1, newest=1, pinned=1, budget=1)
    assert upload.wait_for_grant(100) is None and upload.over
    other = desk.asked()
    answer(other, Credit, received=0, until=3)
    assert other.wait_for_grant(100) is None and not other.over


def test_a_payload_without_a_slot_goes_in_chunks_while_it_is_copied() -> None:
    desk = Desk()
    upload = desk.asked()
    desk.kinds()
    assert upload.wait_for_grant(0.001) is None
    upload.in_chunks(memoryview(bytearray(SIZE)), Frames(), 0.0)
    upload.filled(CHUNK, 0.0)
    assert desk.kinds() == [Begin], "a commit that came alone would be one of what is in the slot"
    answer(upload, Credit, received=0, until=3, rewind=True)
    assert desk.kinds() == [Chunk]
    upload.finish("d", 0.0)
    assert desk.kinds() == [Chunk, Chunk, Commit]
    done(upload)
    assert upload.future.result(0).number == 1 and not upload.through_slot


@pytest.mark.parametrize("late", [False, True])
def test_what_is_in_a_withdrawn_slot_goes_in_chunks_from_there(late: bool) -> None:
    desk = Desk()
    upload = desk.granted()
    upload.filled(CHUNK, 0.0)
    if late:
        desk.whole(upload)
        refused(upload, InvalidRequest.code, field="upload_id", reason="there is no such upload")
    else:
        refused(upload, Aborted.code, model_id="policy", reason="no progress")
        desk.whole(upload)
    assert desk.sent[-1].host_token is None
    answer(upload, Credit, received=0, until=3, rewind=True)
    sent, kinds = list(desk.sent), desk.kinds()
    assert kinds[-5:] == [Begin, Chunk, Chunk, Chunk, Commit]
    again = sent[-5]
    assert again.upload_id == upload.key and again.host_token is None
    assert all(bytes(chunk.data) == b"x" * CHUNK for chunk in sent[-4:-1])
    done(upload)
    assert upload.future.result(0).number == 1


def test_an_upload_commits_only_when_what_is_before_it_has_ended() -> None:
    desk = Desk()
    first = desk.granted()
    desk.whole(first)
    desk.kinds()
    second = desk.granted()
    second.filled(4 * CHUNK, 0.0)
    desk.whole(second)
    assert Commit not in desk.kinds()
    done(first)
    assert desk.kinds() == [Commit] and not second.future.done()


def test_one_that_waits_is_superseded_and_its_slot_given_back() -> None:
    desk = Desk()
    first = desk.granted()
    desk.whole(first)
    second = desk.granted()
    desk.whole(second)
    desk.kinds()
    desk.asked()
    assert desk.kinds() == [Abort, Begin], "before another slot is asked for"
    assert isinstance(second.future.exception(0), VersionSuperseded)


def test_a_busy_broadcaster_is_asked_again() -> None:
    desk = Desk()
    upload = desk.asked()
    desk.kinds()
    refused(upload, Busy.code, what="upload", retry_after=2.0)
    assert not upload.over and upload.deadline == 2.0
    upload.expire(2.0)
    assert desk.kinds() == [Begin]
    answer(upload, Grant, slot="slot-1-00000000", generation=1)
    assert upload.wait_for_grant(0) is not None


def test_an_idle_grant_is_kept_and_the_broadcaster_is_not_called_silent() -> None:
    desk = Desk()
    upload = desk.granted(deadline=math.inf)
    deadline = upload.deadline
    assert deadline is not None and deadline < 60
    assert not upload.expire(deadline)
    assert desk.kinds() == [Filled]


# --- the grant that is asked for ahead ----------------------------------------------------------------------------


def ready_after(desk: Desk, count: int) -> tuple[Ready, Begin]:
    ready, given = Ready(desk), begin()  # type: ignore[arg-type]
    for _ in range(count):
        ready.follow(given, desk.now)
    return ready, given


def test_a_grant_is_asked_for_ahead_after_two_of_a_kind() -> None:
    desk = Desk()
    ready, given = ready_after(desk, 1)
    assert desk.kinds() == [] and ready.take(given) is None
    ready, given = ready_after(desk, 2)
    assert desk.kinds() == [Begin]
    upload = ready.take(given)
    assert upload is not None and ready.take(given) is None
    assert upload.settle(given, desk.line.ended, 30.0, 30.0)
    assert upload.key != given.upload_id


def test_a_grant_that_nobody_wants_is_given_back() -> None:
    desk = Desk()
    ready, given = ready_after(desk, 2)
    upload = ready._upload
    assert upload is not None and upload.deadline is not None and upload.deadline <= IDLE
    desk.kinds()
    upload.expire(IDLE)
    assert desk.kinds() == [Abort] and ready.take(given) is None
    assert not upload.settle(given, desk.line.ended, 90.0, 30.0), "too late"


def test_a_draft_that_is_kept_for_long_is_not_given_back() -> None:
    desk = Desk()
    ready, given = ready_after(desk, 2)
    upload = ready.take(given)
    assert upload is not None and upload.keep()
    answer(upload, Grant, slot="slot-1-00000000", generation=1)
    assert upload.wait_for_grant(0) is not None
    desk.kinds()
    upload.expire(1e6)
    assert desk.kinds() == [Filled] and not upload.over


def test_what_is_said_at_last_goes_with_the_commit() -> None:
    desk = Desk()
    ready, given = ready_after(desk, 2)
    upload = ready.take(given)
    assert upload is not None
    last = replace(given, metrics={"a": 1.0}, user_data={"b": "c"}, creation_timestamp=7)
    assert upload.settle(last, desk.line.ended, 30.0, 30.0)
    answer(upload, Grant, slot="slot-1-00000000", generation=1)
    assert upload.wait_for_grant(0) is not None
    upload.use(memoryview(bytearray(SIZE)))
    desk.line.begin(upload, None)
    desk.sent.clear()
    desk.whole(upload)
    (commit,) = desk.sent
    assert (commit.metrics, commit.user_data, commit.creation_timestamp) == ({"a": 1.0}, {"b": "c"}, 7)
    refused(upload, InvalidRequest.code, field="upload_id", reason="there is no such upload")
    again = next(message for message in desk.sent if isinstance(message, Begin))
    assert (again.metrics, again.user_data, again.creation_timestamp) == ({"a": 1.0}, {"b": "c"}, 7)


def test_what_is_said_at_last_goes_with_the_commit_of_chunks_too() -> None:
    desk = Desk()
    ready, given = ready_after(desk, 2)
    upload = ready.take(given)
    assert upload is not None
    assert upload.settle(
        replace(given, metrics={"a": 1.0}, user_data={"b": "c"}, creation_timestamp=7), desk.line.ended, 30.0, 30.0
    )
    answer(upload, Grant, slot="slot-1-00000000", generation=1)
    desk.line.begin(upload, None)
    upload.in_chunks(memoryview(bytearray(SIZE)), Frames(), 0.0)  # The slot could not be opened.
    upload.finish("d", 0.0)
    desk.sent.clear()
    answer(upload, Credit, received=0, until=3, rewind=True)
    commit = desk.sent[-1]
    assert isinstance(commit, Commit), "the broadcaster may know the upload by the `begin` that was sent ahead"
    assert (commit.metrics, commit.user_data, commit.creation_timestamp) == ({"a": 1.0}, {"b": "c"}, 7)


def test_a_grant_that_is_taken_while_its_time_runs_out_is_not_given_back() -> None:
    desk = Desk()
    ready, given = ready_after(desk, 2)
    upload = ready.take(given)
    assert upload is not None
    answer(upload, Grant, slot="slot-1-00000000", generation=1)
    expiring = threading.Thread(target=upload.expire, args=(IDLE,))
    with upload._changed:  # The I/O thread has seen that it is late, and comes second.
        expiring.start()
        expiring.join(0.2)
        assert upload.settle(given, desk.line.ended, 90.0, 30.0)
    expiring.join()
    assert not upload.over and upload.wait_for_grant(0) is not None


def test_ctrl_c_while_a_user_looks_at_an_upload_does_not_stop_the_io_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    upload = Desk().asked()
    real = threading.Condition.__enter__

    def interrupted(condition: threading.Condition) -> bool:
        real(condition)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(threading.Condition, "__enter__", interrupted)
        upload.wait_for_grant(0)
    failing = threading.Thread(target=upload.fail, args=(Closed(what="the client"),), daemon=True)
    failing.start()
    failing.join(5.0)
    assert upload.over
