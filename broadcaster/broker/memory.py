"""The memory that payloads take: reserved before a byte moves, held by versions, free again, made ahead of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broadcaster.broker.rooms import Front, Key, Place, Rooms, submit
from broadcaster.catalog import Kept
from broadcaster.protocol.errors import BroadcasterError, BudgetExceeded
from broadcaster.protocol.limits import INLINE, PAGE
from broadcaster.slots import Slot

QUIET = 0.05
"""Seconds after a version within which the next one may begin: later, there is time to make a slot for it ahead."""


class Memory:
    """Where every payload lies: those of uploads are `in_flight`, those of versions have a place by number."""

    def __init__(self, rooms: Rooms, front: Front, clock: Callable[[], float]) -> None:
        self._rooms = rooms
        self._front = front
        self._clock = clock
        self._places: dict[tuple[Key, int], Place] = {}
        self.in_flight = 0
        """Bytes of memory that uploads hold."""
        self.quiet: float | None = None
        """When to look whether a slot is missing."""
        self.let_go: Callable[[], bool] = lambda: False
        """Gives up what stays in memory for its readers alone; whether that was anything."""

    # --- coming ----------------------------------------------------------------------------------------------------

    def reserve(self, model_id: str, size: int, now: float) -> Place:
        """A place for an upload; older versions leave for it. Raises BudgetExceeded, or what the pool of slots says."""
        charge = self._rooms.slots.charge(size)
        while leaving := self._leaving(model_id, charge):
            self.evict(leaving, now)  # What readers hold of it is pinned now: perhaps more must leave.
        place = self._rooms.slots.grant(size)
        self.in_flight += place.charge
        return place

    def _leaving(self, model_id: str, charge: int) -> list[Kept]:
        """What must leave memory so that `charge` bytes fit. Raises BudgetExceeded."""
        catalog, slots = self._rooms.catalog, self._rooms.slots
        try:
            return catalog.reserve(model_id, charge, self.in_flight, slots.pinned_bytes)
        except BudgetExceeded:
            if not (slots.survey() | self.let_go()):  # A reader may have let go since the last look.
                raise
        return catalog.reserve(model_id, charge, self.in_flight, slots.pinned_bytes)

    def hold(self, key: Key, number: int, place: Place) -> None:
        """What was an upload's is a version's from here on."""
        self._places[key, number] = place
        self.in_flight -= place.charge

    def give_back(self, place: Place, *, written: bool) -> None:
        """A place that no version came to lie in. `written`: a writer that said nothing more may still write to it."""
        self.in_flight -= place.charge
        if written:
            self._rooms.stats.count("grants_withdrawn")
            self._rooms.slots.withdraw(place)
        else:
            self._release(place)

    # --- there -----------------------------------------------------------------------------------------------------

    def place(self, key: Key, number: int) -> Place:
        """Where a version that is in memory lies."""
        return self._places[key, number]

    def inline_payload(self, key: Key, kept: Kept) -> memoryview | None:
        """The payload of a small version that is in memory."""
        return self._places[key, kept.info.number].view if kept.resident and kept.info.size <= INLINE else None

    def slot_of(self, key: Key, kept: Kept) -> tuple[str, int] | None:
        """Name and generation of the slot in which a version lies; None for one that is inline or not in memory."""
        place = self._places.get((key, kept.info.number))
        return (place.path.name, place.generation) if isinstance(place, Slot) else None

    # --- leaving ---------------------------------------------------------------------------------------------------

    def evict(self, leaving: list[Kept], now: float, announcing: Key | None = None) -> tuple[int, ...]:
        """Frees the memory of these versions. Those of `announcing` ride in its next event; the others get one of their own."""
        gone: dict[Key, list[int]] = {}
        for kept in leaving:
            key = (kept.info.namespace, kept.info.model_id)
            self._release(self._places.pop((key, kept.info.number)))
            if not kept.info.archived:
                self._rooms.stats.count("evicted")
                gone.setdefault(key, []).append(kept.info.number)
        riding = gone.get(announcing, [])[:PAGE] if announcing else []
        for key, numbers in gone.items():
            for at in range(len(riding) if key == announcing else 0, len(numbers), PAGE):  # as many as fit into one message
                evicted = tuple(numbers[at : at + PAGE])
                self._front.push_event(self._rooms.emit(key, "evicted", now, evicted=evicted), None)
        return tuple(riding)

    def forget(self, key: Key, number: int) -> None:
        """A version was deleted, in memory or not."""
        place = self._places.pop((key, number), None)
        if place is not None:
            self._release(place)

    def _release(self, place: Place) -> None:
        unlinked = self._rooms.slots.release(place)
        if unlinked:
            self._rooms.stats.count("slots_unlinked", unlinked)

    # --- ahead of time ---------------------------------------------------------------------------------------------

    def committed(self, size: int) -> None:
        """A payload of `size` bytes came: when it stays quiet, there may be a slot to make for the next one."""
        if size > INLINE:
            self.quiet = self._clock() + QUIET

    def prepare(self, now: float, carries: Callable[[], bool]) -> None:
        """It is quiet: unless uploads carry something, a thread that has time makes the slot that the next payload will need."""
        if self.quiet is None or now < self.quiet:
            return
        self.quiet = None
        job = None if carries() else self._rooms.slots.spare()
        if job is None:
            return

        def finished(result: Slot | BaseException) -> None:
            self._rooms.slots.keep(result)
            self.quiet = self._clock()  # Perhaps one of another size is missing too.

        try:
            submit(self._rooms.readers, self._front, job, finished)
        except BroadcasterError as error:
            finished(error)


def where(place: Place) -> dict[str, Any]:
    """What a message says of where a payload lies on this host."""
    return {"slot": place.path.name, "generation": place.generation} if isinstance(place, Slot) else {}
