"""Retention at work: archived versions that a policy lets go are deleted, some at a time, off the publish path.

What is decided on another thread is looked at again on the loop before it goes: an alias or a pin that came meanwhile holds.
Then it goes the way of every deletion: durable first, forgotten and told afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from broadcaster.broker.archiving import Archiving
from broadcaster.broker.checks import store_error
from broadcaster.broker.rooms import Caller, Front, Key, Rooms, submit
from broadcaster.broker.waiting import Waiting
from broadcaster.catalog import Kept
from broadcaster.protocol.errors import BroadcasterError, InvalidRequest, Refused, UnknownVersion
from broadcaster.protocol.limits import PAGE
from broadcaster.protocol.messages import Prune, Pruned
from broadcaster.protocol.retention import RetentionPolicy
from broadcaster.retention import ClockGuard, Decision, decide

TURN = 100
"""Versions that are deleted in one job of the archive thread: a version that is to be archived waits no longer than for these."""
PERIOD = 3600.0
"""Seconds between two looks at models in which nothing was archived: their versions grow old all the same."""

Forget = Callable[[Key, Iterable[Kept]], None]
Told = Callable[[str, Key], None]


@dataclass(slots=True)
class _Run:
    """One look at one model."""

    key: Key
    policy: RetentionPolicy
    after: int
    done: Callable[[Decision | BroadcasterError, list[Kept]], None]
    """Told what was decided, and which versions went."""
    dry: bool = False


class Pruning:
    """Applies policies: the standing ones by itself, others when it is asked. `wall` tells ns since 1970, `clock` seconds.

    `told` hears in a sentence, for an operator, when a standing policy does not do its work, and of which model.
    """

    def __init__(
        self,
        rooms: Rooms,
        front: Front,
        archiving: Archiving,
        waiting: Waiting,
        forget: Forget,
        *,
        clock: Callable[[], float],
        wall: Callable[[], int],
    ) -> None:
        self._rooms = rooms
        self._front = front
        self._archiving = archiving
        self._waiting = waiting
        self._forget = forget
        self._clock = clock
        self._wall = wall
        self._guard = ClockGuard(wall(), clock())
        self._due: dict[Key, None] = {}
        self._all_due = clock() + PERIOD
        self._unsettled: Counter[Key] = Counter()
        self._running = False
        self._held = False
        self.told: Told = lambda sentence, key: None

    # --- by itself -------------------------------------------------------------------------------------------------

    def want(self, key: Key) -> None:
        """The standing policy of this model is applied soon, if it has one."""
        if self._rooms.catalog.has_retention(key):
            self._due[key] = None

    def settling(self, key: Key) -> Callable[[], None]:
        """The standing policy of this model is new, and not durable yet: it deletes nothing before it is. To be called then, or
        when it was taken back."""
        self._unsettled[key] += 1

        def settled() -> None:
            self._unsettled -= Counter([key])
            self.want(key)

        return settled

    def tick(self, now: float) -> None:
        """Looks at one model, if one is due and the last look is over."""
        while self._archiving.fresh:
            self.want(self._archiving.fresh.pop())
        if now >= self._all_due:
            self._all_due = now + PERIOD
            self._due |= dict.fromkeys(self._rooms.catalog.retained())
        if self._due and not self._running:
            key = next(iter(self._due))
            del self._due[key]
            self._apply(key, now)

    def _apply(self, key: Key, now: float) -> None:
        if not self._rooms.catalog.has_retention(key) or self._unsettled[key]:
            return
        policy = RetentionPolicy.read(self._rooms.catalog.model(key).retention)
        believed = policy.age is None or self._guard.believes(self._wall(), now)
        if not believed:
            self._rooms.stats.count("retention_refused")
            if not self._held:
                self.told(_jumped(self._guard.moved(self._wall(), now)), key)
        self._held = not believed
        if not believed:
            return
        self._running = True

        def done(result: Decision | BroadcasterError, gone: list[Kept]) -> None:
            self._running = False
            if isinstance(result, BroadcasterError):
                self._rooms.stats.count("retention_failures")
                self.told(f"retention: {result}", key)
            elif len(gone) < len(result.going) and gone:
                self._due[key] = None  # There is more to go: after the others' turn.

        self._decide(_Run(key, policy, 0, done))

    # --- asked -----------------------------------------------------------------------------------------------------

    def prune(self, prune: Prune, caller: Caller, now: float) -> None:
        """Answers with what went, or would go. Raises UnknownModel; InvalidRequest; Refused for an age that the clock cannot be
        believed with, unless forced."""
        key = (prune.namespace, prune.model_id)
        standing = self._rooms.catalog.model(key).retention
        policy = RetentionPolicy.read(standing) if prune.retention is None else read_policy(prune.retention)
        if policy.age is not None:
            self._require_clock(prune, now)

        def done(result: Decision | BroadcasterError, gone: list[Kept]) -> None:
            if isinstance(result, BroadcasterError):
                caller.refuse(result)
            else:
                caller.reply(_pruned(prune, result, gone))

        run = _Run(key, policy, prune.after or 0, done, prune.dry_run)
        self._decide(run, caller)

    def _require_clock(self, prune: Prune, now: float) -> None:
        wall = self._wall()
        if self._guard.believes(wall, now):
            return
        if not prune.force:
            raise Refused(model_id=prune.model_id, reason=_jumped(self._guard.moved(wall, now)))
        if not prune.dry_run:
            self._guard.trust(wall, now)

    # --- a look at one model ---------------------------------------------------------------------------------------

    def _decide(self, run: _Run, caller: Caller | None = None) -> None:
        """What to let go is found on another thread: a model may have many versions."""
        catalog, wall = self._rooms.catalog, self._wall()
        infos, aliases = catalog.archived(run.key), dict(catalog.model(run.key).aliases)

        def job() -> Decision:
            return decide(infos, aliases, run.policy, wall)

        def decided(result: Decision | BaseException) -> None:
            if isinstance(result, BaseException):
                run.done(store_error(result, "pruning"), [])
            elif run.dry:
                run.done(result, [])
            else:
                self._delete(run, result, caller)

        in_time = job if caller is None else self._waiting.in_time(caller, job)
        try:
            submit(self._rooms.readers, self._front, in_time, decided)
        except BroadcasterError as error:
            decided(error)

    def _delete(self, run: _Run, decision: Decision, caller: Caller | None) -> None:
        """The first of them, for ever."""
        numbers = [info.number for info in decision.going if info.number > run.after][:TURN]
        going = self._rooms.catalog.prunable(run.key, numbers)
        if not going:
            run.done(decision, [])
            return
        archive, numbers = self._rooms.archive, [kept.info.number for kept in going]
        _mark(going, leaving=True)

        def job() -> None:
            try:
                archive.delete_versions(*run.key, numbers)
            except UnknownVersion:  # An attempt before this one failed after some of them were gone.
                for number in numbers:
                    with suppress(UnknownVersion):
                        archive.delete_version(*run.key, number)

        def deleted(result: None | BaseException) -> None:
            if isinstance(result, BaseException):
                _mark(going, leaving=False)
                self._archiving.doubt(run.key, numbers, result)
                run.done(store_error(result, "pruning"), [])
            else:
                self._gone(run.key, going)
                run.done(decision, going)

        in_time = job if caller is None else self._waiting.in_time(caller, job)
        try:
            submit(self._rooms.writer, self._front, in_time, deleted)
        except BroadcasterError as error:
            deleted(error)

    def _gone(self, key: Key, deleted: list[Kept]) -> None:
        for kept in deleted:
            if self._rooms.catalog.holds(kept):
                self._rooms.catalog.delete_version(key, kept)
                self._forget(key, [kept])
                event = self._rooms.emit(key, "version-deleted", self._clock(), number=kept.info.number)
                self._front.push_event(event, None)
        self._rooms.stats.count("pruned", len(deleted))


def read_policy(given: Mapping[str, Any]) -> RetentionPolicy:
    """The policy in a message, with a rule at least. Raises InvalidRequest naming what is wrong with it."""
    try:
        policy = RetentionPolicy.read(given).check()
    except InvalidRequest:
        raise
    except ValueError as error:
        raise InvalidRequest(field="retention", reason=str(error)) from None
    if policy.is_empty:
        raise InvalidRequest(field="retention", reason="names no rule: last, every, best or age")
    return policy


def _pruned(prune: Prune, decision: Decision, gone: list[Kept]) -> Pruned:
    """One page of what went or would go."""
    ahead = [info for info in decision.going if info.number > (prune.after or 0)]
    page = ahead[: PAGE if prune.dry_run else TURN]
    infos = page if prune.dry_run else [kept.info for kept in gone]
    return Pruned(
        request_id=prune.request_id,
        numbers=tuple(info.number for info in infos),
        kept=len(decision.staying),
        bytes=sum(info.size for info in infos),
        next=page[-1].number if len(page) < len(ahead) else None,
    )


def _mark(versions: Iterable[Kept], *, leaving: bool) -> None:
    for kept in versions:
        kept.leaving = leaving


def _jumped(seconds: float) -> str:
    way = "ahead of" if seconds > 0 else "behind"
    return (
        f"retention by age is held back: the wall clock is {abs(seconds):.0f} s {way} where it should be by the monotonic one; "
        "if it is right now, restart the broadcaster or prune with force"
    )
