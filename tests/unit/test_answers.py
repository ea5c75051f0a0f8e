"""What of an error leaves the broadcaster: the chain that led to it, and nothing of the disk, unless it runs with --debug."""

from __future__ import annotations

import errno
import re
from dataclasses import fields

import pytest

from broadcaster.protocol.errors import (
    BroadcasterError,
    InvalidName,
    LocalProtocolError,
    NoSpace,
    RequestTimeout,
    StoreUnavailable,
    UnknownModel,
)
from broadcaster.protocol.frames import encode
from broadcaster.protocol.hops import MOST_DETAILS, ErrorDetail, Hop
from broadcaster.protocol.messages import Error
from broadcaster.protocol.names import PATTERN
from broadcaster.server.answers import Answers, host_name
from broadcaster.stats import Stats

ID = b"\7" * 16
ROOTS = {"/srv/models": "archive", "/srv/models/shm": "slots"}


def answers(*, debug: bool = False) -> Answers:
    return Answers(Stats(), "lab-7", ROOTS, debug=debug)


def told(error: BroadcasterError, *, debug: bool = False) -> Error:
    return answers(debug=debug).error(error, ID)


def failed(operation: str, where: str) -> StoreUnavailable:
    """As the archive says it: chained to what the disk said."""
    try:
        try:
            raise OSError(errno.EIO, "Input/output error", f"{where}/ab/cdef")
        except OSError as disk:
            raise StoreUnavailable(operation=operation, where=where, reason=str(disk), hint="Check the disk.") from disk
    except StoreUnavailable as error:
        return error


def test_what_led_to_an_error_is_told_innermost_first() -> None:
    said = told(failed("archiving", "/srv/models/blobs"))
    assert said.details is not None
    assert [(one.node, one.role, one.error_class, one.retryable) for one in said.details] == [
        ("lab-7", "broadcaster", "OSError", False),
        ("lab-7", "broadcaster", "StoreUnavailable", True),
    ]
    assert said.details[0].message == "Input/output error"
    assert said.details[1].message == said.message
    assert said.to_raise().details == said.details


def test_an_error_without_a_cause_is_its_own_only_detail() -> None:
    error = UnknownModel(model_id="policy", namespace="lab")
    assert told(error).details == (
        ErrorDetail(node="lab-7", role="broadcaster", error_class="UnknownModel", message=str(error), retryable=False),
    )


def test_paths_are_told_from_the_archive_on() -> None:
    said = told(failed("archiving", "/srv/models/blobs"))
    assert said.facts["where"] == "archive/blobs"
    assert said.facts["reason"] == "[Errno 5] Input/output error: 'archive/blobs/ab/cdef'"
    assert "/srv" not in repr(said)
    assert told(NoSpace(size=9, where="/srv/models/shm")).facts["where"] == "slots"
    assert "/srv" not in repr(told(NoSpace(size=9, where="/srv/models-of-others/x"))), "another directory is not the archive's"


@pytest.mark.parametrize(
    "text",
    [
        "cannot open /etc/broadcaster/secret",
        "'/home/ann/.cache/a b'",
        "(/usr/lib/python3/x.py:12)",
        "copy /a/b to /c/d",
        "file:/var/lib/x",
    ],
)
def test_no_other_path_of_the_disk_is_told(text: str) -> None:
    said = told(StoreUnavailable(operation="writing", where="the archive", reason=text, hint="See the log"))
    assert not re.search(r"(^|[\s'(:])/\w", str(said.facts["reason"])), said.facts["reason"]
    assert "…" in said.message


def test_what_the_caller_said_is_told_as_it_was() -> None:
    error = InvalidName(what="model", name="'/etc/passwd'", pattern=PATTERN)
    assert told(error).message == str(error)
    ratio = StoreUnavailable(operation="writing", where="archive/blobs", reason="1/2 of lab/policy at 7/8", hint="and/or wait")
    assert told(ratio).message == str(ratio)


def test_of_an_error_that_is_not_ours_the_first_line_is_told() -> None:
    error = StoreUnavailable(operation="a change", where="the archive", reason="it failed", hint="See the log")
    error.__cause__ = ValueError("disk I/O error\n[SQL: INSERT INTO models VALUES (?)]\n[parameters: ('secret',)]")
    said = told(error)
    assert said.details is not None and said.details[0].message == "disk I/O error"
    assert "secret" not in repr(said)


def test_with_debug_all_is_told() -> None:
    said = told(failed("archiving", "/srv/models/blobs"), debug=True)
    assert said.details is not None
    inner, outer = said.details
    assert "/srv/models/blobs/ab/cdef" in inner.message and "/srv/models/blobs" in said.message
    assert inner.traceback is not None and "raise OSError" in inner.traceback
    assert outer.traceback is not None and "raise StoreUnavailable" in outer.traceback
    assert all(one.traceback is None for one in told(failed("a", "/srv")).details or ())


@pytest.mark.parametrize("debug", [False, True])
def test_however_much_went_wrong_it_fits_into_a_message(debug: bool) -> None:
    error: BaseException = OSError(errno.EIO, "✓" * 5000, b"/srv/\xff\xfe".decode("utf-8", "surrogateescape"))
    for _ in range(40):
        outer = StoreUnavailable(operation="✓" * 5000, where="\udc80" * 5000, reason="✓" * 5000, hint="✓" * 5000)
        outer.__cause__, error = error, outer
    assert isinstance(error, StoreUnavailable)
    said = told(error, debug=debug)
    assert said.details is not None and 1 < len(said.details) <= MOST_DETAILS
    assert encode(said)


def test_what_another_node_said_stands_before_what_this_one_says() -> None:
    upstream = ErrorDetail(node="hub", role="broadcaster", error_class="OSError", message="no", retryable=False)
    inner, outer = RequestTimeout(what="reading", timeout=1), StoreUnavailable(operation="a", where="b", reason="c", hint="d")
    inner.details, outer.__cause__ = (upstream,), inner
    found = told(outer).details
    assert found is not None and found[0] == upstream
    assert [one.error_class for one in found] == ["OSError", "RequestTimeout", "StoreUnavailable"]


def test_whoever_made_no_request_is_answered_with_the_id_that_the_error_knows() -> None:
    error = LocalProtocolError(reason="no")
    assert told(error).request_id == ID and answers().error(error, bytes(16)).request_id == bytes(16)
    error.request_id = "05" * 16
    error.hops = (Hop(node="lab-7", role="broadcaster", received=1, sent=2, queued=0),)
    said = answers().error(error, bytes(16), upload_id=ID)
    assert (said.request_id, said.upload_id, said.hops) == (b"\5" * 16, ID, error.hops)
    assert answers().error(error, ID).request_id == ID


def test_the_hosts_name_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, name in (("lab-7.example.org", "lab-7"), ("-", "broadcaster"), ("a b/c", "abc"), ("x" * 300, "x" * 128)):
        monkeypatch.setattr("socket.gethostname", lambda given=given: given)
        assert host_name() == name and re.fullmatch(PATTERN, name)


def test_the_log_has_all_that_clients_are_not_told_once_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    caplog.set_level("DEBUG", "broadcaster.server")
    made = answers()
    for number in range(5):
        made.error(failed("archiving", "/srv/models/blobs"), bytes([number]) * 16)
    now += 1
    made.error(failed("archiving", "/srv/models/blobs"), ID)
    made.error(UnknownModel(model_id="policy", namespace="lab"), ID)
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.args[1] for record in warned if isinstance(record.args, tuple)] == ["00" * 16, "07" * 16]
    assert all("/srv/models/blobs" in record.getMessage() for record in warned)
    assert len(caplog.records) == 7 and ID.hex() in caplog.records[-1].getMessage()


def test_a_timing_is_of_one_request() -> None:
    timing = answers().timing()
    (hop,) = timing.hops()
    assert (hop.node, hop.role, hop.queued) == ("lab-7", "broadcaster", 0) and 0 < hop.received <= hop.sent
    assert [field.name for field in fields(hop)] == ["node", "role", "received", "sent", "queued"]
