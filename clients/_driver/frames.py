"""Zero-copy frames over the memory of a publisher's payloads, made once and sent again and again."""

from __future__ import annotations

import zmq

from broadcaster.protocol.frames import Buffer, Chunk


class Frames:
    """The frames of one piece of memory, by chunk. A frame made for each send would have pyzmq's collector thread told of each,
    which costs as much again as sending it."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], zmq.Frame] = {}

    def of(self, chunk: Chunk) -> zmq.Frame:
        """The frame of a chunk, which must always lie at the same place for the same offset and length."""
        return self._frame(chunk.header.offset, chunk.data)

    def whole(self, payload: memoryview) -> zmq.Frame:
        """The frame of a payload that is sent in one piece."""
        return self._frame(0, payload)

    def _frame(self, offset: int, data: Buffer) -> zmq.Frame:
        key = offset, len(data)
        frame = self._made.get(key)
        if frame is None:
            frame = self._made[key] = zmq.Frame(data, track=False, copy=False)
        return frame
