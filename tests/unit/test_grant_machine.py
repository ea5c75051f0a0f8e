"""SlotUploader, alone: what comes in, what goes out, in which state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broadcaster.protocol.errors import (
    Aborted,
    BroadcasterError,
    BudgetExceeded,
    InvalidRequest,
    LocalProtocolError,
    RemoteProtocolError,
    RequestTimeout,
)
from broadcaster.protocol.limits import FILLED, RETRY
from broadcaster.protocol.machines.grant import KEEP, SlotUploader, SlotUploaderState
from broadcaster.protocol.messages import Abort, Begin, Commit, Credit, Deleted, Done, Error, Filled, Grant
from broadcaster.protocol.version import VersionInfo

ID, UPLOAD = b"r" * 16, b"u" * 16
SIZE = 3 * FILLED + 5
BEGIN = Begin(request_id=ID, model_id="policy", upload_id=UPLOAD, size=SIZE, host_token="here")
GRANT = Grant(request_id=ID, upload_id=UPLOAD, slot="slot-1-00000000", generation=1)
ANOTHER = Grant(request_id=ID, upload_id=UPLOAD, slot="slot-2-00000000", generation=1)
AGAIN = Grant(request_id=ID, upload_id=UPLOAD, slot="slot-1-00000000", generation=2)
CREDIT = Credit(request_id=ID, upload_id=UPLOAD, received=0, until=16, rewind=True)
COMMIT = Commit(request_id=ID, upload_id=UPLOAD, digest="d")
DONE = Done(
    request_id=ID,
    upload_id=UPLOAD,
    version=VersionInfo(namespace="default", model_id="policy", number=7, size=SIZE, digest="d", creation_timestamp=1),
)
State = SlotUploaderState


def refusal(error: BroadcasterError) -> Error:
    return Error(request_id=ID, upload_id=UPLOAD, code=error.code, message=str(error), facts=error.facts)


FORGOTTEN = refusal(InvalidRequest(field="upload_id", reason="there is no such upload"))
WITHDRAWN = refusal(Aborted(model_id="policy", reason="no progress for 60 s"))
TOO_MUCH = refusal(BudgetExceeded(model_id="policy", size=1, in_flight=2, newest=3, pinned=4, budget=5))


def begun() -> SlotUploader:
    machine = SlotUploader(BEGIN)
    assert machine.start(0.0) == [BEGIN]
    return machine


def granted() -> SlotUploader:
    machine = begun()
    assert machine.receive(GRANT, 0.0) == []
    assert machine.state is State.FILLING and machine.grant == GRANT
    return machine


def committing() -> SlotUploader:
    machine = granted()
    assert machine.finish("d", 0.0) == [COMMIT]
    assert machine.state is State.COMMITTING
    return machine


def test_a_payload_goes_through_the_slot_that_was_granted() -> None:
    machine = granted()
    assert machine.filled(FILLED, 0.1) == [Filled(upload_id=UPLOAD, size=FILLED)]
    assert machine.finish("d", 0.2) == [COMMIT]
    assert machine.receive(DONE, 0.3) == [] and machine.over
    assert machine.state is State.DONE and machine.version == DONE.version and machine.deadline is None


def test_no_slot_is_asked_for_without_the_token_of_the_host() -> None:
    with pytest.raises(LocalProtocolError):
        SlotUploader(replace(BEGIN, host_token=None))


def test_how_far_it_is_filled_is_said_about_every_four_mebibytes() -> None:
    machine = granted()
    said = [size for size in range(0, SIZE, 1 << 18) if machine.filled(size, 0.0)]
    assert said == [FILLED, 2 * FILLED, 3 * FILLED]


def test_nothing_is_said_of_bytes_before_there_is_a_slot() -> None:
    assert begun().filled(2 * FILLED, 0.0) == []


def test_a_lost_begin_or_a_lost_grant_is_asked_for_again() -> None:
    machine = begun()
    assert machine.deadline == RETRY
    assert machine.expire(RETRY - 0.01) == [] and machine.expire(RETRY) == [BEGIN] and machine.deadline == 2 * RETRY
    assert machine.receive(GRANT, 1.5) == [] and machine.state is State.FILLING
    assert machine.receive(GRANT, 1.6) == [], "the answer to the second begin"
    assert machine.state is State.FILLING


def test_nothing_is_asked_again_that_was_not_asked_yet() -> None:
    machine = SlotUploader(BEGIN)
    assert machine.deadline is None and machine.expire(1e9) == []


def test_a_payload_that_was_whole_before_the_grant_is_committed_with_it() -> None:
    machine = begun()
    assert machine.finish("d", 0.0) == []
    assert machine.receive(GRANT, 0.1) == [COMMIT]


def test_a_lost_commit_is_said_again_when_the_grant_still_holds() -> None:
    machine = committing()
    assert machine.expire(RETRY) == [BEGIN]
    assert machine.receive(GRANT, 1.1) == [COMMIT] and machine.state is State.COMMITTING


def test_a_lost_done_is_told_again_and_makes_no_second_version() -> None:
    machine = committing()
    assert machine.expire(RETRY) == [BEGIN]
    assert machine.receive(DONE, 1.1) == [] and machine.version == DONE.version
    assert machine.receive(DONE, 1.2) == [] and machine.receive(FORGOTTEN, 1.2) == [], "nothing comes after the end"
    assert machine.state is State.DONE


@pytest.mark.parametrize("answer", [FORGOTTEN, CREDIT, ANOTHER, AGAIN, WITHDRAWN])
def test_a_broadcaster_that_does_not_know_the_grant_any_more_gets_chunks(answer: Error | Credit | Grant) -> None:
    machine = committing()
    machine.expire(RETRY)
    assert machine.receive(answer, 1.1) == [] and machine.over
    assert machine.state is State.CHUNKS and machine.error is None and machine.deadline is None
    assert machine.plain == replace(BEGIN, host_token=None)


@pytest.mark.parametrize("answer", [CREDIT, ANOTHER, WITHDRAWN])
def test_a_grant_that_is_withdrawn_while_the_slot_is_filled_leads_to_chunks(answer: Error | Credit | Grant) -> None:
    machine = granted()
    machine.filled(FILLED, 0.0)
    machine.receive(answer, 0.1)
    assert machine.state is State.CHUNKS
    assert machine.filled(2 * FILLED, 0.2) == [] and machine.finish("d", 0.3) == []


def test_credit_instead_of_a_grant_leads_to_chunks() -> None:
    machine = begun()
    assert machine.receive(CREDIT, 0.0) == [] and machine.state is State.CHUNKS


def test_a_slot_that_cannot_be_used_is_refused() -> None:
    machine = granted()
    assert machine.refuse() == [] and machine.state is State.CHUNKS
    assert machine.receive(DONE, 0.0) == [], "an Uploader hears the rest"


def test_what_the_commit_said_is_in_the_begin_of_the_chunks() -> None:
    machine = granted()
    (commit,) = machine.finish("d", 0.0, user_data={"a": "b"}, metrics={"x": 1.0}, creation_timestamp=5)
    assert isinstance(commit, Commit)
    assert (commit.user_data, commit.metrics, commit.creation_timestamp) == ({"a": "b"}, {"x": 1.0}, 5)
    machine.receive(FORGOTTEN, 0.1)
    assert machine.plain == replace(BEGIN, host_token=None, user_data={"a": "b"}, metrics={"x": 1.0}, creation_timestamp=5)


def test_an_idle_grant_is_kept() -> None:
    machine = granted()
    assert machine.deadline == KEEP and machine.expire(KEEP - 0.1) == []
    assert machine.expire(KEEP) == [Filled(upload_id=UPLOAD, size=0)] and machine.deadline == 2 * KEEP
    machine.filled(FILLED - 1, KEEP)
    assert machine.expire(2 * KEEP) == [Filled(upload_id=UPLOAD, size=FILLED - 1)]


def test_an_upload_that_is_given_up_is_taken_back() -> None:
    machine = granted()
    error = RequestTimeout(what="publishing", timeout=1)
    assert machine.abort(error) == [Abort(request_id=ID, upload_id=UPLOAD)]
    assert machine.state is State.FAILED and machine.error is error and machine.deadline is None
    assert machine.abort(error) == [] and machine.expire(100.0) == []


def test_a_refusal_names_what_and_why() -> None:
    machine = begun()
    assert machine.receive(TOO_MUCH, 0.0) == []
    assert machine.state is State.FAILED and isinstance(machine.error, BudgetExceeded) and machine.error.budget == 5


def test_an_upload_that_was_given_up_before_anything_was_granted_has_failed() -> None:
    machine = begun()
    machine.receive(WITHDRAWN, 0.0)
    assert machine.state is State.FAILED and isinstance(machine.error, Aborted)


def test_what_does_not_belong_to_an_upload_is_said_so() -> None:
    with pytest.raises(RemoteProtocolError, match="deleted does not belong to an upload that is filling"):
        granted().receive(Deleted(request_id=ID), 0.0)
