"""The layout of tensors in a payload, on bytes alone: no array library is needed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broadcaster.protocol import layout as layout_module
from broadcaster.protocol.errors import InvalidPayload
from broadcaster.protocol.layout import ALIGNMENT, DTYPES, MAX_HEADER, MAX_RANK, STRUCTURE, Layout, read_header

TENSORS = [("b", "F32", (2, 3)), ("a", "U8", (5,)), ("c", "F64", ()), ("d", "BF16", (0, 4)), ("e", "I32", (1,))]


def payload(header: object, data: bytes = b"") -> memoryview:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return memoryview(len(text).to_bytes(8, "little") + text + data)


def tensor(dtype: Any, shape: Any, *offsets: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


def test_tensors_lie_by_item_size_then_name_without_holes_from_a_64_byte_boundary():
    made = Layout.of(TENSORS)
    assert [spec.name for spec in made.specs] == ["c", "b", "e", "d", "a"]
    at = len(made.header)
    assert at % ALIGNMENT == 0
    for spec in made.specs:
        assert spec.offset == at
        assert spec.offset % DTYPES[spec.dtype] == 0
        at += spec.nbytes
    assert made.size == at == len(made.header) + 8 + 24 + 4 + 5


@pytest.mark.parametrize("structure", [None, "", '{"dict":[]}', "ü"])
def test_a_parsed_layout_equals_the_one_that_was_written(structure):
    made = Layout.of(TENSORS, structure)
    found = Layout.parse(memoryview(made.header + bytes(made.size - len(made.header))))
    assert found == made
    assert found.structure == structure


def test_a_layout_without_tensors_is_only_a_header():
    made = Layout.of([])
    assert made.size == len(made.header)
    assert Layout.parse(memoryview(made.header)).specs == ()


def test_a_file_of_another_writer_is_read_in_any_order_with_any_padding_and_metadata():
    found = Layout.parse(
        payload(
            b'  {"z":{"shape":[2],"data_offsets":[0,2],"dtype":"U8","note":1},"__metadata__":{"format":"pt"},'
            b'"y":{"dtype":"F64","shape":[1],"data_offsets":[2,10]},'
            b'"none":{"dtype":"F32","shape":[0,9],"data_offsets":[2,2]}}\n ',
            bytes(10),
        )
    )
    assert [spec.name for spec in found.specs] == ["z", "y", "none"]
    assert found.metadata == {"format": "pt"}
    assert found.structure is None


def test_null_metadata_is_none():
    assert Layout.parse(payload(b'{"__metadata__":null}')).metadata == {}


HOSTILE: dict[str, tuple[Any, bytes, str]] = {
    "not UTF-8": (b'{"\xff":1}', b"", "UTF-8"),
    "not JSON": (b"{", b"", "JSON"),
    "empty": (b"", b"", "JSON"),
    "trailing NUL": (b"{}\0", b"", "JSON"),
    "a list": ([], b"", "object"),
    "deep": (b"[" * 100_000, b"", "JSON"),
    "huge number": (b'{"a":' + b"9" * 5000 + b"}", b"", "JSON"),
    "NaN": (b'{"a":NaN}', b"", "NaN"),
    "duplicate": (b'{"a":1,"b":2,"a":3}', b"", "'a'"),
    "duplicate inside": (b'{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}', b"", "'dtype'"),
    "metadata list": ({"__metadata__": []}, b"", "__metadata__"),
    "metadata number": ({"__metadata__": {"a": 1}}, b"", "strings"),
    "entry not object": ({"a": 1}, b"", "'a'"),
    "no dtype": ({"a": {"shape": [1], "data_offsets": [0, 1]}}, b"x", "None"),
    "bad dtype": ({"a": tensor("F33", [1], 0, 4)}, b"xxxx", "F33"),
    "dtype list": ({"a": tensor([], [1], 0, 4)}, b"xxxx", "dtype"),
    "sub-byte dtype": ({"a": tensor("F4", [2], 0, 1)}, b"x", "F4"),
    "no shape": ({"a": {"dtype": "U8", "data_offsets": [0, 1]}}, b"x", "shape"),
    "negative dimension": ({"a": tensor("U8", [-1], 0, 1)}, b"x", "-1"),
    "float dimension": ({"a": tensor("U8", [1.0], 0, 1)}, b"x", "1.0"),
    "bool dimension": ({"a": tensor("U8", [True], 0, 1)}, b"x", "True"),
    "rank": ({"a": tensor("U8", [1] * (MAX_RANK + 1), 0, 1)}, b"x", "dimensions"),
    "overflow": ({"a": tensor("U8", [1 << 62, 1 << 62], 0, 1)}, b"x", "more than"),
    "overflow beside zero": ({"a": tensor("U8", [0, 1 << 62, 4], 0, 0)}, b"", "more than"),
    "no offsets": ({"a": {"dtype": "U8", "shape": [1]}}, b"x", "data_offsets"),
    "three offsets": ({"a": tensor("U8", [1], 0, 1, 1)}, b"x", "two integers"),
    "float offsets": ({"a": tensor("U8", [1], 0.0, 1.0)}, b"x", "two integers"),
    "negative offset": ({"a": tensor("U8", [1], -1, 0)}, b"x", "bounds"),
    "reversed offsets": ({"a": tensor("U8", [1], 1, 0)}, b"x", "bounds"),
    "huge offset": ({"a": tensor("U8", [1], 1 << 63, (1 << 63) + 1)}, b"x", "bounds"),
    "wrong size": ({"a": tensor("F32", [1], 0, 3)}, b"xxx", "span 3"),
    "past the end": ({"a": tensor("U8", [4], 0, 4)}, b"xxx", "after the payload"),
    "left over": ({"a": tensor("U8", [2], 0, 2)}, b"xxx", "1 bytes at the end"),
    "hole": ({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [1], 2, 3)}, b"xxx", "hole of 1"),
    "hole at the start": ({"a": tensor("U8", [1], 1, 2)}, b"xx", "hole of 1"),
    "overlap": ({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 1, 3)}, b"xxx", "overlaps"),
    "same place": ({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [1], 0, 1)}, b"x", "overlaps"),
    "nothing inside another": ({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [0], 1, 1)}, b"xx", "overlaps"),
    "surrogate": (b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', b"", "Unicode"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_broken_header_is_refused_with_where_and_why(case):
    header, data, told = HOSTILE[case]
    with pytest.raises(InvalidPayload) as refused:
        Layout.parse(payload(header, data))
    assert told in str(refused.value)
    assert refused.value.where and refused.value.reason
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "too few"),
        (b"\0" * 7, "too few"),
        ((MAX_HEADER + 1).to_bytes(8, "little"), "over the limit"),
        (b"\xff" * 8, "over the limit"),
        ((3).to_bytes(8, "little") + b"{}", "only 2 follow"),
    ],
)
def test_a_header_that_cannot_be_whole_is_refused(raw, told):
    with pytest.raises(InvalidPayload, match=told):
        read_header(memoryview(raw))


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ([("a", "F32", (1,)), ("a", "U8", (1,))], "same name"),
        ([("__metadata__", "U8", (1,))], "reserved"),
        ([("a", "F128", (1,))], "F128"),
        ([("a", "U8", (-1,))], "-1"),
        ([("\ud800", "U8", ())], "Unicode"),
    ],
)
def test_what_the_format_cannot_hold_is_not_written(tensors, told):
    with pytest.raises(InvalidPayload, match=told):
        Layout.of(tensors)


def test_a_structure_that_is_not_unicode_is_not_written():
    with pytest.raises(InvalidPayload, match=STRUCTURE):
        Layout.of([], "\udfff")


def test_a_header_over_the_limit_is_not_written(monkeypatch):
    monkeypatch.setattr(layout_module, "MAX_HEADER", 1000)
    with pytest.raises(InvalidPayload, match="over the limit of 1000"):
        Layout.of([("a" * 1000, "U8", (1,))])


def test_a_header_from_a_wider_view_counts_bytes():
    made = Layout.of([("a", "F32", (4,))])
    raw = made.header + bytes(16)
    assert Layout.parse(memoryview(raw).cast("Q")) == made
