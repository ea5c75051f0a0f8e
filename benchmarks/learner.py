"""A learner's process: publishes what it is told to, and says how long it took.

    python -m benchmarks.learner URL MODEL [--number N] [--remote]

It is told `publish` (weights or bytes of a size, once), `draft` (the same, written in place), `stream` (weights, one after the
other), `pace` (small policies at a rate), `flood` (one after the other) or `rush` (two under way); `memcpy` and `digest` do with
the same weights what the machine can do at best. `--remote`: it uses no slots, as if it were on another host.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from concurrent.futures import Future
from typing import Any

import numpy as np
import xxhash

from benchmarks.payload import LAST, policy, stamp, weights
from benchmarks.processes import NOWHERE, end_with_parent, say, told
from benchmarks.shared import Shared
from clients import connect

TIMEOUT = 60.0
TOGETHER = 16
"""Models that are published at a time."""


class Learner:
    """Keeps what it publishes, so that its memory is warm, as a learner's weights are."""

    def __init__(self, client: Any, model: str, number: int) -> None:
        self._client = client
        self._publisher = client.publisher(model)
        self._number = number
        self._trees: dict[int, dict[str, np.ndarray]] = {}
        self._bytes: dict[int, bytes] = {}
        self._shared: dict[int, Shared] = {}

    def weights(self, size: int) -> dict[str, np.ndarray]:
        """The weights of this size, made at the first call."""
        if size not in self._trees:
            self._trees[size] = weights(size)
        return self._trees[size]

    def _opaque(self, size: int) -> bytes:
        if size not in self._bytes:
            self._bytes[size] = np.random.default_rng(1).bytes(size)
        return self._bytes[size]

    def prepare(self, size: int) -> dict[str, Any]:
        """Makes the weights of this size before anything is measured."""
        self.weights(size)
        return {"prepared": size}

    def publish(self, size: int, form: str = "tensors", number: int = 0, archived: bool = False) -> dict[str, Any]:
        """One version: when it began, how long `publish` took until it returned, until the weights were free (ns)."""
        if form == "tensors":
            given: object = self.weights(size)
            stamp(self.weights(size), number)
        else:
            given = self._opaque(size)
        start = time.monotonic_ns()
        pending = self._publisher.publish_nowait(given, archived=archived, timeout=TIMEOUT)
        copied = time.monotonic_ns()
        version = pending.result(TIMEOUT)
        return {"start": start, "copied": copied - start, "done": time.monotonic_ns() - start, "version": version.number}

    def draft(self, size: int, number: int = 0) -> dict[str, Any]:
        """One version written in place; from `commit` on it is timed."""
        tree = self.weights(size)
        draft = self._publisher.draft(tree)
        for name, array in tree.items():
            np.copyto(draft.tree[name], array)
        stamp(draft.tree, number)
        start = time.monotonic_ns()
        draft.commit()
        taken = time.monotonic_ns() - start
        return {"start": start, "copied": taken, "done": taken}

    def memcpy(self, size: int, number: int = 0) -> dict[str, Any]:
        """The same weights copied once into shared memory that was walked before: nanoseconds."""
        if size not in self._shared:
            self._shared[size] = Shared(size)
        stamp(self.weights(size), number)
        start = time.monotonic_ns()
        self._shared[size].copy(self.weights(size))
        end = time.monotonic_ns()
        return {"start": start, "copied": end - start, "heard": [{"at": end, "stamp": number}]}

    def digest(self, size: int, number: int = 0) -> dict[str, Any]:
        """The same weights hashed once: nanoseconds."""
        tree, digest = self.weights(size), xxhash.xxh3_128()
        start = time.monotonic_ns()
        for array in tree.values():
            digest.update(array.data)
        end = time.monotonic_ns()
        return {"start": start, "copied": end - start, "heard": [{"at": end, "stamp": number}]}

    def greet(self, size: int) -> dict[str, Any]:
        """Weights that do not count, to find out who listens."""
        return self.publish(size)

    def stream(self, size: int, seconds: float) -> dict[str, Any]:
        """Weights one after the other, each when the one before is acknowledged; the last one says that it is."""
        tree, count, begun = self.weights(size), 0, time.monotonic_ns()
        while time.monotonic_ns() - begun < seconds * 1e9:
            count += 1
            stamp(tree, count)
            self._publisher.publish(tree, timeout=TIMEOUT)
        stamp(tree, LAST)
        self._publisher.publish(tree, timeout=TIMEOUT)
        return {"start": begun, "count": count + 1}

    def probe(self, size: int) -> dict[str, Any]:
        """One policy that does not count, to find out who listens."""
        return {"probed": self._policy(size, 0)}

    def pace(self, size: int, rate: float, count: int) -> dict[str, Any]:
        """`count` small policies at fixed times; one that is late makes none of the others late. Microseconds of each call."""
        taken = []
        begun = time.monotonic()
        for index in range(count):
            ahead = begun + index / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            taken.append(self._policy(size, index + 1, last=index + 1 == count))
        return {"seconds": time.monotonic() - begun, "publish_us": taken}

    def flood(self, size: int, seconds: float) -> dict[str, Any]:
        """Small policies one after the other, each when the one before is acknowledged; one more says it is the last."""
        begun, count = time.monotonic(), 0
        while time.monotonic() - begun < seconds:
            count += 1
            self._policy(size, count)
        taken = time.monotonic() - begun
        self._policy(size, count + 1, last=True)
        return {"seconds": taken, "count": count}

    def rush(self, size: int, seconds: float) -> dict[str, Any]:
        """As `flood`, but one version waits while one is under way: as many as a publisher takes without leaving one out."""
        pending: deque[Future[Any]] = deque()
        begun, count, last = time.monotonic_ns(), 0, False
        while not last:
            now = time.monotonic_ns()
            count, last = count + 1, now - begun >= seconds * 1e9
            pending.append(self._publisher.publish_nowait(policy(size, self._number, count, now, last=last), timeout=TIMEOUT))
            if len(pending) > 1:
                pending.popleft().result(TIMEOUT)
        pending.popleft().result(TIMEOUT)
        return {"start": begun, "count": count}

    def models(self, count: int, each: int, size: int) -> dict[str, Any]:
        """`each` small versions of each of `count` models, many models at a time."""
        for first in range(0, count, TOGETHER):
            publishers = [self._client.publisher(f"model-{index}") for index in range(first, min(first + TOGETHER, count))]
            for _ in range(each):
                for future in [publisher.publish_nowait(bytes(size), timeout=TIMEOUT) for publisher in publishers]:
                    future.result(TIMEOUT)
        return {"models": count, "versions": count * each}

    def _policy(self, size: int, count: int, *, last: bool = False) -> float:
        start = time.monotonic_ns()
        self._publisher.publish(policy(size, self._number, count, start, last=last), timeout=TIMEOUT)
        return round((time.monotonic_ns() - start) / 1e3, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--remote", action="store_true", help="without slots, as if the broadcaster were on another host")
    arguments = parser.parse_args()
    end_with_parent()
    with connect(arguments.url, slot_dir=NOWHERE if arguments.remote else None) as client:
        learner = Learner(client, arguments.model, arguments.number)
        say(up=True)
        for wish in told():
            say(**getattr(learner, wish.pop("do"))(**wish))


if __name__ == "__main__":
    main()
