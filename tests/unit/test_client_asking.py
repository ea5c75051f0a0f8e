"""A question on the data channel ends by its deadline: answered, refused, or not in time."""

from __future__ import annotations

from typing import Any

import pytest

from broadcaster.protocol.errors import Busy, RemoteProtocolError, RequestTimeout, UnknownModel
from broadcaster.protocol.messages import Error, GetModel, Model, Stats
from broadcaster.protocol.version import ModelInfo
from clients._driver.asking import Ask

INFO = ModelInfo(namespace="default", model_id="policy")


def ask(sent: list[Any]) -> Ask[ModelInfo]:
    def request(request_id: bytes) -> GetModel:
        return GetModel(request_id=request_id, model_id="policy")

    question = Ask(request, Model, lambda answer: answer.model, sent.append, 10.0, 10.0, "get-model policy")
    question.start(0.0)
    return question


def test_silence_is_answered_with_the_same_question_and_less_time() -> None:
    sent: list[Any] = []
    question = ask(sent)
    assert question.deadline == 1.0 and not question.expire(0.9)
    assert question.expire(1.0) and question.expire(2.5)
    assert len({message.request_id for message in sent}) == 1
    assert [message.budget_ms for message in sent] == [10_000, 9_000, 7_500]


def test_an_answer_ends_it() -> None:
    sent: list[Any] = []
    question = ask(sent)
    question.receive(Model(request_id=sent[0].request_id, model=INFO), None, 0.5)
    assert question.over and question.future.result(0) == INFO


def test_a_refusal_is_the_error_that_the_broadcaster_meant() -> None:
    sent: list[Any] = []
    question = ask(sent)
    facts = {"model_id": "policy", "namespace": "default"}
    question.receive(Error(request_id=sent[0].request_id, code="unknown-model", message="", facts=facts), None, 0.5)
    with pytest.raises(UnknownModel, match="no model policy in namespace default"):
        question.future.result(0)


def test_no_answer_in_time_is_a_timeout() -> None:
    question = ask([])
    assert question.expire(10.0) and question.over
    with pytest.raises(RequestTimeout, match="get-model policy did not finish within 10.0 s"):
        question.future.result(0)


def test_a_busy_broadcaster_is_asked_again_when_it_said_so() -> None:
    sent: list[Any] = []
    question = ask(sent)
    busy = Error(request_id=sent[0].request_id, code=Busy.code, message="", facts={"what": "x", "retry_after": 3})
    question.receive(busy, None, 0.5)
    assert not question.over and question.deadline == 3.5
    assert not question.expire(2.0) and question.expire(3.5) and len(sent) == 2
    question.receive(busy, None, 8.0)
    assert isinstance(question.future.exception(0), Busy)


def test_an_answer_to_another_question_is_no_answer() -> None:
    sent: list[Any] = []
    question = ask(sent)
    with pytest.raises(RemoteProtocolError):
        question.receive(Stats(request_id=sent[0].request_id, values={}), None, 0.5)
    assert not question.over
