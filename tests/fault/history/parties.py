"""The processes of a mixed load. Each does one part again and again, and writes what it did and saw to a file of its own.

python -m tests.fault.history.parties '{"role": "learner", "who": "learner-1.1", "url": ..., "directory": ..., "seed": 1, ...}'
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

import clients
from tests.fault.history.events import UNKNOWN, Recorder

PUBLISH = 10.0
"""Seconds that a publication may take."""
ASK = 30.0
"""Seconds that the client gives a request of the registry."""
READ = 20.0
ALIAS = "champion"
LAST, EVERY = 6, 5
"""The versions that pruning keeps."""
AGAIN = 3
"""Attempts with one upload id, as long as the outcome is unknown."""


@dataclass(frozen=True)
class Part:
    """What one process is to do. `slot_dir` is where it looks for slots (None: where the broadcaster says).

    `sizes` in bytes, `archived` as a share of what is published, `pause` in seconds between two operations, on average.
    """

    role: str
    who: str
    url: str
    directory: str
    seed: int
    models: tuple[str, ...]
    doomed: tuple[str, ...] = ()
    """Models that may be deleted as a whole."""
    slot_dir: str | None = None
    sizes: tuple[int, ...] = (100,)
    archived: float = 0.0
    exclusive: bool = False
    every: bool = False
    delivery: str = "auto"
    pause: float = 0.05

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.fault.history.parties", json.dumps(asdict(self))]

    @property
    def path(self) -> Path:
        return Path(self.directory) / f"{self.who}.jsonl"


class Party:
    """What all parts have: a client, a recorder, chance, and a word when it is over."""

    def __init__(self, part: Part, client: clients.Client, recorder: Recorder, stop: threading.Event) -> None:
        self.part = part
        self.client = client
        self.registry = client.registry
        self.recorder = recorder
        self.random = random.Random(part.seed)
        self._stop = stop

    def turns(self) -> Iterator[None]:
        """Until it is over: one after the other, with pauses."""
        while not self._stop.wait(self.random.expovariate(1 / self.part.pause)):
            yield


# --- the learner ---------------------------------------------------------------------------------------------------


def learn(party: Party) -> None:
    publishers = {model: party.client.publisher(model, exclusive=party.part.exclusive) for model in party.part.models}
    for _ in party.turns():
        model, size = party.random.choice(party.part.models), party.random.choice(party.part.sizes)
        archived = party.random.random() < party.part.archived
        publish(party.recorder, publishers[model], os.urandom(size), archived=archived)


def publish(recorder: Recorder, publisher: clients.Publisher, payload: bytes, *, archived: bool) -> int | None:
    """One version, tried again with the same upload id as long as nobody knows what came of it. Its number, if there is one."""
    upload_id, digest = os.urandom(16), xxhash.xxh3_128_hexdigest(payload)
    for _ in range(AGAIN):
        about = {"model": publisher.model_id, "digest": digest, "archived": archived, "upload": upload_id.hex()}
        with recorder.operation("publish", limit=PUBLISH, **about) as result:
            version = publisher.publish(payload, archived=archived, timeout=PUBLISH, upload_id=upload_id)
            result["number"] = version.number
        if "number" in result:
            return version.number
        if result["outcome"] != UNKNOWN:
            break
    return None


# --- the actor -----------------------------------------------------------------------------------------------------


def act(party: Party) -> None:
    part, recorder = party.part, party.recorder
    (model,) = part.models
    with party.client.subscriber(model, every=part.every, delivery=part.delivery) as subscriber:  # type: ignore[arg-type]
        recorder.write("follow", model=model, every=part.every)
        snapshots = subscriber.every() if part.every else iter(subscriber)
        while True:
            try:
                snapshot = next(snapshots)
            except clients.VersionEvicted as gone:
                last = gone.facts.get("until") or gone.number
                recorder.write("gone", model=model, first=gone.number, last=last)
                continue
            except clients.BroadcasterError as error:
                if not part.every:
                    raise
                recorder.write("trouble", error=error.code, reason=str(error))  # The same version is next again.
                continue
            found = xxhash.xxh3_128_hexdigest(snapshot.payload)
            recorder.write("deliver", model=model, number=snapshot.version.number, digest=snapshot.version.digest, found=found)
            del snapshot


# --- the keeper ----------------------------------------------------------------------------------------------------


class Keeper:
    """Reads, lists, archives, deletes and names versions."""

    def __init__(self, party: Party) -> None:
        self._party = party
        self._recorder = party.recorder
        self._registry = party.registry

    def keep(self) -> None:
        chance = self._party.random
        for _ in self._party.turns():
            model = chance.choice(self._party.part.models)
            numbers = self.list(model)
            (call,) = chance.choices(
                [self.newest, self.one, self.archive, self.delete, self.prune, self.name, self.read_name, self.delete_model],
                [4, 4, 3, 2, 1, 2, 2, 1],
            )
            call(model, numbers)

    def list(self, model: str) -> list[int]:
        with self._recorder.operation("list", limit=ASK, model=model) as result:
            result["versions"] = [(info.number, info.digest) for info in self._registry.versions(model)]
        return [number for number, _ in result.get("versions", [])]

    def newest(self, model: str, _: list[int]) -> None:
        self.fetch(model, -1)

    def one(self, model: str, numbers: list[int]) -> None:
        if numbers:
            self.fetch(model, self._party.random.choice(numbers))

    def fetch(self, model: str, ref: int) -> None:
        with self._recorder.operation("fetch", limit=ASK + READ, model=model, ref=ref) as result:
            version = self._registry.get(model, ref)
            found = xxhash.xxh3_128_hexdigest(version.read(timeout=READ))
            result |= {"number": version.info.number, "said": version.info.digest, "digest": found}

    def archive(self, model: str, numbers: list[int]) -> None:
        if numbers:
            number = self._party.random.choice(numbers[-4:])
            with self._recorder.operation("archive", limit=ASK, model=model) as result:
                info = self._registry.archive(model, number)
                result |= {"number": info.number, "digest": info.digest}

    def delete(self, model: str, numbers: list[int]) -> None:
        """An older one, mostly; the newest now and then."""
        if numbers:
            number = numbers[-1] if self._party.random.random() < 0.2 else self._party.random.choice(numbers)
            with self._recorder.operation("delete", limit=ASK, model=model, number=number):
                self._registry.delete(model, number)

    def prune(self, model: str, _: list[int]) -> None:
        with self._recorder.operation("prune", limit=ASK, model=model, last=LAST, every=EVERY) as result:
            result["numbers"] = list(self._registry.prune(model, last=LAST, every=EVERY).numbers)

    def delete_model(self, model: str, _: list[int]) -> None:
        if model in self._party.part.doomed:
            with self._recorder.operation("delete-model", limit=ASK, model=model):
                self._registry.delete_model(model, force=True)

    def name(self, model: str, numbers: list[int]) -> None:
        """Moves the alias from what it names to something newer that is archived, if nobody was faster."""
        if model in self._party.part.doomed:
            return
        named = self.read_name(model, numbers) or 0
        newer = [number for number in numbers if number > named]
        if newer:
            number = self._party.random.choice(newer)
            with self._recorder.operation("archive", limit=ASK, model=model) as result:
                info = self._registry.archive(model, number)
                result |= {"number": info.number, "digest": info.digest}
            if "number" in result:
                with self._recorder.operation("set-alias", limit=ASK, model=model, alias=ALIAS, number=number, expect=named):
                    self._registry.set_alias(model, ALIAS, number, expect=named)

    def read_name(self, model: str, _: list[int]) -> int | None:
        with self._recorder.operation("read-alias", limit=ASK, model=model, alias=ALIAS) as result:
            result["number"] = self._registry.get(model, ALIAS).info.number
        return result.get("number")


# --- the process ---------------------------------------------------------------------------------------------------


@contextmanager
def connected(part: Part, stop: threading.Event) -> Iterator[clients.Client | None]:
    """A client, as soon as there is a broadcaster; None when it is over before."""
    client = None
    while client is None and not stop.is_set():
        try:
            client = clients.connect(part.url, name=part.who, slot_dir=part.slot_dir)
        except clients.NoBroadcaster:
            continue
    try:
        yield client
    finally:
        if client is not None:
            client.close()


def main(part: Part) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    roles: dict[str, Callable[[Party], Any]] = {"learner": learn, "actor": act, "keeper": lambda party: Keeper(party).keep()}
    with connected(part, stop) as client:
        if client is not None:
            roles[part.role](Party(part, client, Recorder(part.path, part.who), stop))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    main(Part(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}))
