"""An actor's process: follows a model and says when each version was visible.

python -m benchmarks.actor newest URL MODEL                     a line for each version
python -m benchmarks.actor tally URL MODEL                      a line when the last version of a stream has come
python -m benchmarks.actor crowd URL MODEL [--clients N]        as newest, with many clients: a line when all have a version
python -m benchmarks.actor look URL MODEL                       told to look, it says how long `latest()` takes
python -m benchmarks.actor every URL MODEL [--learners N]       one line when the last policy of each learner has come
python -m benchmarks.actor count URL MODEL                      the same for one learner, without the ages
python -m benchmarks.actor join URL MODEL                       told to join, it says how long the first snapshot took
python -m benchmarks.actor fetch URL MODEL                      told a number, it reads that version

`--delivery` says how versions come: `chunks` as to another host, `shared` through slots, `auto` as the library chooses.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import time
from typing import Any

from benchmarks.payload import LAST, policy_facts, stamped, stamped_ends
from benchmarks.processes import end_with_parent, say, told
from broadcaster.protocol.errors import VersionEvicted
from clients import connect

TIMEOUT = 120.0


def newest(subscriber: Any) -> None:
    """The newest version each time, whole and verified when `wait` returns; then the time, then both ends are looked at."""
    number = 0
    while True:
        snapshot = subscriber.wait(newer_than=number)
        at = time.monotonic_ns()
        number = snapshot.version.number
        say(at=at, stamp=stamped_ends(snapshot.payload), delivery=subscriber.stats().delivery)


def tally(subscriber: Any) -> None:
    """The newest version each time; when the last of a stream has come, how many there were."""
    number = count = 0
    while True:
        snapshot = subscriber.wait(newer_than=number)
        at = time.monotonic_ns()
        number, stamp = snapshot.version.number, stamped_ends(snapshot.payload)
        if not stamp:  # A probe: versions count from here.
            say(heard=True)
            count = 0
            continue
        count += 1
        if stamp == LAST:
            say(at=at, count=count, delivery=subscriber.stats().delivery)
            count = 0


def crowd(url: str, model: str, delivery: str, clients: int) -> None:
    """Many clients, each with connections of its own: the time is that of the last of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(connect(url, timeout=TIMEOUT)) for _ in range(clients)]
        subscribers = [client.subscriber(model, delivery=delivery) for client in opened]
        say(up=True)
        number = 0
        while True:
            snapshots = [subscriber.wait(newer_than=number) for subscriber in subscribers]
            at = time.monotonic_ns()
            number = snapshots[0].version.number
            say(at=at, stamp=min(stamped_ends(one.payload) for one in snapshots), delivery=subscribers[0].stats().delivery)


def look(subscriber: Any) -> None:
    """Told a number of times, it calls `latest()` so often with nothing new, and says nanoseconds for each call; told `new`, it
    does so once, and says the stamp, too, and how long it took until the weights were there as arrays."""
    snapshot = subscriber.wait(TIMEOUT)
    for wish in told():
        times = wish.get("times", 1)
        start = time.perf_counter_ns()
        for _ in range(times):
            snapshot = subscriber.latest()
        taken = time.perf_counter_ns() - start
        tensors = snapshot.tensors
        say(taken=taken / times, with_arrays=time.perf_counter_ns() - start, stamp=stamped(tensors))


def count(subscriber: Any) -> None:
    """Every version in order, and what is missing."""
    received = missing = newest = 0
    versions = subscriber.every()
    while True:
        try:
            snapshot = next(versions)
        except VersionEvicted:
            continue  # The count has a hole then.
        _, number, _, last = policy_facts(snapshot.payload)
        if not number:  # A probe: versions count from here.
            say(heard=True)
            received = missing = newest = 0
            continue
        received, missing, newest = received + 1, missing + number - newest - 1, number
        if last:
            say(at=time.monotonic_ns(), received=received, missing=missing)
            received = missing = newest = 0


def every(subscriber: Any, learners: int) -> None:
    """Every version in order: which are missing, and how old each was when it came (microseconds)."""
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


def join(url: str, model: str, delivery: str) -> None:
    """A client of its own each time, as a process that comes late has one; connecting is timed apart."""
    for _ in told():
        begun = time.monotonic_ns()
        with connect(url) as client:
            connected = time.monotonic_ns()
            subscriber = client.subscriber(model, delivery=delivery)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=("newest", "tally", "crowd", "look", "every", "count", "join", "fetch"))
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--delivery", choices=("auto", "shared", "chunks"), default="chunks")
    parser.add_argument("--learners", type=int, default=1)
    parser.add_argument("--clients", type=int, default=1)
    arguments = parser.parse_args()
    end_with_parent()
    if arguments.role == "join":
        say(up=True)
        join(arguments.url, arguments.model, arguments.delivery)
    elif arguments.role == "crowd":
        crowd(arguments.url, arguments.model, arguments.delivery, arguments.clients)
    else:
        with connect(arguments.url) as client:
            follow(client, arguments)


def follow(client: Any, arguments: argparse.Namespace) -> None:
    if arguments.role == "fetch":
        say(up=True)
        fetch(client, arguments.model)
        return
    whole = arguments.role in ("every", "count")
    subscriber = client.subscriber(arguments.model, delivery=arguments.delivery, every=whole)
    say(up=True)
    if arguments.role == "every":
        every(subscriber, arguments.learners)
    else:
        {"newest": newest, "tally": tally, "look": look, "count": count}[arguments.role](subscriber)


if __name__ == "__main__":
    main()
