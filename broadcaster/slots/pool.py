"""The pool of slots: which are granted, which wait for a grant, which are pinned by a reader of what they held before.

    granted ──release──▶ idle ──grant──▶ granted          nobody reads it: locked, and comes round
            ──release──▶ pinned ──(let go)──▶ idle        somebody reads it
                         pinned ──(too many)──▶ lost      unlinked; the memory goes when the reader lets go
            ──withdraw─▶ (gone)                           its writer may wake up: unlinked

What a grant costs does not grow with the number of slots: idle ones are known by their size, and of the pinned ones a handful
is looked at. All of them are looked at by `survey`, twice a second.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from broadcaster.protocol.errors import NoSpace, StoreUnavailable
from broadcaster.protocol.limits import INLINE
from broadcaster.protocol.slot import HEADER
from broadcaster.slots.slot import Inline, Slot, capacity_for

PINNED_SHARE = 0.25
"""Part of the budget that slots which left, and are still read, may take before the longest-held ones are unlinked."""
LOST = 256
"""Unlinked slots that are watched until their readers let go; of more, the oldest are not counted any more."""
_LOOKS = 4
"""Pinned slots looked at for a grant, from either end of their queue."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)


class SlotPool:
    """Grants slots inside one directory, up to `budget` bytes of files."""

    def __init__(self, directory: Path, budget: int, *, pinned_share: float = PINNED_SHARE) -> None:
        self.directory = directory
        self.budget = budget
        self.pinned_limit = int(budget * pinned_share)
        self.bytes = 0
        """Bytes of all slot files that have a name."""
        self.pinned_bytes = 0
        """Of those, bytes of slots whose version left and is still read."""
        self.lost_bytes = 0
        """Bytes of unlinked slots that are still read, as far as we watch them."""
        self._granted: set[Slot] = set()
        self._idle: dict[int, list[Slot]] = {}
        """By capacity; the one used last comes last, and goes out first: its pages are warmest."""
        self._pinned: dict[Slot, None] = {}
        """The longest-held one first."""
        self._lost: dict[Slot, None] = {}
        self._lately: dict[int, None] = {}
        """Capacities that were granted since the last `spare`."""
        self._making: tuple[Path, int] | None = None
        """A slot that is being made ahead, and its bytes."""
        self._serial = 0

    @property
    def used_slots(self) -> int:
        return len(self._granted)

    @property
    def free_slots(self) -> int:
        return sum(len(slots) for slots in self._idle.values())

    @property
    def pinned_slots(self) -> int:
        return len(self._pinned)

    @property
    def lost_slots(self) -> int:
        return len(self._lost)

    @staticmethod
    def charge(size: int) -> int:
        """Bytes of memory that a payload of `size` bytes takes at least."""
        return size + 512 if size <= INLINE else HEADER + capacity_for(size)

    # --- granting --------------------------------------------------------------------------------------------------

    def grant(self, size: int) -> Slot | Inline:
        """A place for `size` bytes; a slot is empty and locked.

        Raises NoSpace when there is neither an old slot nor room for a new one, StoreUnavailable when none can be made.
        """
        if size <= INLINE:
            return Inline(size)
        capacity = capacity_for(size)
        self._lately[capacity] = None
        slot = self._take_idle(size) or self._take_pinned(size)
        if slot is None:
            self._make_room(capacity)
            slot = self._create(capacity)
        slot.grant(size)
        self._granted.add(slot)
        return slot

    def release(self, place: Slot | Inline) -> int:
        """The version in it left. A slot comes round again once nobody reads it.

        Returns how many slots were unlinked because readers hold more than their share.
        """
        if not isinstance(place, Slot):
            return 0
        self._granted.remove(place)
        place.empty()
        if place.free():
            self._rest(place)
            return 0
        self._pinned[place] = None
        self.pinned_bytes += place.charge
        return self._limit()

    def withdraw(self, place: Slot | Inline) -> None:
        """Its writer may wake up and write into it: it is unlinked and never granted again."""
        if isinstance(place, Slot):
            self._granted.remove(place)
            self._drop(place)

    def survey(self) -> bool:
        """Looks which pinned and lost slots are read no more. Returns whether any was let go."""
        found = [slot for slot in self._pinned if slot.free()]
        for slot in found:
            self._unpin(slot)
            self._rest(slot)
        gone = [slot for slot in self._lost if slot.free()]
        for slot in gone:
            self._forget(slot)
        return bool(found or gone)

    def close(self) -> None:
        """Unlinks every slot."""
        idle = [slot for slots in self._idle.values() for slot in slots]
        for slot in [*self._granted, *idle, *self._pinned, *self._lost]:
            slot.close()
        if self._making is not None:
            self._making[0].unlink(missing_ok=True)
        for known in (self._granted, self._idle, self._pinned, self._lost):
            known.clear()

    # --- ahead of time ---------------------------------------------------------------------------------------------

    def spare(self) -> Callable[[], Slot] | None:
        """A job for another thread: it makes the slot that the next payload of a size seen lately would have to wait for, with
        every page touched, and `keep` is to be told what came of it. None when no slot is missing, or there is no room."""
        while self._lately and self._making is None:
            capacity, _ = self._lately.popitem()
            charge = HEADER + capacity
            if not any(_fits(capacity, held) for held in self._idle) and self.bytes + charge <= self.budget:
                self._making = self._name(), charge
                self.bytes += charge
                return partial(Slot, self._making[0], capacity, warm=True)
        return None

    def keep(self, made: Slot | BaseException) -> None:
        """What `spare`'s job came to. A failure is nothing yet: whoever needs a slot will be told."""
        assert self._making is not None
        (_, charge), self._making = self._making, None
        if not isinstance(made, Slot):
            self.bytes -= charge
        elif self.bytes > self.budget:
            self._drop(made)  # Meanwhile a payload needed its room.
        else:
            self._rest(made)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _take_idle(self, size: int) -> Slot | None:
        fitting = [capacity for capacity in self._idle if _fits(size, capacity)]
        return self._pop(min(fitting), -1) if fitting else None

    def _take_pinned(self, size: int) -> Slot | None:
        """One that was let go since the last look."""
        for slot in {**dict.fromkeys(islice(self._pinned, _LOOKS)), **dict.fromkeys(islice(reversed(self._pinned), _LOOKS))}:
            if _fits(size, slot.capacity) and slot.free():
                self._unpin(slot)
                return slot
        return None

    def _pop(self, capacity: int, at: int) -> Slot:
        slots = self._idle[capacity]
        slot = slots.pop(at)
        if not slots:
            del self._idle[capacity]
        return slot

    def _rest(self, slot: Slot) -> None:
        self._idle.setdefault(slot.capacity, []).append(slot)

    def _unpin(self, slot: Slot) -> None:
        del self._pinned[slot]
        self.pinned_bytes -= slot.charge

    def _limit(self) -> int:
        """Unlinks the longest-held slots while readers hold more than their share."""
        unlinked = 0
        while self.pinned_bytes > self.pinned_limit:
            slot = next(iter(self._pinned))
            self._unpin(slot)
            if slot.free():
                self._rest(slot)
                continue
            slot.unlink()
            unlinked += 1
            self.bytes -= slot.charge
            self._lost[slot] = None
            self.lost_bytes += slot.charge
        while len(self._lost) > LOST:
            self._forget(next(iter(self._lost)))
        return unlinked

    def _forget(self, slot: Slot) -> None:
        del self._lost[slot]
        self.lost_bytes -= slot.charge
        slot.close()

    def _drop(self, slot: Slot) -> None:
        self.bytes -= slot.charge
        slot.close()

    def _name(self) -> Path:
        self._serial += 1
        return self.directory / f"slot-{self._serial}-{secrets.token_hex(4)}"

    def _create(self, capacity: int) -> Slot:
        where = f"the slot directory {self.directory}"
        try:
            slot = Slot(self._name(), capacity)
        except OSError as wrong:
            if wrong.errno in _FULL and self._idle:  # Somebody else fills this file system: what we do not need goes first.
                self._drop(self._pop(next(iter(self._idle)), 0))
                return self._create(capacity)
            if wrong.errno in _FULL:
                raise NoSpace(size=capacity, where=where) from wrong
            reason, hint = wrong.strerror or str(wrong), "Make it usable again, or restart the broadcaster with another one"
            raise StoreUnavailable(operation="making a slot", where=where, reason=reason, hint=hint) from wrong
        self.bytes += slot.charge
        return slot

    def _make_room(self, capacity: int) -> None:
        """Unlinks idle slots of other sizes while the files would be over the budget. Those that are read stay: they fit."""
        while self._idle and self.bytes + HEADER + capacity > self.budget:
            self._drop(self._pop(next(iter(self._idle)), 0))


def _fits(size: int, capacity: int) -> bool:
    """Whether a slot of `capacity` is large enough for `size` bytes, and not a waste."""
    best = capacity_for(size)
    return size <= capacity <= best + best // 4
