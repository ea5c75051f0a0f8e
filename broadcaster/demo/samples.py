"""The way of the samples from the actors to the learner: raw arrays over ZeroMQ, and credit against queues that grow old.

A segment is what one actor did in a few steps of its environments. It travels as one message: a msgpack head, then each array's
bytes in the order of `FIELDS`. An actor has at most `WINDOW` segments on the way; the learner's answer to a segment is an empty
message that allows the next one. So what waits for the learner is bounded, and with it the age of the samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import zmq

from broadcaster.demo.policy import OBSERVATION
from broadcaster.protocol.errors import RemoteProtocolError

WINDOW = 2
"""Segments of one actor that may be on the way at once."""

FIELDS: dict[str, tuple[Any, bool, tuple[int, ...]]] = {
    "versions": (np.int64, False, ()),
    "observations": (np.float32, True, (OBSERVATION,)),
    "following": (np.float32, True, (OBSERVATION,)),
    "actions": (np.uint8, True, ()),
    "behaviour": (np.float32, True, ()),
    "terminated": (np.bool_, True, ()),
    "ended": (np.bool_, True, ()),
}
"""dtype of each array, whether its second axis is the environment (the first is always the step), and the axes after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Some steps of one actor's environments; arrays of (steps,) or (steps, envs) and more axes, as `FIELDS` says."""

    actor: int
    versions: npt.NDArray[np.int64]
    """For each step the number of the policy version that chose its actions."""
    observations: npt.NDArray[np.float32]
    following: npt.NDArray[np.float32]
    """What was observed after the action; at the end of an episode its last observation, not the next one's first."""
    actions: npt.NDArray[np.uint8]
    behaviour: npt.NDArray[np.float32]
    """Log-probability of each action under the version that chose it."""
    terminated: npt.NDArray[np.bool_]
    ended: npt.NDArray[np.bool_]
    """Terminated, or cut off by the time limit."""
    returns: list[float] = field(default_factory=list)
    """The return of each episode that ended in these steps."""

    @classmethod
    def empty(cls, actor: int, steps: int, envs: int) -> Segment:
        """A segment of zeros, to be filled in place."""
        arrays: dict[str, Any] = {name: np.zeros(_shape(name, steps, envs), dtype) for name, (dtype, _, _) in FIELDS.items()}
        return cls(actor=actor, **arrays)

    def since(self, step: int) -> Segment:
        """The steps from `step` on, as views; the returns stay: the episodes did end."""
        return Segment(actor=self.actor, returns=self.returns, **{name: getattr(self, name)[step:] for name in FIELDS})


def encode(segment: Segment) -> list[Any]:
    """The frames of a segment; the arrays' own memory, not copies."""
    steps, envs = segment.actions.shape
    head = msgpack.packb({"actor": segment.actor, "steps": steps, "envs": envs, "returns": segment.returns})
    return [head, *(np.ascontiguousarray(getattr(segment, name)) for name in FIELDS)]


def decode(frames: list[bytes]) -> Segment:
    """The segment that `frames` hold, as read-only views of them. RemoteProtocolError when they are not those of a segment."""
    try:
        head = msgpack.unpackb(frames[0])
        actor, steps, envs, returns = (head[key] for key in ("actor", "steps", "envs", "returns"))
        arrays = {
            name: np.frombuffer(frame, FIELDS[name][0]).reshape(_shape(name, steps, envs))
            for name, frame in zip(FIELDS, frames[1:], strict=True)
        }
        return Segment(actor=int(actor), returns=[float(value) for value in returns], **arrays)
    except (IndexError, KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(reason=f"this is not a segment of samples: {error}") from error


class SampleSender:
    """An actor's end of the channel."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(address)
        self._credit = WINDOW

    def has_room(self, milliseconds: int) -> bool:
        """Whether a segment may be sent; waits up to so long for the learner's permission."""
        if self._credit == 0 and not self._socket.poll(milliseconds):
            return False
        while self._socket.poll(0):
            self._socket.recv_multipart()
            self._credit += 1
        return True

    def send(self, segment: Segment) -> None:
        """Sends a segment; only after `has_room` said so. Its arrays may be reused at once."""
        self._credit -= 1
        self._socket.send_multipart(encode(segment), copy=True)


class SampleReceiver:
    """The learner's end of the channel, bound to `address`."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(address)

    def receive(self, milliseconds: int) -> Segment | None:
        """The next segment, or None when none came in so long a time. Its actor may send another."""
        if not self._socket.poll(milliseconds):
            return None
        sender, *frames = self._socket.recv_multipart()
        self._socket.send_multipart([sender, b""])
        return decode(frames)


def _shape(name: str, steps: int, envs: int) -> tuple[int, ...]:
    _, per_env, rest = FIELDS[name]
    return (steps, envs, *rest) if per_env else (steps, *rest)
