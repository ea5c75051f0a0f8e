"""Trees of weights: their shape comes back as it was, and what cannot be sent is named by its path."""

from __future__ import annotations

import datetime
import enum
import math
from collections import OrderedDict, defaultdict, namedtuple
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from broadcaster.protocol.errors import InvalidPayload
from broadcaster.protocol.version import TENSORS
from clients.codec import decode, plan
from tests.conformance.weights import framework, payload, same_bits, sent


class Layer(NamedTuple):
    weight: Any
    bias: Any = None


Empty = namedtuple("Empty", [])

KEYS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from(["a", "a.b", "b"])
)
ARRAYS = arrays.arrays(
    st.sampled_from(["?", "u1", "<i2", ">i4", "<f2", ">f4", "f8", "c8"]),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.complex_numbers()
    | st.integers().map(lambda n: n << 200)
)
TREES = st.recursive(
    ARRAYS | SCALARS | ARRAYS.map(lambda a: a.reshape(-1)[0] if a.size else None),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.builds(Layer, inner, inner)
        | st.just(Empty())
    ),
    max_leaves=12,
)


def equal(sent_tree: Any, received: Any) -> bool:
    """The same shape, with the same keys in the same order, and leaves equal in bits and kind."""
    if isinstance(sent_tree, dict):
        return (
            type(received) is dict
            and list(received) == list(sent_tree)
            and all(equal(sent_tree[k], received[k]) for k in sent_tree)
        )
    if isinstance(sent_tree, (list, tuple)):
        if getattr(sent_tree, "_fields", None) != getattr(received, "_fields", None) or len(sent_tree) != len(received):
            return False
        if hasattr(sent_tree, "_fields") and type(sent_tree).__name__ != type(received).__name__:
            return False
        kinds = isinstance(received, list) == isinstance(sent_tree, list)
        return kinds and all(equal(a, b) for a, b in zip(sent_tree, received, strict=True))
    if isinstance(sent_tree, (np.ndarray, np.generic)):
        native = sent_tree.astype(sent_tree.dtype.newbyteorder("<"))
        return isinstance(received, np.ndarray) == isinstance(sent_tree, np.ndarray) and same_bits(native, received)
    return type(received) is type(sent_tree) and repr(received) == repr(sent_tree)


@given(TREES)
def test_any_tree_comes_back_equal(tree):
    received = sent(tree).tree()
    assert equal(tree, received)


@given(TREES)
def test_any_tree_comes_back_in_its_own_classes_with_like(tree):
    assert equal(tree, sent(tree).tree(like=tree))


@given(TREES)
def test_a_received_tree_makes_the_same_payload_again(tree):
    first = payload(tree)
    assert payload(decode(first, TENSORS).tree()).tobytes() == first.tobytes()


@pytest.mark.parametrize(
    "tree", [{}, [], (), Empty(), None, 3, math.nan, -math.inf, 10**400, -(2**63), 2**63, True, {"a": {}, "b": [[], ()]}]
)
def test_a_tree_without_tensors_is_fine(tree):
    tensors = sent(tree)
    assert len(tensors) == 0 and list(tensors) == []
    assert equal(tree, tensors.tree())


def test_a_bare_array_is_a_tree():
    tensors = sent(np.arange(3))
    assert list(tensors) == ["tensor"]
    assert same_bits(tensors.tree(), np.arange(3))


def test_a_namedtuple_comes_back_equal_and_as_the_users_class_with_like():
    given = {"enc": Layer(1, None), "opt": (Layer(np.zeros(2), 2.5),)}
    received = sent(given).tree()
    assert received["enc"] == given["enc"] and type(received["enc"]).__name__ == "Layer"
    assert received["opt"][0].bias == 2.5
    assert type(received["enc"]) is not Layer
    assert type(sent(given).tree(like=given)["opt"][0]) is Layer


def test_names_are_paths_and_those_of_a_state_dict_are_its_keys():
    zero = np.zeros(1)
    tensors = sent(
        OrderedDict([("fc1.weight", zero), ("fc1.bias", zero), ("blocks", [zero, {"k": (zero, Layer(zero))}]), ("0", zero)])
    )
    assert list(tensors) == ["fc1.weight", "fc1.bias", "blocks.0", "blocks.1.k.0", "blocks.1.k.1.weight", "0"]


def test_names_that_collide_are_told_apart_and_each_leaf_comes_home():
    given = {
        "a.b": np.array(1),
        "a": {"b": np.array(2), "b#2": np.array(3)},
        "": np.array(4),
        "__metadata__": np.array(5),
        1: np.array(6),
    }
    given["1"] = np.array(7)
    tensors = sent(given)
    assert len(set(tensors)) == 7 and "__metadata__" not in tensors
    assert equal(given, tensors.tree())
    swapped = {"a": {"b": 0, "b#2": 0}, "a.b": 0, "__metadata__": 0, "": 0, "1": 0, 1: 0}
    received = tensors.tree(like=swapped)
    assert (received["a.b"], received["a"]["b"], received["a"]["b#2"], received["1"], received[1]) == (1, 2, 3, 7, 6)


def test_like_decides_the_classes_of_containers():
    given = {"w": [np.zeros(1), {"v": 1}]}
    for like in (OrderedDict(w=[0, defaultdict(int, v=0)]), MappingProxyType({"w": (0, {"v": 0})})):
        received = sent(given).tree(like=like)
        assert type(received) is type(like)
        assert type(received["w"]) is type(like["w"])
        assert type(received["w"][1]) is dict


def test_like_finds_flat_names_in_nested_trees_and_the_other_way_round():
    flat, nested = {"fc.w": np.array(1), "fc.b": 2}, {"fc": Layer(np.array(1), 2)}
    assert sent(flat).tree(like={"fc": {"w": 0, "b": 0}}) == {"fc": {"w": 1, "b": 2}}
    assert sent(nested).tree(like={"fc.weight": 0, "fc.bias": 0}) == {"fc.weight": 1, "fc.bias": 2}


def test_like_with_other_leaves_names_them_all():
    tensors = sent({"a": np.zeros(1), "b": np.zeros(1), "n": None})
    with pytest.raises(InvalidPayload, match=r"missing: c, d\.e; unexpected: a$"):
        tensors.tree(like={"b": 0, "c": 0, "d": {"e": 0}})


def test_received_tensors_can_be_published_again():
    tensors = sent({"w": np.arange(3), "b": {"x": np.ones(2)}})
    again = sent(tensors)
    assert {name: array.tolist() for name, array in again.items()} == {"w": [0, 1, 2], "b.x": [1, 1]}


def _cycle() -> list[Any]:
    found: list[Any] = [np.zeros(1)]
    found.append({"again": [found]})
    return found


def _deep() -> Any:
    tree: Any = np.zeros(1)
    for _ in range(150):
        tree = [tree]
    return tree


def _bomb() -> Any:
    tree: Any = 1
    for _ in range(60):
        tree = [tree, tree]
    return tree


class Colour(enum.IntEnum):
    RED = 1


REFUSED: dict[str, tuple[Any, str]] = {
    "text": ({"a": {"b": "hello"}}, r"'a\.b'.*builtins\.str"),
    "bare text": ("weights.bin", "builtins.str"),
    "bytes inside": ({"a": b"x"}, "'a'.*builtins.bytes"),
    "a set": ({"a": {1, 2}}, "'a'.*builtins.set"),
    "an object": ([object()], "'0'.*builtins.object"),
    "a class": ({"a": np.float32}, "'a'.*builtins.type"),
    "a dtype": ({"a": np.dtype("f4")}, "'a'.*no tensor"),
    "an enum": ({"a": Colour.RED}, "'a'.*Colour"),
    "a date": ({"a": datetime.date(2000, 1, 1)}, "'a'.*datetime.date"),
    "objects": ({"a": np.array([None, 1])}, "'a'.*object"),
    "times": ({"a": np.array(["2000-01-01"], "M8[D]")}, r"'a'.*datetime64"),
    "spans": ({"a": np.timedelta64(1, "s")}, r"'a'.*timedelta64"),
    "strings": ({"a": np.array(["x"])}, "'a'.*<U1"),
    "records": ({"a": np.zeros(2, [("x", "f4")])}, "'a'.*dtype"),
    "complex128": ({"a": np.zeros(2, complex)}, "'a'.*complex128"),
    "masked": ({"a": np.ma.masked_array([1, 2], [0, 1])}, "'a'.*mask"),
    "tuple key": ({"a": {(1, 2): np.zeros(1)}}, r"'a'.*\(1, 2\) of type tuple"),
    "bool key": ({True: np.zeros(1)}, "True of type bool"),
    "numpy key": ({np.int64(1): np.zeros(1)}, "int64"),
    "huge key": ({2**63: np.zeros(1)}, "64 bits"),
    "surrogate": ({"\ud800": np.zeros(1)}, "Unicode"),
    "itself": (_cycle(), r"'1\.again\.0'.*holds itself"),
    "depth": (_deep(), "deeper than 100"),
    "nodes": (_bomb(), "more than 1000000 nodes"),
    "field count": (namedtuple("Wide", [f"f{at}" for at in range(1001)])(*range(1001)), "NamedTuple"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_sent_is_refused_with_its_path_and_type(case):
    tree, told = REFUSED[case]
    with pytest.raises(InvalidPayload, match=told):
        plan(tree)


@pytest.mark.parametrize(
    ("name", "fields"),
    [("class", ["a"]), ("P", ["_a"]), ("P", ["a", "a"]), ("P", ["def"]), ("P", ["a=print(1)"]), ("", []), ("P", [1])],
)
def test_a_namedtuple_of_names_that_are_no_identifiers_is_never_made(name, fields):
    from clients.codec.structure import dumps, loads

    with pytest.raises(InvalidPayload, match="no NamedTuple"):
        loads(__import__("json").dumps({"namedtuple": [name, fields, [None] * len(fields)]}), frozenset())
    assert dumps(Layer(1)) == '{"namedtuple":["Layer",["weight","bias"],[1,null]]}'


def test_identifiers_that_the_compiler_would_fold_into_one_are_refused():
    from clients.codec.structure import loads

    with pytest.raises(InvalidPayload, match="no NamedTuple"):
        loads('{"namedtuple":["P",["fi","\\ufb01"],[1,2]]}', frozenset())
    assert loads('{"namedtuple":["P",["\\u03bc"],[1]]}', frozenset())._fields == ("μ",)


@pytest.mark.parametrize(
    ("structure", "told"),
    [
        ('"nobody"', "no tensor 'nobody'"),
        ('["w"]', "unknown node"),
        ('{"list":["w","w"]}', "twice"),
        ("null", "leaves out the tensor 'w'"),
        ('{"dict":[["a","w"],["a",1]]}', "new key"),
        ('{"dict":[[true,"w"]]}', "new key"),
        ('{"float":"00"}', "JSON"),
        ('{"int":"zz"}', "JSON"),
        ('{"list":' * 150 + "[]" + "}" * 150, "unknown node|deeper"),
        ('{"list":[' * 150 + "]}" * 150, "deeper"),
        ("[" * 100_000, "JSON"),
        ("NaN", "NaN"),
    ],
)
def test_a_structure_that_lies_is_refused(structure, told):
    from clients.codec.structure import loads

    with pytest.raises(InvalidPayload, match=told):
        loads(structure, frozenset(["w"]))


def _torch_cases() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        fake = torch.zeros(2)
    return {
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "meta": torch.zeros(3, device="meta"),
        "fake": fake,
        "lazy": torch.nn.LazyLinear(3).weight,
        "complex128": torch.zeros(2, dtype=torch.complex128),
        "a module": torch.nn.Linear(1, 1),
        "a dtype": torch.float32,
    }


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("case", ["sparse", "csr", "meta", "fake", "lazy", "complex128", "a module", "a dtype"])
def test_what_is_not_one_dense_torch_tensor_is_refused_with_its_path(case):
    framework("torch")
    with pytest.raises(InvalidPayload, match=r"'a\.b'"):
        plan({"a": {"b": _torch_cases()[case]}})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantized_nested_and_sharded_torch_tensors_are_refused():
    framework("torch")
    import torch
    from torch.testing._internal.two_tensor import TwoTensor

    cases = [torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), TwoTensor(torch.zeros(2), torch.zeros(2))]
    for layout in (torch.strided, torch.jagged):
        cases.append(torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=layout))
    for tensor in cases:
        with pytest.raises(InvalidPayload, match="'a'"):
            plan({"a": tensor})


def test_torch_tensors_of_every_kind_of_view_come_back_equal():
    framework("torch")
    import torch

    base = torch.randn(4, 6, dtype=torch.complex64)
    tied = torch.nn.Parameter(torch.randn(3, 3))
    given = {
        "conj": base.conj(),
        "neg": base.conj().imag,
        "transposed": base.t(),
        "expanded": torch.arange(3).expand(5, 3),
        "strided": torch.randn(8, 8)[::2, 1::3],
        "parameter": tied,
        "tied": tied,
        "half, transposed": torch.randn(4, 6).to(torch.bfloat16).t(),
        "grad, half": torch.nn.Parameter(torch.randn(4).to(torch.bfloat16)),
        "buffer": torch.nn.Buffer(torch.randn(2)),
        "number": torch.tensor(3),
        "large conj": torch.randn(300, 300, dtype=torch.complex64).conj(),
    }
    received = sent(given, ahead=1 << 20).torch()  # a tensor that numpy cannot view is written whole
    assert list(received) == list(given)
    for name, tensor in given.items():
        assert torch.equal(received[name], tensor.detach()), name
        assert received[name].dtype == tensor.dtype and not received[name].requires_grad


@pytest.mark.parametrize("case", ["tracer", "key", "deleted"])
def test_a_jax_value_without_elements_is_refused_with_its_path(case):
    framework("jax")
    import jax
    import jax.numpy as jnp

    gone = jnp.arange(3.0)
    gone.delete()
    with pytest.raises(InvalidPayload, match="'a'"):
        if case == "tracer":
            jax.jit(lambda x: plan({"a": x}) and x)(1.0)
        else:
            plan({"a": {"key": jax.random.key(0), "deleted": gone}[case]})


def test_jax_refuses_to_halve_a_tensor_silently():
    framework("jax")
    import jax

    tensors = sent({"w": np.arange(3.0)})
    with pytest.raises(InvalidPayload, match="jax_enable_x64"):
        tensors.jax()
    with jax.enable_x64(True):
        assert tensors.jax()["w"].dtype == np.float64


def test_jax_trees_come_back_with_jax_arrays():
    framework("jax")
    import jax
    import jax.numpy as jnp

    given = {"p": Layer(jnp.arange(3.0), jnp.ones((2,), jnp.bfloat16)), "step": 3, "none": None}
    received = sent(given).jax(like=given)
    assert type(received["p"]) is Layer and received["step"] == 3
    assert jax.tree.structure(received) == jax.tree.structure(given)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()) if hasattr(a, "all") else a == b, received, given))
