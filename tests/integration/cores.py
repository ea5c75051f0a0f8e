"""A broadcaster inside the test's own process, so that a test can hold its threads and break its disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack

from broadcaster.broker import Rooms
from broadcaster.catalog import Retention
from broadcaster.server.core import Core, CoreOptions
from broadcaster.store.worker import Worker
from tests.bare_peer import WAIT, BarePeer, Said, heard, wait_until


def core(directory: Path, **options: Any) -> Core:
    """On free ports, in directories of its own below `directory`."""
    given: dict[str, Any] = {
        "host": "127.0.0.1",
        "upload_port": 0,
        "push_port": 0,
        "data_port": 0,
        "advertise": None,
        "archive_dir": directory / "archive",
        "slot_dir": directory / "slots",
        "max_payload": 1 << 30,
        "retention": Retention(),
        "node_name": "lab-7",
    }
    return Core(CoreOptions(**(given | options)))


@contextmanager
def serving(directory: Path, **options: Any) -> Iterator[tuple[Core, BarePeer]]:
    """A core that serves, and a peer of it."""
    made = core(directory, **options)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        with BarePeer(made.endpoints) as peer:
            yield made, peer
    finally:
        made.loop.stop()
        thread.join()
        made.close()


def rooms(made: Core) -> Rooms:
    return made._rooms


@contextmanager
def held(worker: Worker) -> Iterator[threading.Event]:
    """All threads of a worker are busy until the event is set; at the end it is."""
    release = threading.Event()
    threads = len(worker._threads)
    for _ in range(threads):
        worker.submit(lambda: release.wait(30), lambda _: None)
    wait_until(lambda: worker.pending - worker.waiting == threads, "the worker's threads are held")
    try:
        yield release
    finally:
        release.set()


class Inbox:
    """Requests whose answers are taken later, in any order."""

    def __init__(self, peer: BarePeer) -> None:
        self._peer = peer
        self._came: dict[bytes, Said] = {}

    def send(self, kind: str, **fields: Any) -> bytes:
        """Sends a request, and returns its id."""
        given = {"request_id": os.urandom(16)} | fields
        self._peer.data.send_multipart([b"", kind.encode(), msgpack.packb(given)])
        request_id: bytes = given["request_id"]
        return request_id

    def answer(self, request_id: bytes) -> Said:
        """The next answer to that request."""
        while request_id not in self._came:
            said = heard(self._peer.data, "an answer", WAIT, envelope=1)
            assert said.fields["request_id"] not in self._came, "two answers are not awaited"
            self._came[said.fields["request_id"]] = said
        return self._came.pop(request_id)
