"""Hostile bytes against the readers of payloads: a tree comes out, or InvalidPayload, and nothing else ever."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadcaster.protocol.errors import InvalidPayload
from broadcaster.protocol.layout import DTYPES, STRUCTURE, Layout
from broadcaster.protocol.version import TENSORS
from clients.codec import decode
from clients.codec.structure import loads

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(sorted(DTYPES)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
SMALL = st.integers(-2, 40) | st.integers()
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(sorted(DTYPES)) | JSON,
        "shape": st.lists(SMALL, max_size=3) | JSON,
        "data_offsets": st.lists(SMALL, min_size=2, max_size=2) | JSON,
    }
)
NODE = st.recursive(
    st.sampled_from(["a", "b", "nobody"]) | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda inner: (
        st.fixed_dictionaries({"dict": st.lists(st.tuples(st.text(max_size=3) | st.integers(), inner) | inner, max_size=3)})
        | st.fixed_dictionaries({"list": st.lists(inner, max_size=3)})
        | st.fixed_dictionaries({"tuple": st.lists(inner, max_size=3) | inner})
        | st.fixed_dictionaries({"namedtuple": st.tuples(st.text(max_size=3), st.lists(st.text(max_size=3)), st.lists(inner))})
        | st.dictionaries(st.sampled_from(["scalar", "int", "float", "complex"]), st.text(max_size=9) | inner, max_size=1)
    ),
    max_leaves=10,
)


def parse(raw: bytes) -> None:
    """Reads `raw` down to the last view."""
    try:
        found = Layout.parse(memoryview(raw))
    except InvalidPayload:
        return
    assert sum(spec.nbytes for spec in found.specs) == found.size - len(found.header)
    try:
        decode(np.frombuffer(raw, np.uint8), TENSORS).tree()
    except InvalidPayload:
        return


def framed(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


@given(st.binary(max_size=200))
def test_random_bytes(raw):
    parse(raw)


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_random_headers(header, data):
    parse(framed(header, data))


@settings(max_examples=300)
@given(JSON | st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), ENTRY | JSON, max_size=3), st.binary(max_size=60))
def test_random_json(header, data):
    parse(framed(json.dumps(header).encode(), data))


@settings(max_examples=300)
@given(NODE | JSON)
def test_random_structures(node):
    entry = {"dtype": "U8", "shape": [1]}
    header = {
        "__metadata__": {STRUCTURE: json.dumps(node)},
        "a": {**entry, "data_offsets": [0, 1]},
        "b": {**entry, "data_offsets": [1, 2]},
    }
    parse(framed(json.dumps(header).encode(), b"xy"))


@given(st.text(max_size=60))
def test_random_structure_text(text):
    with pytest.raises(InvalidPayload):
        loads(text, frozenset({"a tensor that no random text names"}))


@pytest.mark.parametrize("seed", range(40))
def test_a_good_payload_with_damaged_bytes(seed):
    rng = random.Random(seed)
    structure = '{"dict":[["w",{"tuple":["w",{"float":"7ff8000000000000"}]}],[3,{"namedtuple":["P",["x"],["b"]]}]]}'
    made = Layout.of([("w", "F32", (2, 2)), ("b", "BF16", (3,))], structure)
    good = made.header + bytes(made.size - len(made.header))
    for _ in range(50):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        parse(bytes(bad[: rng.choice([len(bad), rng.randrange(len(bad))])]))
