"""Facts of errors: attributes, and never in the way of what an error is made of."""

from __future__ import annotations

import pytest

from broadcaster.protocol.errors import Busy, Closed, PayloadTooLarge, from_wire


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
