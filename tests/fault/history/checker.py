"""The invariants that every run is held to, whatever faults there were. Pure: a history comes in, sentences come out.

    I1  whole            what is delivered or fetched is what its writer published
    I2  unique           a number of a model names one payload for ever; an upload makes one version
    I3  ordered          an actor's versions only grow; one that wants every version misses none without being told
    I4  durable          archived and acknowledged: fetchable until it is deleted; what a rule keeps is not pruned
    I5  no resurrection  deleted and acknowledged: never fetched, listed or delivered to a newcomer again
    I6  read your commit what starts after an answer sees what was answered
    I7  converge         when the faults are over, every living actor has the newest version soon, or after all the others
    I8  no hang          every call ends by its deadline; what failed had no effect
    I9  isolation        `slowdown`, of two sets of latencies: the rest of a run is not slower for a fault elsewhere
    I10 bounded          memory and descriptors stay under their bound
    I11 clean            nothing is left over

An outcome that is unknown may be either; the system is then held to what it shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.fault.history.events import FAILED, Delivery, Gone, History, Operation

NOT_THERE = {"unknown-version", "unknown-model", "version-evicted", "store-corrupt"}
"""Answers to a fetch that deny the version."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a run is held to: seconds to the newest version after the faults, and over a deadline; bytes; descriptors."""

    converge: float = 5.0
    grace: float = 1.0
    memory: int | None = None
    descriptors: int | None = None


class Sight(NamedTuple):
    """Somebody saw version `number` with payload `digest`, between `start` and `end`."""

    model: str
    number: int
    digest: str
    start: float
    end: float
    what: str


def check(history: History, bounds: Bounds | None = None) -> list[str]:
    """Every breach of an invariant, as a sentence that begins with its name."""
    known, bounds = Known(history), bounds or Bounds()
    found: list[str] = []
    for finder in (
        whole,
        unique,
        once,
        ordered,
        complete,
        durable,
        kept_by_rule,
        gone_for_ever,
        seen,
        aliases,
        effectless,
        clean,
    ):
        found += finder(known)
    for held in (converged, in_time, bounded):
        found += held(known, bounds)
    return found


class Known:
    """A history, with what the checks ask of it again and again."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.published = history.named("publish")
        self.deletions: dict[str, list[Operation]] = defaultdict(list)
        for one in history.named("delete", "delete-model", "prune"):
            self.deletions[one["model"]].append(one)
        self.digests: dict[str, Operation] = {}
        """By digest, the first attempt to publish it."""
        for one in self.published:
            self.digests.setdefault(one["digest"], one)
        self.sights = sorted(self._sights(), key=lambda sight: sight.end)
        self.first_seen: dict[tuple[str, int], Sight] = {}
        for sight in self.sights:
            self.first_seen.setdefault((sight.model, sight.number), sight)
        self.acked = [one for one in self.published if one.ok]
        self.durable = [one for one in self.acked if one["archived"]] + [
            one for one in history.named("archive") if one.ok and one["number"] is not None
        ]

    def _sights(self) -> Iterator[Sight]:
        for one in self.history.operations:
            if one.name in ("publish", "fetch", "archive") and one.ok and one["number"] is not None and one["digest"]:
                yield Sight(one["model"], one["number"], one["digest"], one.start, one.over, f"{one.name} by {one.who}")
            if one.name == "list" and one.ok:
                for number, digest in one["versions"]:
                    yield Sight(one["model"], number, digest, one.start, one.over, f"list by {one.who}")
        for delivery in self.history.deliveries:
            what = f"delivery to {delivery.who}"
            yield Sight(delivery.model, delivery.number, delivery.found, delivery.at, delivery.at, what)

    def one_life(self, start: float, end: float) -> bool:
        """Whether the same broadcaster served all that time."""
        return not any(span.start <= end and start <= span.end for span in self.history.away)

    def _covers(self, deletion: Operation, model: str, number: int) -> bool:
        """Whether the deletion may have been of this version."""
        if deletion.outcome == FAILED:
            return False
        if deletion.name == "delete":
            return bool(deletion["number"] == number)
        if deletion.name == "prune" and deletion.ok and self.one_life(deletion.start, deletion.over):
            return number in deletion["numbers"]  # Else an answer may be lost that named more.
        first = self.first_seen.get((model, number))
        return first is None or first.start < deletion.over  # What was published later was not meant.

    def maybe_deleted(self, model: str, number: int, by: float) -> bool:
        """Whether a deletion that began before `by` may have taken it."""
        return any(one.start <= by and self._covers(one, model, number) for one in self.deletions[model])

    def deleted_at(self, model: str, number: int) -> float | None:
        """From when on the version is gone for certain: acknowledged, and there when it was asked for."""
        times = []
        for one in self.deletions[model]:
            if not one.ok or not self._covers(one, model, number):
                continue
            first = self.first_seen.get((model, number))
            there = first is not None and first.end < one.start
            if {"delete": True, "prune": number in (one["numbers"] or ()), "delete-model": there}[one.name]:
                times.append(one.over)
        return min(times, default=None)


# --- I1, I2 --------------------------------------------------------------------------------------------------------


def whole(known: Known) -> Iterator[str]:
    for delivery in known.history.deliveries:
        if delivery.found != delivery.digest:
            yield f"I1 torn: {delivery.who} got {delivery.found} for {_name(delivery)}, said to be {delivery.digest}"
    for one in known.history.named("fetch"):
        if one.ok and one["said"] is not None and one["said"] != one["digest"]:
            yield f"I1 torn: {one.who} fetched {one['digest']} for {one['model']} {one['number']}, said to be {one['said']}"
    for sight in known.sights:
        origin = known.digests.get(sight.digest)
        if origin is None or origin["model"] != sight.model or origin.start > sight.end:
            yield f"I1 invented: nobody had published {sight.digest} of {sight.model}, which was seen as {_seen(sight)}"


def unique(known: Known) -> Iterator[str]:
    for sight in known.sights:
        first = known.first_seen[sight.model, sight.number]
        if sight.digest != first.digest:
            yield f"I2 reused: {_seen(first)} is {first.digest}, and {_seen(sight)} is {sight.digest}"


def once(known: Known) -> Iterator[str]:
    """An upload may get another number in another life, when the first one was lost with the memory: never beside it."""
    for one in known.history.named("list"):
        if not one.ok:
            continue
        numbers: dict[str, int] = {}
        for number, digest in one["versions"]:
            if digest in numbers:
                yield f"I2 twice: {one['model']} lists upload {digest} as {numbers[digest]} and as {number} (to {one.who})"
            numbers[digest] = number
    first: dict[str, Sight] = {}
    for sight in known.sights:
        before = first.setdefault(sight.digest, sight)
        origin = known.digests.get(sight.digest)
        if before.number != sight.number and origin is not None and known.one_life(origin.start, sight.end):
            yield f"I2 twice: upload {sight.digest} became {_seen(before)} and {_seen(sight)}"


# --- I3 ------------------------------------------------------------------------------------------------------------


def ordered(known: Known) -> Iterator[str]:
    last: dict[tuple[str, str], int] = {}
    for delivery in known.history.deliveries:
        key = (delivery.who, delivery.model)
        if delivery.number <= last.get(key, 0):
            yield f"I3 back: {delivery.who} got {_name(delivery)} after {last[key]}"
        last[key] = max(delivery.number, last.get(key, 0))


def complete(known: Known) -> Iterator[str]:
    """Who wants every version gets each that was acknowledged between two of its own, or is told that it is gone."""
    got: dict[tuple[str, str], list[int]] = defaultdict(list)
    for delivery in known.history.deliveries:
        got[delivery.who, delivery.model].append(delivery.number)
    holes: dict[tuple[str, str], list[Gone]] = defaultdict(list)
    for gone in known.history.gone:
        holes[gone.who, gone.model].append(gone)
    for follower in known.history.followers:
        key = (follower.who, follower.model)
        if not follower.every or not got[key]:
            continue
        numbers, spans = set(got[key]), holes[key]
        for one in known.acked:
            number = one["number"]
            if one["model"] != follower.model or not min(numbers) < number < max(numbers) or number in numbers:
                continue
            told = any(gone.first <= number <= gone.last for gone in spans)
            if not told and not known.maybe_deleted(follower.model, number, float("inf")):
                yield f"I3 skipped: {follower.who} wants every version and was told nothing of {follower.model} {number}"


# --- I4, I5 --------------------------------------------------------------------------------------------------------


def durable(known: Known) -> Iterator[str]:
    fetches: dict[tuple[str, int], list[Operation]] = defaultdict(list)
    for fetch in known.history.named("fetch"):
        fetches[fetch["model"], fetch["ref"]].append(fetch)
    lists: dict[str, list[tuple[Operation, set[int]]]] = defaultdict(list)
    for listing in known.history.named("list"):
        lists[listing["model"]].append((listing, {number for number, _ in listing["versions"] or ()}))
    for one in known.durable:
        model, number = one["model"], one["number"]
        name, read = f"archived {model} {number} of {one.who}", False
        for fetch in fetches[model, number]:
            read |= fetch.ok and known.history.healed is not None and fetch.start >= known.history.healed
            denied = fetch.start >= one.over and fetch["error"] in NOT_THERE
            if denied and not known.maybe_deleted(model, number, fetch.over):
                yield f"I4 lost: {name} was denied to {fetch.who}: {fetch['error']}"
        for listing, listed in lists[model]:
            denied = listing["error"] in NOT_THERE or (listing.ok and number not in listed)
            if denied and listing.start >= one.over and not known.maybe_deleted(model, number, listing.over):
                yield f"I4 lost: {name} was not listed to {listing.who}"
        if known.history.healed is not None and not read and not known.maybe_deleted(model, number, float("inf")):
            yield f"I4 not read back: {name} was not fetched when all was over"


def kept_by_rule(known: Known) -> Iterator[str]:
    """What a rule keeps is not pruned, nor is the newest version, nor one that an alias names."""
    for one in known.history.named("prune"):
        for number in one["numbers"] or ():
            if number % one["every"] == 0:
                yield f"I4 pruned: {one['model']} {number}, though every {one['every']}th is kept"
    moves = known.history.named("set-alias")
    for move in moves:
        others = [one.start for one in moves if one is not move and one["model"] == move["model"] and one.over > move.start]
        for one in known.history.named("prune"):
            named = move.ok and one["model"] == move["model"] and move.over < one.start and one.over < min(others, default=1e99)
            if named and move["number"] in (one["numbers"] or ()):
                yield f"I4 pruned: {one['model']} {move['number']}, though {move['alias']} names it"


def gone_for_ever(known: Known) -> Iterator[str]:
    since = {(one.who, one.model): one.at for one in known.history.followers}
    deleted = {key: known.deleted_at(*key) for key in known.first_seen}
    for one in known.history.named("fetch", "list"):
        if not one.ok:
            continue
        numbers = [number for number, _ in one["versions"]] if one.name == "list" else [one["number"]]
        for number in numbers:
            at = deleted.get((one["model"], number))
            if at is not None and one.start > at:
                yield f"I5 resurrected: deleted {one['model']} {number} came with a {one.name} of {one.who}"
    for delivery in known.history.deliveries:
        at = deleted.get((delivery.model, delivery.number))
        if at is not None and since.get((delivery.who, delivery.model), 0.0) > at:
            yield f"I5 resurrected: deleted {_name(delivery)} was delivered to {delivery.who}, who came later"


# --- I6 ------------------------------------------------------------------------------------------------------------


def seen(known: Known) -> Iterator[str]:
    """What asks for the newest version, for one, or for all, sees what was acknowledged before."""
    acked: dict[str, list[Operation]] = defaultdict(list)
    for one in sorted(known.acked, key=lambda one: -one["number"]):
        acked[one["model"]].append(one)
    for one in known.history.named("fetch", "list"):
        newest = next((ack["number"] for ack in acked[one["model"]] if _is_there(known, ack, one)), None)
        if newest is not None:
            yield from _sees(known, one, newest)
        meant = next((ack for ack in acked[one["model"]] if ack["number"] == one["ref"]), None)
        if meant is not None and one["error"] == "unknown-version" and _is_there(known, meant, one):
            yield f"I6 not seen: {one.who} asked for {one['model']} {one['ref']}: unknown, but acknowledged before"


def _is_there(known: Known, ack: Operation, asked: Operation) -> bool:
    """Whether a version was acknowledged before it was asked for, and not deleted nor lost with its memory. It may be evicted."""
    if ack.over >= asked.start or known.maybe_deleted(ack["model"], ack["number"], asked.over):
        return False
    return bool(ack["archived"]) or known.one_life(ack.over, asked.over)


def _sees(known: Known, one: Operation, newest: int) -> Iterator[str]:
    """`newest` is there."""
    name = f"{one.who} asked for {one['model']}"
    if one.name == "list" and one.ok and max((number for number, _ in one["versions"]), default=0) < newest:
        yield f"I6 not seen: {name}: the list ends before {newest}, acknowledged before"
    elif one.name == "list" and one["error"] in NOT_THERE:
        yield f"I6 not seen: {name}: {one['error']}, but {newest} was acknowledged before"
    elif one.name == "fetch" and one["ref"] == -1 and one.ok and one["number"] < newest:
        yield f"I6 not seen: {name}: {one['number']} is said to be the newest, but {newest} was acknowledged before"
    elif one.name == "fetch" and one["ref"] == -1 and one["error"] in NOT_THERE and (one["named"] or 0) < newest:
        # (What was looked up may have been deleted or superseded before it was read.)
        yield f"I6 not seen: {name}: {one['error']}, but {newest} was acknowledged before"
    elif one.name == "fetch" and one["ref"] == newest and one["error"] == "version-evicted":
        if not _may_be_superseded(known, one, newest):
            yield f"I6 not seen: {name} {newest}: evicted, but it is the newest"


def _may_be_superseded(known: Known, fetch: Operation, number: int) -> bool:
    """Whether another publication was under way since then."""
    own = [one for one in known.acked if (one["model"], one["number"]) == (fetch["model"], number)]
    begun = min((one.start for one in own), default=0.0)
    others = [one for one in known.published if one["model"] == fetch["model"] and one not in own and one.outcome != FAILED]
    return any(one.start <= fetch.over and one.over >= begun for one in others)


def aliases(known: Known) -> Iterator[str]:
    """Aliases of the load are only moved by compare-and-set, and only to higher numbers."""
    moves: dict[tuple[str, str], list[Operation]] = defaultdict(list)
    for one in known.history.named("set-alias"):
        if one.ok:
            moves[one["model"], one["alias"]].append(one)
    for (model, alias), done in moves.items():
        froms: dict[int, Operation] = {}
        for one in done:
            other = froms.setdefault(one["expect"], one)
            if other is not one and not known.maybe_deleted(model, other["number"], one.over):
                yield f"I6 lost update: {one.who} and {other.who} both moved {alias} of {model} away from {one['expect']}"
    for read in known.history.named("read-alias"):
        model, alias = read["model"], read["alias"]
        before = [one["number"] for one in moves[model, alias] if one.over < read.start]
        if before and not known.maybe_deleted(model, max(before), read.over):
            if (read.ok and read["number"] < max(before)) or read["error"] in NOT_THERE:
                found = f"{alias} of {model} at {read['number'] or read['error']}"
                yield f"I6 not seen: {read.who} found {found}, moved to {max(before)} before"


# --- I7, I8 --------------------------------------------------------------------------------------------------------


def converged(known: Known, bounds: Bounds) -> Iterator[str]:
    history = known.history
    if history.healed is None:
        return
    newest: dict[str, Operation] = {}
    for one in known.acked:
        if not known.maybe_deleted(one["model"], one["number"], float("inf")):
            if one["model"] not in newest or one["number"] > newest[one["model"]]["number"]:
                newest[one["model"]] = one
    for follower in history.followers:
        last = newest.get(follower.model)
        if last is None or follower.who in history.killed:
            continue
        due = max(history.healed, last.over, follower.at) + bounds.converge
        times = [
            delivery.at
            for delivery in history.deliveries
            if (delivery.who, delivery.model) == (follower.who, follower.model) and delivery.number >= last["number"]
        ]
        if not times:
            yield f"I7 not converged: {follower.who} never got {follower.model} {last['number']}"
        elif min(times) > due and not follower.every:  # Who wants each comes to it behind all that were missed.
            late = min(times) - due + bounds.converge
            yield f"I7 not converged: {follower.who} got {follower.model} {last['number']} only after {late:.1f} s"


def in_time(known: Known, bounds: Bounds) -> Iterator[str]:
    """Each call ends by its deadline; time in which its process was stopped does not count."""
    history = known.history
    for one in history.operations:
        end = one.end
        if end is None:
            end = history.killed.get(one.who, history.ended)
        if one.limit is None or end is None:
            continue
        took = end - one.start - sum(span.overlap(one.start, end) for span in history.stops.get(one.who, []))
        if took > one.limit + bounds.grace:
            yield f"I8 hang: {one.name} of {one.who} took {took:.1f} s, its deadline was {one.limit:g} s"


def effectless(known: Known) -> Iterator[str]:
    """A publication that failed, in every attempt, made no version."""
    outcomes: dict[str, set[str]] = defaultdict(set)
    for one in known.published:
        outcomes[one["digest"]].add(one.outcome)
    for sight in known.sights:
        if outcomes.get(sight.digest) == {FAILED}:
            yield f"I8 effect: upload {sight.digest} failed, but it was seen as {_seen(sight)}"


# --- I9, I10, I11 --------------------------------------------------------------------------------------------------


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which that share of them lies."""
    line = sorted(values)
    return line[min(len(line) - 1, int(share * len(line)))]


def slowdown(baseline: Iterable[float], during: Iterable[float], share: float = 0.99) -> float:
    """I9: how many times longer things took."""
    return percentile(during, share) / percentile(baseline, share)


def bounded(known: Known, bounds: Bounds) -> Iterator[str]:
    for sample in known.history.samples:
        if bounds.memory is not None and sample.memory > bounds.memory:
            yield f"I10 memory: the broadcaster took {sample.memory >> 20} MiB, its bound is {bounds.memory >> 20} MiB"
        if bounds.descriptors is not None and sample.descriptors > bounds.descriptors:
            yield f"I10 descriptors: the broadcaster had {sample.descriptors} open, its bound is {bounds.descriptors}"


def clean(known: Known) -> Iterator[str]:
    for what in known.history.left_over:
        yield f"I11 left over: {what}"


def _name(delivery: Delivery) -> str:
    return f"{delivery.model} {delivery.number}"


def _seen(sight: Sight) -> str:
    return f"{sight.model} {sight.number} ({sight.what})"
