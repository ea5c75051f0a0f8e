"""One suite for every framework: what goes in comes out equal, bit for bit, and the safetensors library agrees."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest

from broadcaster.protocol.errors import InvalidPayload, LocalProtocolError, MissingDependency
from broadcaster.protocol.layout import DTYPES, Layout
from broadcaster.protocol.version import OPAQUE, TENSORS
from clients.codec import PIECE, LayoutCache, decode, plan
from clients.codec.numpy import STORAGE
from tests.conformance.weights import SHAPES, Framework, aligned, copied, framework, payload, random_array, same_bits, sent, until

NAMES = ["numpy", "torch", "jax"]


@pytest.fixture(params=NAMES)
def codec(request: pytest.FixtureRequest) -> Framework:
    return framework(request.param)


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_shape_comes_back_bit_for_bit(codec, dtype):
    arrays = {f"x{shape}": random_array(dtype, shape, seed) for seed, shape in enumerate(SHAPES)}
    given = {name: codec.make(array, dtype) for name, array in arrays.items()}
    if dtype in ("BF16",) or dtype.startswith("F8"):
        given = {name: leaf for name, leaf in given.items() if codec.name != "numpy"} or _ml(arrays, dtype)
    received = codec.received(sent(given))
    assert list(received) == list(given)
    for name, array in arrays.items():
        assert tuple(received[name].shape) == array.shape
        assert bits(codec.bits(received[name])) == bits(array), name
        assert received[name].dtype == given[name].dtype


def _ml(arrays: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    from broadcaster.protocol.layout import TensorSpec
    from clients.codec.numpy import _ml_dtype

    return {name: array.view(_ml_dtype(TensorSpec(name, dtype, (), 0, 0))) for name, array in arrays.items()}


@pytest.mark.parametrize("seed", range(20))
def test_the_safetensors_library_reads_what_we_write(codec, seed):
    safetensors = pytest.importorskip("safetensors")
    rng = np.random.default_rng(seed)
    dtypes = [str(name) for name in rng.choice(list(DTYPES), 6)]
    arrays = [
        (f"t{at}", dtype, random_array(dtype, SHAPES[int(rng.integers(len(SHAPES)))], seed)) for at, dtype in enumerate(dtypes)
    ]
    if codec.name == "numpy":
        given = {name: leaf for name, dtype, array in arrays for leaf in _as_leaf(array, dtype)}
    else:
        given = {name: codec.make(array, dtype) for name, dtype, array in arrays}
    theirs = {name: told for name, told in safetensors.deserialize(payload(given).tobytes())}
    assert set(theirs) == {name for name, _, _ in arrays}
    for name, dtype, array in arrays:
        assert theirs[name]["dtype"] == dtype
        assert tuple(theirs[name]["shape"]) == array.shape
        assert bytes(theirs[name]["data"]) == array.tobytes()


def _as_leaf(array: np.ndarray, dtype: str) -> list[np.ndarray]:
    return list(_ml({"x": array}, dtype).values()) if STORAGE[dtype] == np.uint8 and dtype != "U8" or dtype == "BF16" else [array]


@pytest.mark.parametrize("metadata", [None, {"format": "np"}])
def test_we_read_what_the_safetensors_library_writes(codec, metadata):
    library = pytest.importorskip("safetensors.numpy")
    arrays = {f"{dtype}.{at}": random_array(dtype, shape, at) for dtype in _plain() for at, shape in enumerate(SHAPES)}
    root = np.frombuffer(library.save(arrays, metadata=metadata), np.uint8)
    tensors = decode(root, TENSORS)
    assert tensors.layout.metadata == (metadata or {})
    received = codec.received(tensors)
    assert set(received) == set(arrays)
    for name, array in arrays.items():
        assert bits(codec.bits(received[name])) == bits(array), name
    assert set(tensors.tree()) == set(arrays)


def _plain() -> list[str]:
    return [dtype for dtype in DTYPES if not dtype.startswith("F8") and dtype != "BF16"]


def test_we_read_the_bfloat16_that_the_safetensors_library_writes():
    torch, library = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    given = {"w": torch.randn(3, 5).to(torch.bfloat16), "v": torch.randn(4).to(torch.float8_e4m3fn)}
    tensors = decode(np.frombuffer(library.save(given), np.uint8), TENSORS)
    received = tensors.torch()
    assert all(torch.equal(received[name].view(torch.uint8), given[name].view(torch.uint8)) for name in given)
    assert np.array_equal(tensors["w"].astype(np.float32), given["w"].float().numpy())


STRANGE = {
    "fortran": lambda a: np.asfortranarray(a),
    "transposed": lambda a: a.T,
    "strided": lambda a: a[::2, 1::3],
    "negative strides": lambda a: a[::-1, ::-2],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "big-endian, strided": lambda a: a.astype(a.dtype.newbyteorder(">"))[:, ::2],
    "broadcast": lambda a: np.broadcast_to(a[:1], (9, a.shape[1])),
    "misaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "memory order of a slice": lambda a: a[:, 3],
}


@pytest.mark.parametrize("dtype", ["F32", "F64", "F16", "I16", "U64", "C64", "BOOL", "I8"])
@pytest.mark.parametrize("shape", [(6, 8), (3, PIECE // 8 + 1), (PIECE + 3, 5)])
@pytest.mark.parametrize("kind", STRANGE)
def test_strange_arrays_come_back_equal_in_c_order_and_little_endian(kind, shape, dtype):
    array = STRANGE[kind](random_array(dtype, shape, 7))
    received = sent({"a": array, "b": np.arange(3)})["a"]
    assert received.flags.c_contiguous and received.flags.aligned
    assert received.dtype == array.dtype.newbyteorder("<")
    assert same_bits(received, np.ascontiguousarray(array).astype(received.dtype, copy=False))


def test_nan_keeps_its_bits_on_every_path():
    given = {
        "quiet": np.array([0x7FC00001, 0xFFC12345], np.uint32).view(np.float32),
        "signalling": np.array([0x7F800001], np.uint32).view(np.float32),
        "swapped": np.array([0x7F800001, 0x7FC00001], np.uint32).view(np.float32).astype(">f4"),
        "strided": np.array([0x7F800001, 0, 0x7FC00777, 0], np.uint32).view(np.float32)[::2],
        "half": np.array([0x7C01, 0xFE01], np.uint16).view(np.float16),
        "double": np.array([0x7FF0000000000001], np.uint64).view(np.float64),
    }
    received = sent(given)
    for name, array in given.items():
        assert received[name].tobytes() == np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes(), name


def test_views_are_read_only_and_made_once():
    tensors = decode(payload({"w": np.arange(6.0).reshape(2, 3)}).copy(), TENSORS)  # even where the payload itself can be written
    assert tensors["w"] is tensors["w"]
    with pytest.raises(ValueError, match="read-only"):
        tensors["w"][0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        tensors["w"].flags.writeable = True
    with pytest.raises(KeyError):
        tensors["v"]
    assert "w" in tensors and "v" not in tensors and len(tensors) == 1
    assert "1 tensors" in repr(tensors)


def test_the_root_lives_as_long_as_any_view_of_any_framework(codec):
    sent_bytes = payload({"w": np.arange(64, dtype=np.float32), "empty": np.empty((0, 2), np.float32)})
    root = aligned(sent_bytes)
    ended = weakref.ref(root)
    view = codec.received(decode(root, TENSORS))["w"]
    view = view if codec.name == "jax" else view[3:5]  # a slice of a jax array is a copy
    del root
    gc.collect()
    assert ended() is not None
    assert np.asarray(view)[-1] == (63.0 if codec.name == "jax" else 4.0)
    del view
    assert until(lambda: ended() is None)


def test_the_root_lives_when_it_is_itself_a_slice_of_a_kept_array():
    kept = np.zeros(4096, np.uint8)
    raw = payload({"w": np.arange(3.0)})
    kept[: raw.size] = raw
    root = kept[: raw.size]
    ended = weakref.ref(root)
    view = memoryview(decode(root, TENSORS)["w"])
    del root
    gc.collect()
    assert ended() is not None
    del view
    gc.collect()
    assert ended() is None


def test_torch_views_share_the_payloads_memory_and_do_not_warn():
    framework("torch")
    tensors = sent({"w": np.arange(64, dtype=np.float32), "b": np.array(3, np.int64)})
    received = tensors.torch()
    assert received["w"].data_ptr() == tensors["w"].ctypes.data
    assert received["b"].shape == ()


@pytest.mark.parametrize("shift", [1, 2, 4, 8])
def test_a_foreign_file_with_misaligned_tensors_is_read(codec, shift):
    arrays = {dtype: random_array(dtype, (3,), 5) for dtype in ("U8", "F64", "F16", "I32", "C64", "BOOL")}
    entries, data = {}, b""
    for name, array in arrays.items():
        entries[name] = {"dtype": name, "shape": [3], "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    header = json.dumps(entries).encode()
    header += b" " * ((shift - 8 - len(header)) % 16)
    raw = np.zeros(8 + len(header) + len(data) + 16, np.uint8)
    start = -raw.ctypes.data % 16
    root = raw[start : start + 8 + len(header) + len(data)]
    root[:] = np.frombuffer(len(header).to_bytes(8, "little") + header + data, np.uint8)
    received = codec.received(decode(root, TENSORS))
    for name, array in arrays.items():
        assert bits(codec.bits(received[name])) == bits(array), name
        assert codec.name != "torch" or received[name].data_ptr() % received[name].dtype.itemsize == 0


def test_a_layout_is_made_once_while_the_tensors_stay_the_same():
    cache = LayoutCache()
    first = plan({"w": np.zeros((3, 4)), "n": 1}, cache)
    again = plan({"w": np.ones((3, 4)), "n": 1}, cache)
    assert again.layout is first.layout
    assert decode(copied(again), TENSORS)["w"].all()
    for changed in ({"w": np.zeros((4, 3)), "n": 1}, {"w": np.zeros((3, 4), "f4"), "n": 1}, {"v": np.zeros((3, 4)), "n": 1}):
        assert plan(changed, cache).layout is not first.layout
        assert plan({"w": np.zeros((3, 4)), "n": 1}, cache).layout == first.layout


@pytest.mark.parametrize("number", [1, 1.0, True, float("nan"), -0.0, 0.0, 1 + 0j])
def test_a_cached_layout_never_brings_back_an_equal_number_of_another_kind(number):
    cache = LayoutCache()
    for other in (1, 0.0, number):
        received = decode(payload({"w": np.zeros(1), "n": other}, cache), TENSORS).tree()["n"]
        assert (type(received), repr(received)) == (type(other), repr(other))


def test_a_plan_copies_what_the_weights_hold_at_that_moment():
    weights = np.zeros(PIECE)
    made = plan({"w": weights})
    copied(made)
    weights += 1
    assert decode(copied(made), TENSORS)["w"].all()


def test_a_buffer_too_small_or_read_only_is_our_own_mistake():
    made = plan(np.zeros(8))
    for buffer in (memoryview(bytearray(made.size - 1)), memoryview(bytes(made.size))):
        with pytest.raises(LocalProtocolError, match="writable buffer"):
            made.copy_into(buffer, print)


def test_frameworks_mix_in_one_tree():
    torch, jax = framework("torch"), framework("jax")
    one = np.arange(4, dtype=np.float32)
    given = {
        "n": one,
        "t": torch.make(one, "F32"),
        "j": jax.make(one, "F32"),
        "b": torch.make(random_array("BF16", (3,)), "BF16"),
    }
    received = sent(given)
    assert all(same_bits(received[name], one) for name in "ntj")


@pytest.mark.parametrize(
    "case", [b"", b"abc", bytearray(b"xyz"), memoryview(b"abcdef")[1:4], memoryview(bytes(range(8))).cast("I")]
)
def test_bytes_are_opaque_and_stay_as_they_are(case):
    made = plan(case)
    assert (made.content_type, made.size) == (OPAQUE, memoryview(case).nbytes)
    assert copied(made).tobytes() == bytes(case)
    with pytest.raises(InvalidPayload, match=OPAQUE):
        decode(copied(made), made.content_type)


def test_large_bytes_are_copied_in_pieces():
    raw = np.random.default_rng(0).bytes(3 * PIECE + 17)
    assert copied(plan(raw)).tobytes() == raw


def test_a_memoryview_with_strides_is_refused():
    with pytest.raises(InvalidPayload, match="strides"):
        plan(memoryview(b"abcdef")[::2])


def test_bfloat16_without_ml_dtypes_names_the_extra_and_torch_does_not_need_it(monkeypatch):
    torch = framework("torch")
    tensors = sent({"w": torch.make(random_array("BF16", (3,), 1), "BF16"), "v": np.zeros(2)})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(MissingDependency, match=r"'w' of dtype BF16 needs ml_dtypes.*\[bfloat16\]") as missing:
        tensors["w"]
    assert isinstance(missing.value, ImportError)
    assert bits(torch.bits(tensors.torch()["w"])) == bits(random_array("BF16", (3,), 1))
    assert tensors["v"].shape == (2,)


def test_numpy_weights_import_no_other_framework():
    script = """
import sys, numpy as np
from clients.codec import plan, decode, load_into
made = plan({"w": np.arange(3.0), "n": 1})
buffer = np.zeros(made.size, np.uint8)
made.copy_into(buffer.data, lambda total: None)
tensors = decode(buffer, made.content_type)
load_into(tensors, {"w": np.zeros(3), "n": 1}); tensors.tree()
print(sorted({"torch", "jax", "ml_dtypes", "safetensors"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_header_of_a_payload_is_the_layouts():
    weights: Any = {"w": np.arange(5, dtype=np.int16), "x": np.float32(1)}
    made = plan(weights)
    assert Layout.parse(memoryview(copied(made))) == made.layout
    assert made.metadata == {"tensors": "2"}
