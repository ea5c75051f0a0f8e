"""An actor's process: follows a model and says when each version was visible.

python -m benchmarks.actor newest URL MODEL                     a line for each version
python -m benchmarks.actor every URL MODEL [--learners N]       one line when the last policy of each learner has come
python -m benchmarks.actor join URL MODEL                       told to join, it says how long the first snapshot took
python -m benchmarks.actor fetch URL MODEL                      told a number, it reads that version
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from benchmarks.payload import policy_facts, stamped
from benchmarks.processes import end_with_parent, say, told
from broadcaster.protocol.errors import VersionEvicted
from clients import connect

TIMEOUT = 120.0


def newest(client: Any, model: str) -> None:
    """The newest version each time, whole and verified when `wait` returns; then the time, then both ends are looked at."""
    subscriber, number = client.subscriber(model), 0
    while True:
        snapshot = subscriber.wait(newer_than=number)
        at = time.monotonic_ns()
        number = snapshot.version.number
        say(at=at, stamp=stamped(snapshot.tensors), delivery=subscriber.stats().delivery)


def every(client: Any, model: str, learners: int) -> None:
    """Every version in order: which are missing, and how old each was when it came (microseconds)."""
    subscriber = client.subscriber(model, every=True)
    versions, counts, left = subscriber.every(), [-1] * learners, learners
    ages: list[float] = []
    missing = disordered = 0
    while left:
        try:
            snapshot = next(versions)
        except VersionEvicted:
            continue  # Its learner's count has a hole then.
        at = time.monotonic_ns()
        learner, count, made, last = policy_facts(snapshot.payload)
        if not count:  # A probe: whoever has heard it misses nothing from then on.
            if counts[learner] < 0:
                say(heard=learner)
            counts[learner] = 0
            continue
        missing += max(0, count - counts[learner] - 1)
        disordered += count <= counts[learner]
        ages.append(round((at - made) / 1e3, 1))
        counts[learner] = count
        left -= last
    stats = subscriber.stats()
    say(received=len(ages), missing=missing, disordered=disordered, ages_us=ages, repaired=stats.repaired)


def join(url: str, model: str) -> None:
    """A client of its own each time, as a process that comes late has one; connecting is timed apart."""
    for _ in told():
        begun = time.monotonic_ns()
        with connect(url) as client:
            connected = time.monotonic_ns()
            subscriber = client.subscriber(model)
            snapshot = subscriber.wait(TIMEOUT)
            at = time.monotonic_ns()
            say(connect=connected - begun, first=at - connected, size=snapshot.version.size)


def fetch(client: Any, model: str) -> None:
    """Reads one given version, whole and verified, into memory of the client's choice."""
    for wish in told():
        start = time.monotonic_ns()
        payload = client.registry.get(model, wish["number"]).read()
        end = time.monotonic_ns()
        say(start=start, end=end, size=len(payload))
        del payload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("newest", "every", "join", "fetch"))
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--learners", type=int, default=1)
    arguments = parser.parse_args()
    end_with_parent()
    if arguments.role == "join":
        say(up=True)
        join(arguments.url, arguments.model)
        return
    with connect(arguments.url) as client:
        say(up=True)
        if arguments.role == "newest":
            newest(client, arguments.model)
        elif arguments.role == "every":
            every(client, arguments.model, arguments.learners)
        else:
            fetch(client, arguments.model)


if __name__ == "__main__":
    main()
