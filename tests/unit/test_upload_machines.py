"""Uploader and Assembler, each alone: what comes in, what goes out, in which state."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import xxhash

from broadcaster.protocol.errors import (
    Aborted,
    BroadcasterError,
    BudgetExceeded,
    DigestMismatch,
    InvalidRequest,
    LocalProtocolError,
    RemoteProtocolError,
    RequestTimeout,
    SizeMismatch,
)
from broadcaster.protocol.frames import Chunk, ChunkHeader
from broadcaster.protocol.limits import CHUNK, EAGER, FILLED, IDLE_UPLOAD, RETRY, WINDOW
from broadcaster.protocol.machines.upload import MOMENT, Assembler, AssemblerState, Out, Uploader, UploaderState
from broadcaster.protocol.messages import Abort, Begin, Commit, Credit, Deleted, Done, Error, Message
from broadcaster.protocol.messages import Aborted as AbortedMessage
from broadcaster.protocol.version import VersionInfo

ID, UPLOAD = b"r" * 16, b"u" * 16
COUNT = EAGER + 3
PAYLOAD = bytes(CHUNK) * (COUNT - 1) + b"the last chunk"
DIGEST = xxhash.xxh3_128_hexdigest(PAYLOAD)
VERSION = VersionInfo(namespace="default", model_id="policy", number=1, size=len(PAYLOAD), digest=DIGEST, creation_timestamp=1)
BEGIN = Begin(request_id=ID, model_id="policy", upload_id=UPLOAD, size=len(PAYLOAD))
COMMIT = Commit(request_id=ID, upload_id=UPLOAD, digest=DIGEST)
DONE = Done(request_id=ID, upload_id=UPLOAD, version=VERSION)


def credit(received: int, until: int, *, rewind: bool = False, request_id: bytes = ID) -> Credit:
    return Credit(request_id=request_id, upload_id=UPLOAD, received=received, until=until, rewind=rewind)


def refusal(error: BroadcasterError) -> Error:
    return Error(request_id=ID, upload_id=UPLOAD, code=error.code, message=str(error), facts=error.facts)


FORGOTTEN = refusal(InvalidRequest(field="upload_id", reason="there is no such upload"))


def header(index: int, size: int = len(PAYLOAD)) -> ChunkHeader:
    return ChunkHeader(UPLOAD, size, index * CHUNK, min(CHUNK, size - index * CHUNK))


def brief(out: Out) -> list[int | Message]:
    """Chunks as their indices, after a look at them."""
    found: list[int | Message] = []
    for item in out:
        if isinstance(item, Chunk):
            index = item.header.offset // CHUNK
            assert item.header == header(index)
            assert bytes(item.data) == PAYLOAD[index * CHUNK : (index + 1) * CHUNK]
            found.append(index)
        else:
            found.append(item)
    return found


def uploader(*, filled: bool = True) -> Uploader:
    """One that has sent `begin` and, when filled, its first chunks."""
    machine = Uploader(BEGIN, memoryview(PAYLOAD))
    assert machine.start(10.0) == [BEGIN]
    if filled:
        assert brief(machine.finish(DIGEST, 10.0)) == list(range(EAGER))
    return machine


# --- Uploader ------------------------------------------------------------------------------------------------------


def test_an_upload_from_begin_to_done() -> None:
    machine = uploader()
    assert machine.state is UploaderState.BEGINNING
    assert brief(machine.receive(credit(0, EAGER + 1), 10.1)) == [EAGER]
    assert machine.state is UploaderState.SENDING
    assert brief(machine.receive(credit(4, COUNT), 10.2)) == [EAGER + 1, EAGER + 2, COMMIT]
    assert machine.state is UploaderState.COMMITTING and not machine.over
    assert machine.receive(credit(COUNT, COUNT), 10.3) == []
    assert machine.receive(DONE, 10.4) == []
    assert (machine.state, machine.version, machine.over, machine.deadline) == (UploaderState.DONE, VERSION, True, None)


def test_the_first_chunks_do_not_wait_for_credit_and_the_others_do() -> None:
    machine = uploader(filled=False)
    assert brief(machine.filled(CHUNK, 10.0)) == [0]
    assert machine.filled(2 * CHUNK - 1, 10.0) == []
    assert brief(machine.filled(COUNT * CHUNK, 10.0)) == [1, 2, 3]
    assert machine.filled(5, 10.0) == [], "what was filled stays filled"
    assert brief(machine.finish(DIGEST, 10.0)) == []


def test_a_small_payload_and_its_commit_go_out_at_once() -> None:
    payload = b"small"
    digest = xxhash.xxh3_128_hexdigest(payload)
    machine = Uploader(replace(BEGIN, size=5), memoryview(payload))
    machine.start(0.0)
    chunk, commit = machine.finish(digest, 0.0)
    assert isinstance(chunk, Chunk) and bytes(chunk.data) == payload
    assert commit == replace(COMMIT, digest=digest) and machine.state is UploaderState.COMMITTING


def test_an_empty_payload_is_only_committed() -> None:
    machine = Uploader(replace(BEGIN, size=0), memoryview(b""))
    machine.start(0.0)
    assert machine.finish(DIGEST, 0.0) == [COMMIT]
    assert machine.receive(credit(0, 0, rewind=True), 0.1) == [COMMIT]
    machine.receive(DONE, 0.2)
    assert machine.state is UploaderState.DONE


def test_a_rewind_sends_again_from_the_first_missing_chunk() -> None:
    machine = uploader()
    machine.receive(credit(0, COUNT), 10.0)
    assert machine.state is UploaderState.COMMITTING
    assert brief(machine.receive(credit(2, 4, rewind=True), 10.1)) == [2, 3]
    assert machine.state is UploaderState.SENDING
    assert brief(machine.receive(credit(3, COUNT), 10.2)) == [4, 5, 6, COMMIT]


def test_credit_never_shrinks() -> None:
    machine = uploader()
    machine.receive(credit(0, EAGER + 1), 10.0)
    assert machine.receive(credit(1, 2), 10.1) == []
    assert brief(machine.receive(credit(1, EAGER + 2), 10.2)) == [EAGER + 1]


def test_more_chunks_than_there_are_were_not_received() -> None:
    for message in (credit(COUNT + 1, COUNT + 1), credit(COUNT + 1, COUNT + 1, rewind=True)):
        with pytest.raises(RemoteProtocolError, match=f"{COUNT + 1} chunks received of a payload of {COUNT}"):
            uploader().receive(message, 10.0)


@pytest.mark.parametrize(
    ("prepare", "state"), [([], "beginning"), ([credit(0, EAGER)], "sending"), ([credit(0, COUNT)], "committing")]
)
def test_a_message_that_does_not_belong_to_an_upload_is_refused(prepare: list[Message], state: str) -> None:
    machine = uploader()
    for message in prepare:
        machine.receive(message, 10.0)
    for stranger in (Deleted(request_id=ID), BEGIN, COMMIT, AbortedMessage(request_id=ID, upload_id=UPLOAD)):
        with pytest.raises(RemoteProtocolError) as refused:
            machine.receive(stranger, 10.0)
        assert stranger.KIND.decode() in str(refused.value) and state in str(refused.value)
    assert machine.state.value == state


@pytest.mark.parametrize("prepare", [[], [credit(0, EAGER)], [credit(0, COUNT)]])
def test_an_error_ends_the_upload_in_every_state(prepare: list[Message]) -> None:
    machine = uploader()
    for message in prepare:
        machine.receive(message, 10.0)
    error = BudgetExceeded(model_id="policy", size=1, in_flight=2, newest=3, pinned=4, budget=5)
    assert machine.receive(refusal(error), 10.0) == []
    assert machine.state is UploaderState.FAILED and isinstance(machine.error, BudgetExceeded)
    assert machine.error.facts == error.facts


@pytest.mark.parametrize("ending", [DONE, refusal(RequestTimeout(what="x", timeout=1))])
def test_what_comes_after_the_end_is_harmless(ending: Message) -> None:
    machine = uploader()
    machine.receive(ending, 10.0)
    state = machine.state
    for late in (credit(0, COUNT), credit(99, 99, rewind=True), DONE, FORGOTTEN, BEGIN):
        assert machine.receive(late, 11.0) == []
    assert machine.expire(1e9) == [] and machine.abort(Aborted(model_id="policy", reason="x")) == []
    assert machine.filled(3, 11.0) == [] and machine.finish(DIGEST, 11.0) == []
    assert (machine.state, machine.deadline) == (state, None)


def test_silence_begins_again_and_the_answer_says_from_where() -> None:
    machine = uploader()
    machine.receive(credit(0, EAGER + 1), 10.5)
    assert machine.deadline == 10.5 + RETRY
    assert machine.expire(11.4) == []
    assert machine.expire(11.5) == [BEGIN]
    assert machine.state is UploaderState.BEGINNING and machine.deadline == 11.5 + RETRY
    assert machine.filled(len(PAYLOAD), 11.6) == [], "only the broadcaster knows from where to go on"
    assert brief(machine.receive(credit(3, 5), 11.7)) == [3, 4]


def test_while_the_learner_fills_the_buffer_nothing_is_late() -> None:
    machine = uploader(filled=False)
    assert machine.deadline == 10.0 + RETRY, "the answer to begin is awaited"
    machine.receive(credit(0, COUNT), 10.1)
    assert machine.deadline is None and machine.expire(1e9) == []
    machine.filled(CHUNK, 20.0)
    assert machine.deadline is None
    machine.filled(len(PAYLOAD), 30.0)
    assert machine.deadline is None, "the digest is still to come"
    assert machine.finish(DIGEST, 40.0) == [COMMIT]
    assert machine.deadline == 40.0 + RETRY


def test_without_credit_the_broadcaster_is_waited_for() -> None:
    machine = uploader()
    machine.receive(credit(0, EAGER), 10.1)
    assert machine.deadline == 10.1 + RETRY


def test_an_upload_that_a_new_broadcaster_does_not_know_begins_again() -> None:
    machine = uploader()
    machine.receive(credit(0, COUNT), 10.0)
    assert machine.receive(FORGOTTEN, 10.5) == [BEGIN]
    assert machine.state is UploaderState.BEGINNING
    assert brief(machine.receive(credit(0, 2), 10.6)) == [0, 1]


def test_an_answer_to_an_older_commit_does_not_end_an_upload_that_began_again() -> None:
    machine = uploader()
    machine.receive(credit(0, COUNT), 10.0)
    assert machine.expire(10.0 + RETRY) == [BEGIN]
    assert machine.receive(FORGOTTEN, 11.1) == []
    assert machine.state is UploaderState.BEGINNING
    assert brief(machine.receive(credit(0, COUNT, rewind=True), 11.2)) == [*range(COUNT), COMMIT]


def test_giving_up_tells_the_broadcaster() -> None:
    machine = uploader()
    error = RequestTimeout(what="publishing", timeout=1)
    assert machine.abort(error) == [Abort(request_id=ID, upload_id=UPLOAD)]
    assert machine.state is UploaderState.FAILED and machine.error is error


# --- Assembler -----------------------------------------------------------------------------------------------------


def assembler(*, window: int = WINDOW, digest_kind: str = "xxh3-128") -> Assembler:
    begin = replace(BEGIN, digest_kind=digest_kind)
    return Assembler(begin, memoryview(bytearray(len(PAYLOAD))), 10.0, window=window)


def take(machine: Assembler, index: int, now: float = 10.0) -> Out:
    """One chunk comes, as the broadcaster takes it in."""
    view = machine.place(header(index))
    if view is None:
        return machine.dropped(header(index), now)
    view[:] = PAYLOAD[index * CHUNK : (index + 1) * CHUNK]
    return machine.placed(header(index), now)


def test_a_payload_is_taken_in_with_credit_every_half_window() -> None:
    machine = assembler(window=4)
    assert machine.start(10.0) == [credit(0, 4)]
    out = [take(machine, index) for index in range(COUNT)]
    assert out == [[], [credit(2, 6)], [], [credit(4, COUNT)], [], [], []]
    assert machine.commit(COMMIT, 10.0) == []
    assert machine.state is AssemblerState.COMPLETE and machine.deadline is None
    assert bytes(machine.assembly.buffer) == PAYLOAD
    assert machine.place(header(0)) is None and machine.dropped(header(3), 10.0) == []
    assert machine.expire(1e9) == []


def test_bytes_may_be_hashed_while_they_are_copied() -> None:
    machine = assembler(window=4)
    machine.start(10.0)
    out: list[Out] = []
    for index in range(COUNT):
        assert machine.place(header(index)) is not None
        out.append(machine.placed(header(index), 20.0 + index, memoryview(PAYLOAD)[index * CHUNK : (index + 1) * CHUNK]))
    assert out == [[], [credit(2, 6)], [], [credit(4, COUNT)], [], [], []]
    assert machine.deadline == 20.0 + COUNT - 1 + IDLE_UPLOAD
    assert machine.commit(COMMIT, 40.0) == [] and bytes(machine.assembly.buffer) == PAYLOAD


def test_the_chunk_that_comes_next_is_known_by_its_header_and_length() -> None:
    machine = assembler(window=4)
    machine.start(10.0)
    out: list[Out] = []
    for index in range(COUNT):
        data = memoryview(PAYLOAD)[index * CHUNK : (index + 1) * CHUNK]
        others = [header(other).pack() for other in range(COUNT) if other != index]
        assert not any(
            machine.expects(other, len(data)) for other in [*others, replace(header(index), transfer=b"o" * 16).pack(), b""]
        )
        assert not machine.expects(header(index).pack(), len(data) - 1) and not machine.expects(header(index).pack(), 0)
        assert machine.expects(header(index).pack(), len(data))
        out.append(machine.placed_next(data, 20.0 + index))
    assert out == [[], [credit(2, 6)], [], [credit(4, COUNT)], [], [], []]
    assert not machine.expects(header(COUNT - 1).pack(), len(PAYLOAD) - (COUNT - 1) * CHUNK)
    assert machine.deadline == 20.0 + COUNT - 1 + IDLE_UPLOAD
    assert machine.commit(COMMIT, 40.0) == [] and bytes(machine.assembly.buffer) == PAYLOAD


def test_nothing_is_expected_of_an_upload_that_failed() -> None:
    machine = assembler()
    machine.start(10.0)
    with pytest.raises(SizeMismatch):
        machine.place(replace(header(0), size=1))
    assert machine.state is AssemblerState.FAILED and not machine.expects(header(0).pack(), CHUNK)


def test_the_window_is_not_larger_than_the_payload() -> None:
    assert assembler().start(10.0) == [credit(0, COUNT)]


def test_chunks_that_came_before_the_credit_are_asked_for_with_it() -> None:
    assert assembler(window=4).start(10.0, rewind=True) == [credit(0, 4, rewind=True)]


def test_a_chunk_that_is_here_already_is_dropped_without_a_word() -> None:
    machine = assembler()
    take(machine, 0)
    take(machine, 1)
    assert take(machine, 0) == [] and machine.assembly.front == 2


def test_a_hole_is_answered_once_with_a_rewind() -> None:
    machine = assembler(window=4)
    machine.start(10.0)
    take(machine, 0)
    assert take(machine, 2) == [credit(1, 5, rewind=True)]
    assert take(machine, 3) == []
    take(machine, 1)
    assert take(machine, 3) == [credit(2, 6, rewind=True)], "another hole is another answer"


def test_a_commit_with_chunks_missing_is_a_rewind() -> None:
    machine = assembler(window=4)
    take(machine, 0)
    assert machine.commit(replace(COMMIT, request_id=b"c" * 16), 10.0) == [credit(1, 5, rewind=True, request_id=b"c" * 16)]
    assert machine.state is AssemblerState.RECEIVING


def test_begin_again_goes_on_from_the_first_missing_chunk() -> None:
    machine = assembler(window=4)
    take(machine, 0)
    assert machine.resume(b"n" * 16, 30.0) == [credit(1, 5, rewind=True, request_id=b"n" * 16)]
    assert machine.deadline == 30.0 + IDLE_UPLOAD


def test_another_digest_ends_the_upload() -> None:
    machine = assembler()
    for index in range(COUNT):
        take(machine, index)
    with pytest.raises(DigestMismatch) as refused:
        machine.commit(replace(COMMIT, digest="x" * 100), 10.0)
    assert refused.value.facts == {"model_id": "policy", "digest_kind": "xxh3-128", "found": DIGEST, "declared": "x" * 64}
    assert machine.state is AssemblerState.FAILED and machine.place(header(0)) is None


def test_sha256_may_be_declared_instead() -> None:
    machine = assembler(digest_kind="sha256")
    for index in range(COUNT):
        take(machine, index)
    assert machine.commit(replace(COMMIT, digest=hashlib.sha256(PAYLOAD).hexdigest()), 10.0) == []
    assert machine.state is AssemblerState.COMPLETE and machine.assembly.digest == DIGEST


@pytest.mark.parametrize(
    "wrong",
    [
        replace(header(0), size=len(PAYLOAD) + 1),
        replace(header(0), length=5),
        replace(header(0), offset=1),
        ChunkHeader(UPLOAD, len(PAYLOAD), COUNT * CHUNK, 1),
    ],
)
def test_a_chunk_outside_the_declared_payload_ends_the_upload(wrong: ChunkHeader) -> None:
    machine = assembler()
    with pytest.raises(SizeMismatch, match=f"{len(PAYLOAD)} bytes were declared"):
        machine.place(wrong)
    assert machine.state is AssemblerState.FAILED


def test_an_upload_without_progress_is_given_up() -> None:
    machine = assembler()
    take(machine, 0, now=20.0)
    assert machine.deadline == 20.0 + IDLE_UPLOAD
    assert machine.expire(20.0 + IDLE_UPLOAD - 1) == []
    with pytest.raises(Aborted, match="no progress for 60 s"):
        machine.expire(20.0 + IDLE_UPLOAD)
    assert machine.state is AssemblerState.FAILED and machine.expire(1e9) == []


def filling(**fields: object) -> Assembler:
    """One whose client has written its payload into the buffer, and did not say so yet."""
    return Assembler(replace(BEGIN, **fields), memoryview(bytearray(PAYLOAD)), 10.0)  # type: ignore[arg-type]


def test_what_the_client_wrote_is_hashed_behind_it_in_whole_chunks() -> None:
    machine = filling()
    machine.filled(CHUNK - 1, 20.0)
    assert not machine.behind and machine.follow() == range(0)
    machine.filled(2 * CHUNK + 5, 21.0)
    assert machine.behind and machine.follow() == range(2) and not machine.behind
    machine.filled(len(PAYLOAD) - 1, 22.0)
    assert machine.follow() == range(2, COUNT - 1)
    machine.filled(len(PAYLOAD), 23.0)
    assert machine.follow() == range(COUNT - 1, COUNT), "the tail comes at the end"
    assert machine.commit(COMMIT, 24.0) == [] and machine.state is AssemblerState.COMPLETE


def test_one_call_hashes_at_most_a_mark() -> None:
    machine = filling()
    machine.filled(len(PAYLOAD), 20.0)
    assert FILLED == 4 * CHUNK < len(PAYLOAD)
    assert machine.follow() == range(4) and machine.behind
    assert machine.follow() == range(4, COUNT) and not machine.behind and machine.assembly.digest == DIGEST


def test_a_mark_never_goes_back_nor_beyond_what_was_declared() -> None:
    machine = filling()
    machine.filled(3 * CHUNK, 20.0)
    machine.filled(CHUNK, 21.0)
    machine.filled(len(PAYLOAD) + 1, 22.0)
    machine.filled(1 << 62, 23.0)
    assert machine.follow() == range(3) and machine.follow() == range(3, 3)


def test_every_word_of_the_writer_is_progress() -> None:
    machine = filling()
    machine.filled(0, 50.0)
    assert machine.deadline == 50.0 + IDLE_UPLOAD
    machine.filled(0, 60.0)
    assert machine.expire(50.0 + IDLE_UPLOAD) == []
    with pytest.raises(Aborted):
        machine.expire(60.0 + IDLE_UPLOAD)
    assert not machine.behind


def test_a_slot_is_idle_while_nobody_writes_to_it_or_says_anything() -> None:
    machine = filling()
    assert not machine.is_idle(10.0 + MOMENT)
    assert machine.is_idle(10.1 + MOMENT)
    machine.filled(0, 20.0)
    assert not machine.is_idle(20.0 + MOMENT) and machine.is_idle(20.1 + MOMENT)
    machine.filled(CHUNK, 30.0)
    assert not machine.is_idle(30.1 + MOMENT) and not machine.is_idle(1e9), "it is being filled, however slowly"
    machine.follow()
    assert not machine.is_idle(1e9)


def test_the_digest_is_that_of_what_was_hashed_here() -> None:
    for kind in ("xxh3-128", "sha256"):
        machine = filling(digest_kind=kind)
        machine.filled(len(PAYLOAD), 20.0)
        while machine.behind:
            machine.follow()
        with pytest.raises(DigestMismatch):
            machine.verify("0" * 32)
        assert machine.state is AssemblerState.FAILED


def test_the_buffer_has_the_declared_size() -> None:
    with pytest.raises(LocalProtocolError, match="a buffer of 3 bytes"):
        Assembler(BEGIN, memoryview(bytearray(3)), 0.0)
