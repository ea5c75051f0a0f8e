"""The other parties of a conversation, as processes that a test can stop, continue and kill.

python -m tests.fault.real.parties actor URL MODEL DELIVERY   prints a line for every version that becomes the newest
python -m tests.fault.real.parties learner ADDRESSES ... STEP   uploads up to a step, says so, and waits to be killed
python -m tests.fault.real.parties exclusive URL MODEL HOW SLOT_DIR   is to be stopped in the middle, and says what comes of it
"""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import xxhash

from tests.bare_peer import WAIT, BarePeer, digest, wait_until
from tests.broadcaster_process import ROOT

STEPS = ("begun", "some chunks", "all chunks", "committed")
"""How far a learner comes before it is killed."""


class Party:
    """A process that says what it does, a JSON value on each line."""

    def __init__(self, *arguments: object, module: str = "tests.fault.real.parties") -> None:
        line = [sys.executable, "-m", module, *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            line, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.put(line)

    def next(self, *, seconds: float = WAIT) -> Any:
        """The next value that it says."""
        try:
            return json.loads(self._said.get(timeout=seconds))
        except queue.Empty:
            raise AssertionError(f"{self.process.args} said nothing for {seconds:g} s, exit code {self.process.poll()}") from None

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Party:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Actor(Party):
    """Follows a model with our client."""

    def __init__(self, url: str, model: str, delivery: str = "auto") -> None:
        super().__init__("actor", url, model, delivery)
        assert self.next() == "following"

    def until(self, number: int) -> dict[str, Any]:
        """What it says of the first version that is at least `number`. What it said before must have been in order, and right."""
        last = 0
        while True:
            said: dict[str, Any] = self.next()
            assert said["digest"] == said["found"] and said["number"] > last, said
            last = said["number"]
            if last >= number:
                return said


class Learner(Party):
    """Uploads `payload` of bytes of a seed, up to a step."""

    def __init__(
        self, addresses: Mapping[str, str], model: str, upload_id: bytes, size: int, step: str, *, archived: bool
    ) -> None:
        about = {channel: addresses[channel] for channel in ("upload", "push", "data")}
        super().__init__("learner", json.dumps(about), model, upload_id.hex(), size, step, int(archived))
        assert self.next() == step


class Exclusive(Party):
    """An exclusive learner with our client: says `half` when it is in the middle of a publication, waits there for SIGCONT, and
    says then what came of it, and of two more."""

    HOWS = ("publish", "draft", "slot asked for ahead")

    def __init__(self, url: str, model: str, how: str, slot_dir: str) -> None:
        super().__init__("exclusive", url, model, how, slot_dir)


class Halfway:
    """A payload of one byte again and again, whose copying stops in the middle."""

    content_type = "application/octet-stream"
    metadata: dict[str, str] = {}
    fixed = None

    def __init__(self, size: int, byte: int) -> None:
        self.size = size
        self._byte = bytes([byte])

    def copy_into(self, buffer: memoryview, filled: Callable[[int], None]) -> None:
        middle = self.size // 2
        buffer[:middle] = self._byte * middle
        filled(middle)
        pause_here()
        buffer[middle:] = self._byte * (self.size - middle)
        filled(self.size)


def pause_here() -> None:
    print(json.dumps("half"), flush=True)
    signal.sigwait({signal.SIGCONT})


def publish_exclusively(url: str, model: str, how: str, slot_dir: str) -> None:
    """Its payloads are of bytes 1."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCONT})  # in every thread: it is waited for
    import numpy as np

    from clients import BroadcasterError, codec, connect

    plan, size = codec.plan, 24 << 20
    codec.plan = lambda weights, cache: weights if isinstance(weights, Halfway) else plan(weights, cache)  # type: ignore
    with connect(url, slot_dir=slot_dir or None) as client:
        publisher = client.publisher(model, exclusive=True)
        for _ in range(3):
            publisher.publish(bytes([1]) * size)

        def by_draft() -> object:
            with publisher.draft({"w": np.empty(size, np.uint8)}) as draft:
                draft.tree["w"][: size // 2] = 1
                pause_here()
                draft.tree["w"][size // 2 :] = 1
                return draft.commit(timeout=20)

        def ahead() -> object:
            pause_here()
            return publisher.publish(bytes([1]) * size, timeout=20)

        first = {"publish": lambda: publisher.publish(Halfway(size, 1), timeout=20), "draft": by_draft}.get(how, ahead)
        for attempt in (first, lambda: publisher.publish(b"small"), lambda: publisher.publish(bytes([1]) * size)):
            try:
                print(json.dumps(str(attempt())), flush=True)
            except BroadcasterError as error:
                print(json.dumps(error.code), flush=True)


def payload_of(size: int) -> bytes:
    """The same bytes in every process."""
    return random.Random(size).randbytes(size)


def follow(url: str, model: str, delivery: str) -> None:
    from clients import connect

    with connect(url) as client, client.subscriber(model, delivery=delivery) as subscriber:
        print(json.dumps("following"), flush=True)
        for snapshot in subscriber:
            found, stats, version = xxhash.xxh3_128_hexdigest(snapshot.payload), subscriber.stats(), snapshot.version
            said = {"number": version.number, "digest": version.digest, "found": found}
            print(json.dumps(said | {"gaps": stats.gaps, "repaired": stats.repaired}), flush=True)


def learn(addresses: dict[str, str], model: str, upload_id: bytes, size: int, step: str, archived: bool) -> None:
    payload = payload_of(size)
    with BarePeer(addresses) as peer:
        peer.say("begin", upload_id, model_id=model, size=size, archived=archived)
        assert peer.heard().kind == "credit"
        for index in range({"begun": 0, "some chunks": 2}.get(step, 99)):
            if index << 20 < size:
                peer.chunk(upload_id, payload, index)
        if step == "committed":
            peer.say("commit", upload_id, digest=digest(payload))
            wait_until(lambda: peer.numbers(model), "the version")  # The answer to the commit is not read.
        print(json.dumps(step), flush=True)
        signal.pause()


if __name__ == "__main__":
    if sys.argv[1] == "actor":
        follow(*sys.argv[2:5])
    elif sys.argv[1] == "exclusive":
        publish_exclusively(*sys.argv[2:6])
    else:
        _, _, where, model, upload_id, size, step, archived = sys.argv
        learn(json.loads(where), model, bytes.fromhex(upload_id), int(size), step, bool(int(archived)))
