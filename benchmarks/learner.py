"""A learner's process: publishes what it is told to, and says how long it took.

    python -m benchmarks.learner URL MODEL [--number N]

It is told `publish` (weights or bytes of a size, once), `pace` (small policies at a rate) or `flood` (one after the other).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.payload import policy, stamp, weights
from benchmarks.processes import end_with_parent, say, told
from clients import connect

TIMEOUT = 60.0


class Learner:
    """Keeps what it publishes, so that its memory is warm, as a learner's weights are."""

    def __init__(self, publisher: Any, number: int) -> None:
        self._publisher = publisher
        self._number = number
        self._trees: dict[int, dict[str, np.ndarray]] = {}
        self._bytes: dict[int, bytes] = {}

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

    def _policy(self, size: int, count: int, *, last: bool = False) -> float:
        start = time.monotonic_ns()
        self._publisher.publish(policy(size, self._number, count, start, last=last), timeout=TIMEOUT)
        return round((time.monotonic_ns() - start) / 1e3, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--number", type=int, default=0)
    arguments = parser.parse_args()
    end_with_parent()
    with connect(arguments.url) as client:
        learner = Learner(client.publisher(arguments.model), arguments.number)
        say(up=True)
        for wish in told():
            say(**getattr(learner, wish.pop("do"))(**wish))


if __name__ == "__main__":
    main()
