"""What copying weights into a buffer costs, against copying the same bytes with numpy alone.

    python -m benchmarks.codec [--rounds 15]

One JSON line per result: milliseconds (median, least) and the ratio to `np.copyto`. Every buffer is warm: it was written before
the first round. Nothing is hashed or sent; `filled` counts its calls.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from clients.codec import LayoutCache, decode, plan

Timings = dict[str, float]


def measure(work: Callable[[], object], rounds: int) -> Timings:
    """Milliseconds of `work`: the median and the least of `rounds`, after one that does not count."""
    work()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append((time.perf_counter() - start) * 1e3)
    return {"median_ms": round(statistics.median(taken), 3), "min_ms": round(min(taken), 3)}


def large(rounds: int) -> Iterator[dict[str, Any]]:
    """One tensor of 64 MiB: in C order, and transposed."""
    weights = np.random.default_rng(0).random((4096, 2048))
    buffer = np.zeros(weights.nbytes + (64 << 10), np.uint8)
    plain = measure(lambda: np.copyto(buffer[: weights.nbytes], weights.reshape(-1).view(np.uint8)), rounds)
    yield {"case": "64 MiB, np.copyto", **plain}
    for case, tree in (("64 MiB, one tensor", weights), ("64 MiB, one transposed tensor", weights.T)):
        yield {"case": case, **_copy_into({"w": tree}, buffer, rounds, plain)}
    parts = {str(index): part for index, part in enumerate(np.split(weights, 64))}
    yield {"case": "64 MiB, 64 tensors", **_copy_into(parts, buffer, rounds, plain)}


def small(rounds: int) -> Iterator[dict[str, Any]]:
    """A state dict of 1,000 tensors of 1 KiB: planned (layout known) and copied; decoded, with every view made."""
    trees = {"numpy": {f"layers.{index}.weight": np.full(256, index, np.float32) for index in range(1000)}}
    try:
        import torch

        trees["torch"] = {name: torch.from_numpy(array) for name, array in trees["numpy"].items()}  # type: ignore[misc]
    except ImportError:
        yield {"case": "1,000 tensors of 1 KiB, torch", "left out": "torch is not installed"}
    for framework, tree in trees.items():
        for case, work in _steps(framework, tree):
            yield {"case": f"1,000 tensors of 1 KiB, {framework}, {case}", **measure(work, rounds)}


def _steps(framework: str, tree: object) -> Iterator[tuple[str, Callable[[], object]]]:
    cache = LayoutCache()
    ready = plan(tree, cache)
    buffer = np.zeros(ready.size, np.uint8)
    yield "plan and copy", lambda: plan(tree, cache).copy_into(buffer.data, _ignore)
    yield "plan alone", lambda: plan(tree, cache)
    yield "decode", lambda: getattr(decode(buffer, ready.content_type), "torch" if framework == "torch" else "tree")()


def _copy_into(tree: object, buffer: Any, rounds: int, plain: Timings) -> dict[str, Any]:
    ready = plan(tree)
    calls: list[int] = []
    taken = measure(lambda: ready.copy_into(buffer.data, calls.append), rounds)
    return {**taken, "ratio": round(taken["median_ms"] / plain["median_ms"], 2), "reports": len(calls) // (rounds + 1)}


def _ignore(total: int) -> None:
    """A publisher that hashes nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for question in (large, small):
        for result in question(rounds):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
