"""Facts of errors: attributes, and never in the way of what an error is made of."""

from __future__ import annotations

import copy
import pickle

import pytest

from broadcaster.protocol.errors import Busy, Closed, PayloadTooLarge, from_wire
from broadcaster.protocol.hops import ErrorDetail, Hop
from broadcaster.protocol.messages import Error


def test_facts_are_attributes_and_those_not_given_are_none() -> None:
    error = PayloadTooLarge(model_id="policy", size=9)
    assert (error.model_id, error.size, error.limit) == ("policy", 9, None)
    assert str(error) == "policy: payload of 9 bytes is over the limit of ? bytes (?)"


@pytest.mark.parametrize("name", ["weight", "__wrapped__"])
def test_what_is_no_fact_is_no_attribute(name: str) -> None:
    with pytest.raises(AttributeError):
        getattr(PayloadTooLarge(size=9), name)


def test_a_peers_facts_replace_nothing_that_an_error_is_made_of() -> None:
    facts = {
        "self": 1,
        "args": 2,
        "facts": 3,
        "code": "x",
        "__class__": 4,
        "retryable": False,
        "sentence": "y",
        "what": "the writer",
    }
    error = from_wire("busy", "", dict(facts))
    assert type(error) is Busy and (error.code, error.retryable, error.what) == ("busy", True, "the writer")
    assert error.facts == facts and str(error) == "the writer is busy: try again in ? s"
    assert from_wire("closed", "", {"errno": "x", "what": "it"}).args == Closed(what="it").args


def test_an_error_that_came_knows_its_request_and_what_led_to_it() -> None:
    inner = ErrorDetail(node="lab", role="broadcaster", error_class="OSError", message="no", retryable=False)
    hop = Hop(node="lab", role="broadcaster", received=1, sent=2, queued=3)
    message = Error(request_id=b"\1" * 16, code="busy", message="", facts={"what": "it"}, details=(inner,), hops=(hop,))
    error = message.to_raise()
    for one in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(one), one.request_id, one.details, one.hops) == (Busy, "01" * 16, (inner,), (hop,))
    assert (Busy().request_id, Busy().details, Busy().hops) == (None, (), ())


@pytest.mark.parametrize("retryable", [True, False])
def test_whether_an_unknown_error_may_pass_is_what_the_peer_says(retryable: bool) -> None:
    told = ErrorDetail(node="lab", role="broadcaster", error_class="Tomorrow", message="no", retryable=retryable)
    error = Error(request_id=bytes(16), code="made-tomorrow", message="no", details=(told,)).to_raise()
    assert error.retryable is retryable and copy.deepcopy(error).retryable is retryable
    assert Error(request_id=bytes(16), code="busy", message="", details=(told,)).to_raise().retryable is True
