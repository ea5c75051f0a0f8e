"""A change is made once: whoever asks again gets the first answer."""

from __future__ import annotations

from typing import Any

import pytest

from broadcaster.broker import Timing
from broadcaster.protocol.errors import BroadcasterError, Busy, InvalidRequest, UnknownModel
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.messages import CreateModel, Deleted, GetModel, Message
from broadcaster.server import changes
from broadcaster.server.changes import Changes
from broadcaster.slots import Tracker

ID, OTHER = b"1" * 16, b"2" * 16
ANSWER = Deleted(request_id=ID)


def asked(request_id: bytes, **fields: Any) -> CreateModel:
    return CreateModel(request_id=request_id, model_id="policy", **fields)


class Asker:
    """Whoever waits for an answer, and what it got."""

    def __init__(self, expires: float = 50.0) -> None:
        self.expires = expires
        self.timing = Timing("lab", lambda: 1, lambda: 2)
        self.got: list[object] = []

    def reply(self, message: Message, payload: memoryview | None = None) -> None:
        self.got.append(message)

    def refuse(self, error: BroadcasterError) -> None:
        self.got.append(error)

    def chunk(self, header: ChunkHeader, data: memoryview, *, track: bool) -> Tracker | None:
        self.got.append((header, bytes(data)))
        return None


def test_the_first_answer_is_given_again() -> None:
    known, first, second = Changes(), Asker(), Asker()
    once = known.once(asked(ID), first, 0.0)
    assert once is not None and once.expires == 50.0 and once.timing is first.timing
    once.reply(ANSWER)
    assert known.once(asked(ID), second, 1.0) is None
    assert first.got == [ANSWER] == second.got
    assert known.once(asked(OTHER), second, 1.0) is not None


def test_whoever_asked_last_gets_the_answer_that_is_still_to_come() -> None:
    known, first, second = Changes(), Asker(), Asker(expires=90.0)
    once = known.once(asked(ID), first, 0.0)
    assert once is not None
    assert known.once(asked(ID), second, 1.0) is None
    assert once.expires == 90.0
    once.reply(ANSWER)
    assert (first.got, second.got) == ([], [ANSWER])


def test_a_refusal_for_good_is_an_answer_too() -> None:
    known, first, second = Changes(), Asker(), Asker()
    error = UnknownModel(model_id="policy", namespace="lab")
    once = known.once(asked(ID), first, 0.0)
    assert once is not None
    once.refuse(error)
    assert known.once(asked(ID), second, 1.0) is None
    assert first.got == [error] == second.got


def test_what_may_succeed_later_is_tried_again() -> None:
    known, asker = Changes(), Asker()
    once = known.once(asked(ID), asker, 0.0)
    assert once is not None
    once.refuse(Busy(what="the writer", retry_after=1))
    once = known.once(asked(ID), asker, 1.0)
    assert once is not None
    once.reply(ANSWER)
    assert [type(one) for one in asker.got] == [Busy, Deleted]


def test_bytes_go_to_whoever_asks() -> None:
    asker = Asker()
    once = Changes().once(asked(ID), asker, 0.0)
    assert once is not None
    header = ChunkHeader(ID, 3, 0, 3)
    assert once.chunk(header, memoryview(b"abc"), track=False) is None and asker.got == [(header, b"abc")]


def test_answers_are_kept_for_ten_minutes() -> None:
    known, asker = Changes(), Asker()
    once = known.once(asked(ID), asker, 0.0)
    assert once is not None
    once.reply(ANSWER)
    assert known.once(asked(ID), asker, changes.LASTS - 1) is None
    assert known.once(asked(ID), asker, changes.LASTS) is not None


def test_so_many_answers_are_kept_and_not_more() -> None:
    known, asker = Changes(), Asker()
    for number in range(changes.KEPT + 1):
        assert known.once(asked(number.to_bytes(16, "big")), asker, 0.0) is not None
    assert known.once(asked(bytes(16)), asker, 0.0) is not None, "the oldest was forgotten"
    assert known.once(asked(changes.KEPT.to_bytes(16, "big")), asker, 0.0) is None


def test_an_answer_that_comes_after_it_was_forgotten_still_reaches_its_asker() -> None:
    known, asker = Changes(), Asker()
    once = known.once(asked(ID), asker, 0.0)
    assert once is not None
    known.once(asked(OTHER), asker, 10 * changes.LASTS)
    once.reply(ANSWER)
    once.refuse(Busy(what="the writer", retry_after=1))
    assert asker.got[0] == ANSWER


@pytest.mark.parametrize(
    "other",
    [
        asked(ID, user_data={"step": "2"}),
        asked(ID, user_data={"step": "1"}, exist_ok=True),
        asked(ID, user_data={"step": "1"}, namespace="lab"),
        GetModel(request_id=ID, model_id="policy"),
    ],
)
def test_an_id_is_one_requests(other: Any) -> None:
    known, first, second = Changes(), Asker(), Asker()
    once = known.once(asked(ID, user_data={"step": "1"}), first, 0.0)
    assert once is not None
    with pytest.raises(InvalidRequest, match="request_id"):
        known.once(other, second, 1.0)
    once.reply(ANSWER)
    with pytest.raises(InvalidRequest, match="request_id"):
        known.once(other, second, 2.0)
    assert (first.got, second.got) == ([ANSWER], []), "nobody gets the answer of another request"


def test_what_is_of_the_moment_makes_no_other_request() -> None:
    known, asker = Changes(), Asker()
    assert known.once(asked(ID, user_data={"a": "1", "b": "\ud800"}, budget_ms=900), asker, 0.0) is not None
    again = asked(ID, user_data={"b": "\ud800", "a": "1"}, budget_ms=100, timing=True)
    assert known.once(again, asker, 1.0) is None


def test_an_answer_that_was_forgotten_takes_no_newer_one_with_it() -> None:
    known, asker = Changes(), Asker()
    late = known.once(asked(ID), asker, 0.0)
    newer = known.once(asked(ID), asker, 10 * changes.LASTS)
    assert late is not None and newer is not None
    late.refuse(Busy(what="the writer", retry_after=1))
    newer.reply(ANSWER)
    assert known.once(asked(ID), asker, 10 * changes.LASTS) is None
