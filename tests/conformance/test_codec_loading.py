"""Loading a payload into what the user already has: modules, trees of arrays, jax trees."""

from __future__ import annotations

import copy
import gc
import resource
import subprocess
import sys
import threading
import tracemalloc
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from broadcaster.protocol.errors import InvalidPayload, InvalidRequest
from broadcaster.protocol.version import TENSORS
from clients.codec import attach, decode, load_into
from clients.codec import load as module_under_test
from tests.conformance.weights import aligned, framework, payload, sent, until


class Layer(NamedTuple):
    weight: Any
    bias: Any


def test_numpy_arrays_are_written_in_place():
    target = {"fc": Layer(np.zeros((2, 3)), np.zeros(3, ">f4")), "strided": np.zeros((4, 4))[::2, ::2], "n": 1}
    given = {"fc": Layer(np.ones((2, 3)), np.ones(3, "f4")), "strided": np.full((2, 2), 7.0), "n": 1}
    arrays = [target["fc"].weight, target["fc"].bias, target["strided"]]
    assert load_into(sent(given), target) is target
    assert [array.sum() for array in arrays] == [6, 3, 28]


def test_numbers_and_numpy_scalars_come_back_in_a_new_tree_that_holds_the_same_arrays():
    target = {"w": np.zeros(2), "step": 1, "rate": np.float32(1), "gone": float("nan"), "flag": 1}
    loaded = load_into(sent({"w": np.ones(2), "step": 2, "rate": np.float32(0.5), "gone": float("nan"), "flag": True}), target)
    assert loaded["w"] is target["w"] and target["w"].all()
    assert (loaded["step"], loaded["rate"]) == (2, np.float32(0.5))
    assert loaded["flag"] is True
    assert target["step"] == 1


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ({"w": np.zeros((2, 2)), "c": np.zeros(1)}, "missing: c; unexpected: b$"),
        (
            {"w": np.zeros((2, 3)), "b": np.zeros(1, "i4")},
            r"w is F64 \[2, 2\], the target has F64 \[2, 3\]; b is F64 \[1\], the target has I32 \[1\]",
        ),
        ({"w": np.zeros((2, 2)), "b": 1.0}, "b is a tensor, the target has a number"),
        ({"w": np.zeros((2, 2)), "b": None}, "b is a tensor, the target has None"),
        ({"w": np.broadcast_to(0.0, (2, 2)), "b": np.zeros(1)}, "w: the target is read-only"),
        ({"w": np.zeros((2, 2)), "b": "text"}, "builtins.str"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(target, told):
    with pytest.raises(InvalidPayload, match=told):
        load_into(sent({"w": np.ones((2, 2)), "b": np.ones(1)}), target)
    assert not np.any(target["w"])


def test_without_strict_only_the_common_names_are_loaded():
    target = {"w": np.zeros(2), "c": np.full(1, 5.0), "n": 3}
    assert load_into(sent({"w": np.ones(2), "b": np.ones(1)}), target, strict=False) is target
    assert target["w"].all() and target["c"] == 5 and target["n"] == 3
    with pytest.raises(InvalidPayload, match="w is F64"):
        load_into(sent({"w": np.ones(3)}), target, strict=False)


def test_bfloat16_numpy_arrays_are_loaded_by_their_bits():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    target = {"w": np.zeros(3, ml_dtypes.bfloat16)}
    load_into(sent({"w": np.array([1, 2, 3], ml_dtypes.bfloat16)}), target)
    assert target["w"].tolist() == [1, 2, 3]


def _module() -> Any:
    import torch

    class Policy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(3, 2)
            self.norm = torch.nn.BatchNorm1d(2)
            self.head = torch.nn.Linear(3, 2)
            self.head.weight = self.fc.weight
            self.low = torch.nn.Parameter(torch.randn(2).to(torch.bfloat16))
            self.register_buffer("scratch", torch.zeros(1), persistent=False)

    return Policy()


def test_a_torch_module_is_loaded_in_place_with_buffers_and_tied_weights():
    framework("torch")
    import torch

    learner, actor = _module(), _module()
    learner.norm.running_mean += 3
    before = {name: parameter.data_ptr() for name, parameter in actor.named_parameters()}
    assert load_into(sent(learner.state_dict()), actor) is actor
    for name, value in learner.state_dict().items():
        assert torch.equal(actor.state_dict()[name], value), name
    assert {name: parameter.data_ptr() for name, parameter in actor.named_parameters()} == before
    assert actor.fc.weight is actor.head.weight and actor.fc.weight.requires_grad
    assert actor.fc.weight.grad is None and actor.fc.weight.is_leaf


def test_a_torch_module_is_loaded_from_a_nested_tree_of_numpy_arrays():
    framework("torch")
    import torch

    actor = torch.nn.Linear(2, 1)
    load_into(sent({"weight": np.ones((1, 2), np.float32), "bias": np.full(1, 2, np.float32)}), actor)
    assert actor(torch.ones(1, 2)).item() == 4
    nested = torch.nn.Sequential(torch.nn.Linear(2, 1))
    load_into(sent([{"weight": np.ones((1, 2), np.float32), "bias": np.zeros(1, np.float32)}]), nested)
    assert nested(torch.ones(1, 2)).item() == 2


def test_a_torch_module_that_does_not_fit_is_told_all_and_not_changed():
    framework("torch")
    import torch

    actor = torch.nn.Linear(2, 1)
    before = actor.weight.detach().clone()
    with pytest.raises(InvalidPayload, match="missing: bias; unexpected: other"):
        load_into(sent({"weight": torch.ones(1, 2), "other": torch.ones(1)}), actor)
    with pytest.raises(InvalidPayload, match=r"weight is F16 \[1, 2\], the target has F32 \[1, 2\]"):
        load_into(sent({"weight": torch.ones(1, 2).half(), "bias": torch.ones(1)}), actor)
    assert torch.equal(actor.weight, before)
    load_into(sent({"weight": torch.ones(1, 2), "other": torch.ones(1)}), actor, strict=False)
    assert torch.equal(actor.weight, torch.ones(1, 2))


def test_a_dict_of_torch_tensors_is_loaded_in_place():
    framework("torch")
    import torch

    target = {"w": torch.zeros(2, 3).t(), "b": torch.nn.Parameter(torch.zeros(1)), "n": np.zeros(2)}
    assert load_into(sent({"w": torch.ones(3, 2), "b": torch.ones(1), "n": np.ones(2)}), target) is target
    assert target["w"].sum() == 6 and target["b"].item() == 1 and target["n"].all()


def test_a_jax_tree_comes_back_new_and_shares_no_memory_with_the_payload():
    framework("jax")
    import jax.numpy as jnp

    target = {"p": Layer(jnp.zeros((64, 64)), jnp.zeros(3, jnp.bfloat16)), "step": 0}
    root = aligned(payload({"p": Layer(jnp.ones((64, 64)), jnp.ones(3, jnp.bfloat16)), "step": 7}))
    ended = weakref.ref(root)
    loaded = load_into(decode(root, TENSORS), target)
    assert type(loaded["p"]) is Layer and loaded["step"] == 7
    assert loaded["p"].weight.sum() == 64 * 64 and loaded["p"].bias.dtype == jnp.bfloat16
    assert target["p"].weight.sum() == 0
    start, stop = root.ctypes.data, root.ctypes.data + root.nbytes
    assert not start <= loaded["p"].weight.unsafe_buffer_pointer() < stop
    del root
    assert until(lambda: ended() is None)
    with pytest.raises(InvalidPayload, match=r"missing: p\.bias"):
        load_into(sent({"p": {"weight": jnp.ones((64, 64))}, "step": 7}), target)


# --- large payloads ------------------------------------------------------------------------------------------------


def large(value: float, parts: int = 5) -> dict[str, np.ndarray]:
    """40 MiB, in unequal parts."""
    rows = [1, 7, 2, 20, 10][:parts]
    return {f"w{index}": np.full((count, 1 << 18), value, np.float32) for index, count in enumerate(rows)}


def test_a_large_payload_is_copied_once_and_nothing_is_allocated() -> None:
    target, given = large(0), sent(large(3))
    load_into(given, target)  # What is decoded is kept, and all pages are there.
    for array in target.values():
        array.fill(0)
    tracemalloc.start()
    try:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        assert load_into(given, target) is target
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all((array == 3).all() for array in target.values())
    assert peak < 1 << 20, f"{peak} bytes were allocated for a payload of 40 MiB"
    assert faults < 100, f"{faults} page faults"


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_two_threads_copy_what_one_would_have(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "TWO_THREADS", 1 << 20)
    seen = set()
    copy_arrays = module_under_test._copy

    def watched(tensors: Any, arrays: Any) -> None:
        seen.add(threading.current_thread())
        copy_arrays(tensors, arrays)

    monkeypatch.setattr(module_under_test, "_copy", watched)
    given = {name: np.random.default_rng(1).random(array.shape, np.float32) for name, array in large(0, parts).items()}
    target = large(0, parts)
    load_into(sent(given), target)
    assert all(np.array_equal(target[name], given[name]) for name in given) and len(seen) == 2


def test_what_goes_wrong_in_the_other_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    from clients.codec import numpy as file

    monkeypatch.setattr(module_under_test, "TWO_THREADS", 1 << 20)
    load = file.load

    def failing(leaf: Any, root: Any, spec: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError("no room")
        return load(leaf, root, spec)

    monkeypatch.setattr(file, "load", failing)
    with pytest.raises(MemoryError, match="no room"):
        load_into(sent(large(1)), large(0))


# --- modules that are views of a payload ---------------------------------------------------------------------------


def read_only(weights: object) -> Any:
    """The tensors of a payload, and a weak reference to its memory."""
    root = aligned(payload(weights))
    root.flags.writeable = False
    return decode(root, TENSORS), weakref.ref(root), (root.ctypes.data, root.ctypes.data + root.nbytes)


def test_an_attached_module_is_views_of_the_payload_and_keeps_it_alive() -> None:
    framework("torch")
    import torch

    learner, actor = _module(), _module().eval()
    learner.norm.running_mean += 3
    parameters = dict(actor.named_parameters())
    given, ended, (start, stop) = read_only(learner.state_dict())
    attach(given, actor)
    assert dict(actor.named_parameters()) == parameters, "the parameters are the same objects"
    for name, value in actor.state_dict().items():
        assert torch.equal(value, learner.state_dict()[name]), name
        assert start <= value.data_ptr() < stop, f"{name} was copied"
    assert actor.fc.weight is actor.head.weight and actor.fc.weight.requires_grad and actor.fc.weight.is_leaf
    del given
    gc.collect()
    assert ended() is not None
    assert torch.isfinite(actor.fc(torch.ones(1, 3))).all()
    attach(read_only(learner.state_dict())[0], actor)
    value = None  # The last view of the first payload.
    assert until(lambda: ended() is None), "the module is a view of another payload now"


def test_a_module_that_is_loaded_into_has_memory_of_its_own_again() -> None:
    framework("torch")
    import torch

    actor = torch.nn.Linear(2, 1).eval()
    given, ended, _ = read_only({"weight": np.full((1, 2), 2, np.float32), "bias": np.zeros(1, np.float32)})
    attach(given, actor)
    clone = copy.deepcopy(actor)
    load_into(sent({"weight": np.ones((1, 2), np.float32), "bias": np.ones(1, np.float32)}), actor)
    assert actor(torch.ones(1, 2)).item() == 3 and given["weight"].sum() == 4
    with torch.no_grad():
        actor.weight.fill_(5)
        clone.weight.fill_(5)
    given = None
    assert until(lambda: ended() is None)


@pytest.mark.parametrize("move", ["double", "clone"])
def test_a_module_that_was_moved_is_attached_no_more(move: str) -> None:
    framework("torch")
    import torch

    actor = torch.nn.Linear(2, 1).eval()
    attach(read_only({"weight": np.ones((1, 2), np.float32), "bias": np.zeros(1, np.float32)})[0], actor)
    if move == "double":
        actor.double().float()
    else:
        actor.weight.data, actor.bias.data = actor.weight.data.clone(), actor.bias.data.clone()
    where = actor.weight.data_ptr()
    load_into(sent({"weight": np.ones((1, 2), np.float32), "bias": np.zeros(1, np.float32)}), actor)
    assert actor.weight.data_ptr() == where


def test_what_cannot_be_attached_is_refused_and_nothing_is_changed() -> None:
    framework("torch")
    import torch

    fits = {"weight": np.ones((1, 2), np.float32), "bias": np.zeros(1, np.float32)}
    actor = torch.nn.Linear(2, 1)
    where = actor.weight.data_ptr()
    with pytest.raises(InvalidRequest, match=r"training mode: what is attached is read-only; call eval\(\)"):
        attach(sent(fits), actor)
    half = torch.nn.Sequential(torch.nn.Linear(2, 1).eval(), torch.nn.Dropout())
    half.training = False
    with pytest.raises(InvalidRequest, match=r"training mode \(1 is\)"):
        attach(sent({f"0.{name}": array for name, array in fits.items()}), half)
    with pytest.raises(InvalidRequest, match="a dict is no torch module"):
        attach(sent(fits), dict(fits))
    with pytest.raises(InvalidRequest, match="weight is on meta"):
        attach(sent(fits), torch.nn.Linear(2, 1, device="meta").eval())
    actor.eval()
    with pytest.raises(InvalidPayload, match="missing: bias; unexpected: other"):
        attach(sent({"weight": fits["weight"], "other": fits["bias"]}), actor)
    with pytest.raises(InvalidPayload, match=r"weight is F64 \[1, 2\], the target has F32"):
        attach(sent({"weight": np.ones((1, 2)), "bias": fits["bias"]}), actor)
    assert actor.weight.data_ptr() == where
    attach(sent({"weight": fits["weight"], "other": fits["bias"]}), actor, strict=False)
    assert actor.weight.sum().item() == 2


_WRITES = """
import mmap, sys, tempfile
import numpy as np, torch
from broadcaster.protocol.version import TENSORS
from clients.codec import attach, decode
from tests.conformance.weights import payload
data = payload({"weight": np.ones((1, 2), np.float32), "bias": np.zeros(1, np.float32)})
with tempfile.TemporaryFile() as file:
    file.write(data.tobytes()); file.flush()
    root = np.frombuffer(mmap.mmap(file.fileno(), len(data), prot=mmap.PROT_READ), np.uint8)
module = torch.nn.Linear(2, 1).eval()
attach(decode(root, TENSORS), module)
print(module(torch.ones(1, 2)).item(), flush=True)
with torch.no_grad():
    module.weight.fill_(1)
"""


def test_writing_to_an_attached_module_ends_the_process_and_reading_does_not() -> None:
    framework("torch")
    here = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", _WRITES], cwd=here, capture_output=True, text=True, timeout=50)
    assert done.stdout == "2.0\n" and done.returncode == -11, done.stderr
