"""The live path, timed while something else happens to the archive.

python -m tests.fault.real.live ADDRESSES MODEL SIZE   uploads archived versions without end, and prints what became of each
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from clients import connect
from tests.bare_peer import BarePeer
from tests.fault.real.parties import Party

PAUSE = 0.05
"""Seconds between two archived uploads: a load, and no flood of refusals."""


class Live:
    """A learner and an actor with our clients; each publication is timed until the actor has it."""

    def __init__(self, url: str, model: str = "live") -> None:
        self._client = connect(url)
        self._publisher = self._client.publisher(model)
        self._subscriber = self._client.subscriber(model)

    def publish(self) -> float:
        """Seconds from one publication to its arrival."""
        began = time.perf_counter()
        number = self._publisher.publish(bytes(1000)).number
        while self._subscriber.wait(newer_than=number - 1, timeout=20).version.number < number:
            pass
        return time.perf_counter() - began

    def warm_up(self, count: int = 3000) -> None:
        """Until the model has so many numbers in reserve that none is needed in a time without a disk."""
        for _ in range(count):
            self._publisher.publish(bytes(1000))

    def times(self, seconds: float, least: int = 300, most: int = 1500) -> list[float]:
        """Of all publications in that time, at least and at most so many."""
        until, found = time.monotonic() + seconds, [self.publish()]
        while (time.monotonic() < until or len(found) < least) and len(found) < most:
            found.append(self.publish())
        return found

    def __enter__(self) -> Live:
        self.publish()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def p99(times: list[float]) -> float:
    return sorted(times)[len(times) * 99 // 100]


class Archivist(Party):
    """A process that uploads archived versions, one after the other."""

    def __init__(self, addresses: dict[str, Any], model: str, size: int) -> None:
        about = {channel: addresses[channel] for channel in ("upload", "push", "data")}
        super().__init__("archivist", json.dumps(about), model, size, module=__name__)

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """What it says up to the first that is wanted."""
        said = [self.next()]
        while not wanted(said[-1]):
            said.append(self.next())
        return said


def upload(addresses: dict[str, str], model: str, size: int) -> Iterator[dict[str, Any]]:
    with BarePeer(addresses) as peer:
        while True:
            began = time.monotonic()
            said = peer.publish(model, os.urandom(size), archived=True)
            yield {"kind": said.kind, "code": said.code, "seconds": time.monotonic() - began}
            time.sleep(PAUSE)


@contextmanager
def archiving(addresses: dict[str, Any], model: str = "archived", size: int = 100_000) -> Iterator[Archivist]:
    """An archivist that works for as long as the block lasts."""
    with Archivist(addresses, model, size) as archivist:
        archivist.until(lambda said: said["kind"] == "done")
        yield archivist


if __name__ == "__main__":
    _, _, where, model, size = sys.argv
    for became in upload(json.loads(where), model, int(size)):
        print(json.dumps(became), flush=True)
