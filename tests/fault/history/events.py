"""What happened, as each process saw it: an append-only file of lines per process, and the history that they make together.

recorder = Recorder(directory / "learner-1.jsonl", "learner-1")
with recorder.operation("publish", limit=10, model="policy", digest=...) as result:
    result["number"] = publisher.publish(weights, timeout=10).number

A line is written with one call, so a process that is killed leaves whole lines but for its last one. Times are of the monotonic
clock, which all processes of a host share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broadcaster.protocol.errors import (
    BroadcasterError,
    Conflict,
    NoSpace,
    StoreError,
    TransportError,
    UnknownModel,
    UnknownVersion,
)

OK, FAILED, UNKNOWN = "ok", "failed", "unknown"
CHANGES = {"delete", "delete-model", "prune", "set-alias"}


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that a process asked for. `end` None: it was killed before it knew.

    `outcome` is ok, failed (it had no effect), or unknown (it may have had one). `limit` is its deadline in seconds.
    """

    who: str
    name: str
    start: float
    end: float | None = None
    outcome: str = UNKNOWN
    limit: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def over(self) -> float:
        """When it was over, for all that is known."""
        return float("inf") if self.end is None else self.end

    @property
    def ok(self) -> bool:
        return self.outcome == OK

    def __getitem__(self, fact: str) -> Any:
        return self.facts.get(fact)


@dataclass(frozen=True, slots=True)
class Follower:
    """An actor's process, from when it subscribed."""

    who: str
    model: str
    every: bool
    at: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """A version that an actor got: `digest` is what it was said to be, `found` what the actor found."""

    who: str
    model: str
    number: int
    at: float
    digest: str
    found: str


@dataclass(frozen=True, slots=True)
class Gone:
    """An actor that gets every version was told that those from `first` to `last` cannot be had."""

    who: str
    model: str
    first: int
    last: int
    at: float


@dataclass(frozen=True, slots=True)
class Span:
    """From when until when something was so: a broadcaster was away, a process stopped."""

    start: float
    end: float

    def overlap(self, start: float, end: float) -> float:
        return max(0.0, min(self.end, end) - max(self.start, start))


@dataclass(frozen=True, slots=True)
class Sample:
    """What the broadcaster took at one moment: bytes of private memory, open descriptors."""

    at: float
    memory: int
    descriptors: int


@dataclass
class History:
    """Everything of one run. `healed` is when the last fault was over, `ended` when the run was."""

    operations: list[Operation] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    away: list[Span] = field(default_factory=list)
    """When there was no broadcaster: from before each kill until the next life served."""
    stops: dict[str, list[Span]] = field(default_factory=dict)
    """When each process was stopped."""
    killed: dict[str, float] = field(default_factory=dict)
    """When each process that was killed was."""
    samples: list[Sample] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    """What was found behind a broadcaster that had ended, and should not have been there."""
    healed: float | None = None
    ended: float | None = None

    def named(self, *names: str) -> list[Operation]:
        return [one for one in self.operations if one.name in names]


class Recorder:
    """Writes what one process does and sees."""

    def __init__(self, path: Path, who: str) -> None:
        self.who = who
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._count = 0

    def write(self, kind: str, **facts: Any) -> None:
        """One line, at once."""
        line = {"kind": kind, "who": self.who, "at": time.monotonic()} | facts
        os.write(self._fd, json.dumps(line).encode() + b"\n")

    @contextmanager
    def operation(self, name: str, *, limit: float, **facts: Any) -> Generator[dict[str, Any], None, None]:
        """An operation from here to the end of the block; what is put into the dict given is known of its result.

        An error of the product ends it, and is `error` in the dict; every other one goes on.
        """
        self._count += 1
        number = self._count
        self.write("start", id=number, name=name, limit=limit, facts=facts)
        result: dict[str, Any] = {}
        try:
            yield result
            outcome = OK
        except BroadcasterError as error:
            outcome = outcome_of(name, error)
            result |= {"outcome": outcome, "error": error.code, "reason": str(error), "named": error.facts.get("number")}
        self.write("end", id=number, outcome=outcome, facts=result)


def outcome_of(name: str, error: BroadcasterError) -> str:
    """What is known of an operation that ended so. A disk that failed may have kept what it was given; a publication that was
    numbered was announced; a change that was asked for again in another life may be refused for what the first attempt did."""
    if isinstance(error, (TransportError, StoreError)):
        return UNKNOWN
    if name == "publish" and isinstance(error, (UnknownVersion, UnknownModel)):
        return UNKNOWN  # It was announced, and deleted before it was archived.
    if name in CHANGES and isinstance(error, (UnknownVersion, UnknownModel, Conflict)):
        return UNKNOWN
    if isinstance(error, NoSpace) and name != "publish":
        return UNKNOWN
    return UNKNOWN if name == "publish" and error.facts.get("number") is not None else FAILED


def history_of(paths: Iterable[Path]) -> History:
    """The history in these files."""
    history = History()
    for path in paths:
        begun: dict[int, Operation] = {}
        for line in path.read_bytes().split(b"\n")[:-1]:  # Behind the last newline is nothing, or half a line.
            take(history, begun, json.loads(line))
        history.operations += begun.values()
    history.operations.sort(key=lambda one: one.start)
    history.deliveries.sort(key=lambda one: one.at)
    return history


def take(history: History, begun: dict[int, Operation], line: dict[str, Any]) -> None:
    """One line of a file whose operations under way are `begun`."""
    who, at = line["who"], line["at"]
    match line["kind"]:
        case "start":
            begun[line["id"]] = Operation(who, line["name"], at, limit=line["limit"], facts=line["facts"])
        case "end":
            one = begun.pop(line["id"])
            facts = {**one.facts, **line["facts"]}
            history.operations.append(Operation(who, one.name, one.start, at, line["outcome"], one.limit, facts))
        case "follow":
            history.followers.append(Follower(who, line["model"], line["every"], at))
        case "deliver":
            history.deliveries.append(Delivery(who, line["model"], line["number"], at, line["digest"], line["found"]))
        case "gone":
            history.gone.append(Gone(who, line["model"], line["first"], line["last"], at))
        case "killed":
            history.killed[line["whom"]] = at
        case "away":
            history.away.append(Span(line["since"], at))
        case "stopped":
            history.stops.setdefault(line["whom"], []).append(Span(line["since"], at))
        case "sample":
            history.samples.append(Sample(at, line["memory"], line["descriptors"]))
        case "left-over":
            history.left_over.append(line["what"])
        case "healed":
            history.healed = at
        case "ended":
            history.ended = at
