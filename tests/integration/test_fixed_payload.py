"""Bytes cannot change: they are sent from where they lie, and kept no longer than anything else that was published."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import xxhash
import zmq

from broadcaster.protocol.limits import CHUNK
from clients import connect
from clients._driver.frames import Frames
from tests.broadcaster_process import BroadcasterProcess


def test_bytes_are_sent_from_where_they_lie(monkeypatch: pytest.MonkeyPatch, shared: BroadcasterProcess, model: str) -> None:
    sent: list[int] = []
    real = Frames._frame

    def noted(self: Frames, offset: int, frame: Any) -> zmq.Frame:
        sent.append(np.frombuffer(frame, np.uint8).ctypes.data - offset)
        return real(self, offset, frame)

    monkeypatch.setattr(Frames, "_frame", noted)
    with connect(shared.url, slot_dir="/nonexistent") as client:
        publisher = client.publisher(model)
        for size in (CHUNK, 3 * CHUNK + 5):
            payload = np.random.default_rng(size).bytes(size)
            sent.clear()
            assert publisher.publish(payload).digest == xxhash.xxh3_128_hexdigest(payload)
            assert set(sent) == {np.frombuffer(payload, np.uint8).ctypes.data}
            sent.clear()
            changing = bytearray(payload)
            publisher.publish(changing)
            assert np.frombuffer(changing, np.uint8).ctypes.data not in sent and len(set(sent)) == 1


def test_what_was_published_is_let_go_with_the_next(shared: BroadcasterProcess, model: str) -> None:
    with connect(shared.url, slot_dir="/nonexistent") as client:
        publisher = client.publisher(model)
        publisher.publish(bytes(2 * CHUNK))
        upload = publisher._sending.line._last
        assert upload is not None and upload[1] is None and upload[0].payload is not None
        gone = weakref.ref(upload[0])
        del upload
        publisher.publish(bytes(2 * CHUNK + 1))
        gc.collect()
        assert gone() is None


def test_bytes_of_no_size_are_a_payload_whatever_their_shape(shared: BroadcasterProcess, model: str) -> None:
    with connect(shared.url) as client:
        for nothing in (b"", memoryview(b""), memoryview(b"abcd").cast("B", (2, 2))[0:0]):
            assert client.publisher(model).publish(nothing).size == 0
