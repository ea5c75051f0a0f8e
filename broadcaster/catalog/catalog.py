"""What versions there are, which is newest, and what must leave memory. Pure: decides what to evict, evicts nothing.

A version is *resident* while its payload is in memory and *archived* once it is on disk; it can be fetched while it is
either. The newest version of a model never leaves memory, nor does one that is pinned (being archived, say). Nothing here costs
more when more versions are kept or more models are known.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from broadcaster.catalog.eviction import Entry, EvictionQueue
from broadcaster.protocol.errors import (
    AlreadyExists,
    BudgetExceeded,
    Conflict,
    Fact,
    PinsExceeded,
    Refused,
    StoreCorrupt,
    UnknownModel,
    UnknownVersion,
    VersionDeleted,
    VersionEvicted,
)
from broadcaster.protocol.limits import ALIASES, INLINE, PINS
from broadcaster.protocol.names import LATEST
from broadcaster.protocol.ranges import Ranges, bounded, covers, merged
from broadcaster.protocol.version import ModelInfo, VersionInfo

Key = tuple[str, str]
"""(namespace, model_id)"""


@dataclass(frozen=True, slots=True)
class Retention:
    """How much stays in memory: per model, in bytes over all, and for how long (seconds)."""

    budget: int = 1 << 30
    keep: int = 1000
    """Newest resident versions of a model."""
    keep_large: int = 8
    """Of those over 64 KiB, which need a slot."""
    expiry: float = 3600.0


@dataclass(slots=True)
class Kept:
    """One version that can be fetched."""

    info: VersionInfo
    upload_id: bytes
    place: int
    """Place in the order of all commits: eviction is oldest first."""
    committed: float
    charge: int = 0
    """Bytes of memory its payload takes; 0 when it is not resident."""
    pins: int = 0
    held: bool = False
    """It is transient and a user pinned it: one of its pins is that."""
    passed_over: bool = False
    """It was next to leave memory while it was held."""
    leaving: bool = False
    """Its deletion is under way: it must not be archived any more, for that would come behind the deletion on the disk."""

    @property
    def resident(self) -> bool:
        return self.charge > 0


@dataclass(slots=True)
class _Line:
    """One model."""

    created: int
    user_data: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    versions: dict[int, Kept] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)
    """The keys of `versions`, ascending."""
    resident: OrderedDict[int, None] = field(default_factory=OrderedDict)
    large: OrderedDict[int, None] = field(default_factory=OrderedDict)
    description: str = ""
    retention: Mapping[str, Fact] = field(default_factory=dict)
    highest: int = 0
    """The highest number ever seen here: below it, what is missing was evicted or deleted."""
    deleted: Ranges = ()
    lost: frozenset[int] = frozenset()
    """Numbers of archived versions of which nothing can be read any more."""
    pinned: set[int] = field(default_factory=set)
    """Numbers of versions that a user pinned."""


class Catalog:
    """All models and versions of one broadcaster."""

    def __init__(self, retention: Retention) -> None:
        self.retention = retention
        self.resident_bytes = 0
        self.newest_bytes = 0
        self.pinned_bytes = 0
        """Bytes of pinned versions that are not their model's newest."""
        self.held_bytes = 0
        """Bytes of transient versions that users pinned."""
        self.held_count = 0
        self.version_count = 0
        self.lost_count = 0
        """Versions of which nothing can be read any more but their numbers."""
        self._lines: dict[Key, _Line] = {}
        self._names: dict[str, list[str]] = {}
        self._ended: dict[Key, int] = {}
        """The last number of each model that was deleted and not made again."""
        self._places = 0
        self._evictable = EvictionQueue()
        """Resident versions that were superseded."""

    # --- models ----------------------------------------------------------------------------------------------------

    def create(
        self,
        key: Key,
        created: int,
        *,
        user_data: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
        retention: Mapping[str, Fact] | None = None,
    ) -> ModelInfo:
        """A new model without versions. Raises AlreadyExists."""
        if key in self._lines:
            raise AlreadyExists(model_id=key[1], what="the model")
        line = _Line(created, dict(user_data or {}), dict(tags or {}), description=description, retention=dict(retention or {}))
        line.highest = self._ended.pop(key, 0)
        line.deleted = ((1, line.highest),) if line.highest else ()
        self._lines[key] = line
        insort(self._names.setdefault(key[0], []), key[1])
        return self.model(key)

    def has(self, key: Key) -> bool:
        return key in self._lines

    def model(self, key: Key) -> ModelInfo:
        """Raises UnknownModel."""
        line = self._line(key)
        return ModelInfo(
            namespace=key[0],
            model_id=key[1],
            user_data=line.user_data,
            tags=line.tags,
            aliases=dict(line.aliases),
            newest=line.numbers[-1] if line.numbers else None,
            versions=len(line.numbers),
            creation_timestamp=line.created,
            description=line.description,
            retention=line.retention,
        )

    def update(
        self,
        key: Key,
        *,
        user_data: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        description: str | None = None,
        retention: Mapping[str, Fact] | None = None,
    ) -> ModelInfo:
        """Replaces what is given. Raises UnknownModel."""
        line = self._line(key)
        if user_data is not None:
            line.user_data = dict(user_data)
        if tags is not None:
            line.tags = dict(tags)
        if description is not None:
            line.description = description
        if retention is not None:
            line.retention = dict(retention)
        return self.model(key)

    def require_deletable(self, key: Key, *, force: bool) -> None:
        """Raises UnknownModel; Refused while an alias points into the model or a version of it is pinned, unless forced."""
        line = self._line(key)
        if line.aliases and not force:
            raise Refused(model_id=key[1], reason=f"alias {min(line.aliases)} points into it: delete it with force")
        if line.pinned and not force:
            raise Refused(model_id=key[1], reason=f"version {min(line.pinned)} of it is pinned: delete it with force")

    def all(self, key: Key) -> list[Kept]:
        """Every version of a model. Raises UnknownModel."""
        return list(self._line(key).versions.values())

    def delete(self, key: Key, upto: int) -> list[Kept]:
        """Forgets the model and returns the versions it had. Versions above `upto` came since it was asked: they stay, in
        a model without annotations. Raises UnknownModel."""
        line = self._line(key)
        kept = [line.versions[number] for number in line.numbers if number <= upto]
        for one in kept:
            self._forget(line, one)
        self.lost_count -= len(line.lost)
        line.lost = frozenset()
        if line.numbers:
            line.user_data, line.tags, line.aliases = {}, {}, {}
            line.description, line.retention = "", {}
            line.deleted = merged((*line.deleted, (1, upto)) if upto else line.deleted, ())
        else:
            self._ended[key] = max(upto, line.highest)
            del self._lines[key]
            names = self._names[key[0]]
            del names[bisect_left(names, key[1])]
        return kept

    def models(self, namespace: str, after: str | None) -> Iterator[ModelInfo]:
        """The models of a namespace in order of name, from the one behind `after`."""
        names = self._names.get(namespace, [])
        for name in names[0 if after is None else bisect_right(names, after) :]:
            yield self.model((namespace, name))

    @property
    def model_count(self) -> int:
        return len(self._lines)

    # --- versions --------------------------------------------------------------------------------------------------

    def add(self, info: VersionInfo, upload_id: bytes, charge: int, now: float) -> tuple[Kept, list[Kept]]:
        """The new newest version of its model, resident with `charge` bytes, and the versions that must leave memory for it."""
        key = (info.namespace, info.model_id)
        line = self._line(key)
        before = self.newest(key)
        self._places += 1
        kept = Kept(info, upload_id, self._places, now, charge)
        self._insert(line, kept)
        line.resident[info.number] = None
        if info.size > INLINE:
            line.large[info.number] = None
        self.resident_bytes += charge
        self.newest_bytes += charge
        if before is not None and before.resident:
            self.newest_bytes -= before.charge
            self.pinned_bytes += before.charge if before.pins else 0
            self._evictable.push(before.place, key, before.info.number)
        over = self._over(line, line.resident, self.retention.keep)
        over += self._over(line, line.large, self.retention.keep_large)
        return kept, over + self.expired(now)

    def load(self, info: VersionInfo, upload_id: bytes) -> Kept:
        """An archived version that a start found on disk. In ascending order of number for each model."""
        kept = Kept(info, upload_id, 0, 0.0)
        self._insert(self._line((info.namespace, info.model_id)), kept)
        return kept

    def adopt(self, info: VersionInfo, upload_id: bytes) -> Kept:
        """An archived version that is found on disk while newer ones are known already. Raises UnknownModel."""
        line = self._line((info.namespace, info.model_id))
        if info.number > line.highest:
            return self.load(info, upload_id)
        kept = Kept(info, upload_id, 0, 0.0)
        line.versions = dict(sorted([*line.versions.items(), (info.number, kept)]))
        insort(line.numbers, info.number)
        self._no_longer_lost(line, info.number)
        if info.pinned:
            line.pinned.add(info.number)
        self.version_count += 1
        return kept

    def load_deleted(self, key: Key, ranges: Ranges, ended: int) -> None:
        """What a start knows of a model's deleted versions, and up to which number a model of this name was deleted (0: none)."""
        line = self._lines.get(key)
        if line is None:
            self._ended[key] = ended
            return
        line.deleted = merged((*ranges, (1, ended)) if ended else ranges, ())
        line.highest = max([line.highest, *(last for _, last in line.deleted[-1:])])
        self.load_aliases(key, line.aliases)

    def load_lost(self, key: Key, numbers: Iterable[int]) -> None:
        """What a start knows of versions that are damaged so that nothing is known of them but their numbers."""
        line = self._line(key)
        line.lost = frozenset(numbers)
        line.highest = max([line.highest, *line.lost])
        self.lost_count += len(line.lost)

    def replace(self, kept: Kept, **changes: object) -> Kept:
        """The same version with other annotations (archived, sha256, tags, metrics)."""
        kept.info = replace(kept.info, **changes)  # type: ignore[arg-type]
        if kept.held and kept.info.archived:
            self._let_go(kept)  # The disk holds it now.
        return kept

    def find(self, key: Key, ref: int | str) -> Kept:
        """By number, by -n (the n-th newest that can be fetched), by alias, or as "latest", which is -1.

        Raises UnknownModel, UnknownVersion, VersionDeleted or VersionEvicted for what was there and left, StoreCorrupt for what
        is damaged so that nothing is known of it.
        """
        line = self._line(key)
        ref = -1 if ref == LATEST else ref
        number = line.aliases.get(ref) if isinstance(ref, str) else ref
        if number is None or number == 0 or number < -len(line.numbers):
            raise UnknownVersion(model_id=key[1], number=f"with alias {ref}" if isinstance(ref, str) else ref)
        if number < 0:
            number = line.numbers[number]
        kept = line.versions.get(number)
        if kept is not None:
            return kept
        if covers(line.deleted, number):
            raise VersionDeleted(model_id=key[1], number=number)
        if number in line.lost:
            raise StoreCorrupt(
                operation=f"looking up {key[1]} version {number}",
                where="the archive",
                reason="its manifest cannot be read",
                hint="Restore it from a backup, or delete it.",
                model_id=key[1],
                number=number,
            )
        # An alias was given to a version that was there, perhaps in an earlier life.
        was_there = number <= line.highest or isinstance(ref, str)
        raise (VersionEvicted if was_there else UnknownVersion)(model_id=key[1], number=number)

    def find_staying(self, key: Key, ref: int | str) -> Kept:
        """As `find`, of what is not being deleted: what is said of a version must not be lost with it without a word."""
        kept = self.find(key, ref)
        if kept.leaving:
            raise VersionDeleted(model_id=key[1], number=kept.info.number)
        return kept

    def require_renewable(self, key: Key, number: int, floor: int) -> None:
        """Raises Conflict unless a version of an earlier life may come back under its number: nothing newer and no deletion is
        known, and it is not above `floor`, from where on numbers are given in this life."""
        line = self._lines.get(key)
        known = self._ended.get(key, 0) if line is None else line.highest
        if not known < number <= floor:
            found = f"version {known}" if known >= number else "no such version"
            raise Conflict(model_id=key[1], expected=f"version {number} of an earlier life as the newest", found=found)

    def holds(self, kept: Kept) -> bool:
        """Whether this very version is still known."""
        line = self._lines.get((kept.info.namespace, kept.info.model_id))
        return line is not None and line.versions.get(kept.info.number) is kept

    def newest(self, key: Key) -> Kept | None:
        """The newest version that can be fetched, or None."""
        line = self._lines.get(key)
        return line.versions[line.numbers[-1]] if line is not None and line.numbers else None

    def versions(self, key: Key, after: int) -> Iterator[VersionInfo]:
        """The versions of a model that can be fetched, ascending, from the number behind `after`. Raises UnknownModel."""
        line = self._line(key)
        numbers = line.numbers[bisect_right(line.numbers, after) :]
        return (line.versions[number].info for number in numbers)

    def count(self, key: Key, after: int, upto: int) -> int:
        """How many versions with numbers behind `after`, up to `upto`, can be fetched; 0 where there is no such model."""
        line = self._lines.get(key)
        return 0 if line is None else max(0, bisect_right(line.numbers, upto) - bisect_right(line.numbers, after))

    def require(self, key: Key) -> None:
        """Raises UnknownModel."""
        self._line(key)

    def names(self, namespace: str) -> list[str]:
        """The models of a namespace, in order of name."""
        return list(self._names.get(namespace, ()))

    def numbers(self, key: Key) -> list[int]:
        """The versions of a model that can be fetched, ascending. Raises UnknownModel."""
        return list(self._line(key).numbers)

    def known(self, key: Key, number: int) -> VersionInfo | None:
        """A version, if it can be fetched."""
        line = self._lines.get(key)
        kept = line.versions.get(number) if line is not None else None
        return kept.info if kept is not None else None

    def aliases(self, key: Key) -> dict[int, list[str]]:
        """The aliases of each version of a model that has any; none where there is no such model."""
        line, found = self._lines.get(key), defaultdict[int, list[str]](list)
        for name, number in line.aliases.items() if line is not None else ():
            found[number].append(name)
        return found

    def require_version_deletable(self, key: Key, number: int, *, force: bool) -> Kept:
        """Raises UnknownModel, UnknownVersion, and Refused while an alias names the version or it is pinned, unless forced."""
        line, kept = self._line(key), self.find(key, number)
        names = sorted(alias for alias, at in line.aliases.items() if at == number)
        if names and not force:
            raise Refused(model_id=key[1], reason=f"alias {names[0]} names version {number}: delete it with force")
        if kept.info.pinned and not force:
            raise Refused(model_id=key[1], reason=f"version {number} is pinned: delete it with force")
        return kept

    def delete_version(self, key: Key, kept: Kept) -> None:
        """Forgets one version, and the aliases that name it."""
        line, number = self._line(key), kept.info.number
        line.aliases = {alias: at for alias, at in line.aliases.items() if at != number}
        self._forget(line, kept)
        line.deleted = bounded(merged(line.deleted, [number]), line.numbers)

    def is_lost(self, key: Key, number: int) -> bool:
        """Whether this is a version of which nothing can be read any more. Raises UnknownModel."""
        return number in self._line(key).lost

    def delete_lost(self, key: Key, number: int) -> None:
        """Forgets one of those."""
        line = self._line(key)
        self._no_longer_lost(line, number)
        line.deleted = bounded(merged(line.deleted, [number]), line.numbers)

    def archived(self, key: Key) -> list[VersionInfo]:
        """The archived versions of a model that are not being deleted, ascending. Raises UnknownModel."""
        versions = self._line(key).versions
        return [kept.info for kept in versions.values() if kept.info.archived and not kept.leaving]

    def prunable(self, key: Key, numbers: Iterable[int]) -> list[Kept]:
        """Those of these versions that nothing holds now: archived, not aliased, not pinned, and not the newest archived one."""
        line = self._lines.get(key)
        if line is None:
            return []
        staying = [number for number in line.numbers if (kept := line.versions[number]).info.archived and not kept.leaving]
        held = {*line.aliases.values(), *line.pinned, *staying[-1:]}
        free = set(staying) - held
        return [line.versions[number] for number in numbers if number in free]

    def retained(self) -> list[Key]:
        """The models that have a retention policy."""
        return [key for key, line in self._lines.items() if line.retention]

    def has_retention(self, key: Key) -> bool:
        """Whether this model has one."""
        line = self._lines.get(key)
        return line is not None and bool(line.retention)

    def set_alias(self, key: Key, alias: str, number: int | None, expect: int | None) -> dict[str, int]:
        """Moves or removes an alias; `expect` is the number it must have now (0: none). Returns all aliases of the model.

        Raises UnknownModel, UnknownVersion, VersionEvicted, Conflict; Refused for one more than a model may have.
        """
        line = self._line(key)
        found = line.aliases.get(alias, 0)
        if expect is not None and expect != found:
            raise Conflict(model_id=key[1], expected=expect, found=found)
        if number is not None and not found and len(line.aliases) >= ALIASES:
            raise Refused(model_id=key[1], reason=f"it has {ALIASES} aliases, and may have no more: remove one first")
        if number is None:
            line.aliases.pop(alias, None)
        else:
            line.aliases[alias] = self.find_staying(key, number).info.number
        return dict(line.aliases)

    def load_aliases(self, key: Key, aliases: Mapping[str, int]) -> None:
        """These are the model's aliases, but for those of versions that were deleted. One that names a transient version of an
        earlier life stays: its learner may announce that version again."""
        line = self._line(key)
        line.aliases = {name: number for name, number in aliases.items() if not covers(line.deleted, number)}

    # --- memory ----------------------------------------------------------------------------------------------------

    def reserve(self, model_id: str, size: int, in_flight: int, pinned: int = 0) -> list[Kept]:
        """The versions that must leave memory so that `size` more bytes fit beside `in_flight` bytes of other uploads and
        `pinned` bytes of versions that left and are still read.

        Raises BudgetExceeded, evicting nothing, when what may not leave is too much already.
        """
        budget = self.retention.budget
        if in_flight + self.newest_bytes + self.pinned_bytes + pinned + size > budget:
            raise BudgetExceeded(
                model_id=model_id,
                size=size,
                in_flight=in_flight,
                newest=self.newest_bytes,
                pinned=self.pinned_bytes + pinned,
                budget=budget,
            )
        return self._leave_while(lambda _: self.resident_bytes + in_flight + pinned + size > budget)

    def expired(self, now: float) -> list[Kept]:
        """The versions whose time in memory is over."""
        return self._leave_while(lambda kept: now - kept.committed >= self.retention.expiry)

    def pin(self, kept: Kept) -> None:
        """Keeps a resident version in memory until `unpin`."""
        kept.pins += 1
        if kept.pins == 1 and kept.resident and not self._is_newest(kept):
            self.pinned_bytes += kept.charge

    def unpin(self, kept: Kept) -> None:
        kept.pins -= 1
        if kept.pins == 0 and kept.resident and not self._is_newest(kept):
            self.pinned_bytes -= kept.charge

    def set_pinned(self, kept: Kept, *, pinned: bool) -> VersionInfo:
        """Pins a version for a user, or lets it go. A transient one stays in memory meanwhile, for nothing else holds it.

        Raises PinsExceeded when transient versions hold too much of the memory budget already.
        """
        if pinned == kept.info.pinned:
            return kept.info
        line = self._line((kept.info.namespace, kept.info.model_id))
        if pinned and not kept.info.archived:
            self._hold(line, kept)
        elif kept.held:
            self._let_go(kept)
        (line.pinned.add if pinned else line.pinned.discard)(kept.info.number)
        kept.info = replace(kept.info, pinned=pinned)
        return kept.info

    def _hold(self, line: _Line, kept: Kept) -> None:
        number, most = kept.info.number, self.retention.budget // 2
        if self.held_bytes + kept.charge > most or self.held_count >= PINS:
            raise PinsExceeded(
                model_id=kept.info.model_id,
                number=number,
                size=kept.charge,
                count=self.held_count,
                pinned=self.held_bytes,
                most=PINS,
                budget=most,
            )
        self.pin(kept)
        kept.held = True
        self.held_bytes += kept.charge
        self.held_count += 1
        line.resident.pop(number, None)  # What must stay is not looked at when others have to leave.
        line.large.pop(number, None)

    def _let_go(self, kept: Kept) -> None:
        """Nobody holds it in memory any more: it leaves when its turn comes."""
        key, number = (kept.info.namespace, kept.info.model_id), kept.info.number
        line = self._line(key)
        kept.held = False
        self.unpin(kept)
        self.held_bytes -= kept.charge
        self.held_count -= 1
        line.resident = OrderedDict.fromkeys(sorted([*line.resident, number]))
        if kept.info.size > INLINE:
            line.large = OrderedDict.fromkeys(sorted([*line.large, number]))
        if kept.passed_over:
            kept.passed_over = False
            self._evictable.push(kept.place, key, number)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _line(self, key: Key) -> _Line:
        line = self._lines.get(key)
        if line is None:
            raise UnknownModel(model_id=key[1], namespace=key[0])
        return line

    def _is_newest(self, kept: Kept) -> bool:
        return self.newest((kept.info.namespace, kept.info.model_id)) is kept

    def _insert(self, line: _Line, kept: Kept) -> None:
        number = kept.info.number
        assert number > line.highest, "numbers only grow"
        line.versions[number] = kept
        line.numbers.append(number)
        line.highest = number
        if kept.info.pinned:
            line.pinned.add(number)
        self.version_count += 1

    def _no_longer_lost(self, line: _Line, number: int) -> None:
        self.lost_count -= number in line.lost
        line.lost -= {number}

    def _superseded(self, entry: Entry) -> Kept | None:
        """The version of a heap entry if it is still resident and not (again) its model's newest."""
        _, key, number = entry
        line = self._lines.get(key)
        kept = line.versions.get(number) if line is not None else None
        if kept is None or not kept.resident or self._is_newest(kept):
            return None
        if kept.held:
            kept.passed_over = True
            return None
        return kept

    def _leave_while(self, goes: Callable[[Kept], bool]) -> list[Kept]:
        """The oldest superseded versions, out of memory, up to the first that does not go. Pinned ones stay where they are."""
        over: list[Kept] = []
        held: list[Entry] = []
        while self._evictable:
            entry = self._evictable.first()
            kept = self._superseded(entry)
            if kept is not None and not goes(kept):
                break
            self._evictable.pop()
            if kept is not None and kept.pins:
                held.append(entry)
            elif kept is not None:
                self._leave(self._lines[entry[1]], kept)
                over.append(kept)
        for entry in held:
            self._evictable.push(*entry)
        return over

    def _over(self, line: _Line, numbers: OrderedDict[int, None], keep: int) -> list[Kept]:
        """The oldest of these that are more than `keep`: out of memory."""
        excess = len(numbers) - keep
        over: list[Kept] = []
        for number in numbers:
            if len(over) >= excess:
                break
            kept = line.versions[number]
            if not kept.pins and number != line.numbers[-1]:
                over.append(kept)
        for kept in over:
            self._leave(line, kept)
        return over

    def _leave(self, line: _Line, kept: Kept) -> None:
        """Out of memory; out of the catalog too unless it is archived."""
        number = kept.info.number
        self._evictable.discard(kept.place)
        self.resident_bytes -= kept.charge
        kept.charge = 0
        line.resident.pop(number, None)
        line.large.pop(number, None)
        if not kept.info.archived:
            self._remove(line, number)

    def _forget(self, line: _Line, kept: Kept) -> None:
        """Out of memory and of the catalog, whatever it is."""
        self._evictable.discard(kept.place)
        if kept.resident:
            newest = bool(line.numbers) and line.numbers[-1] == kept.info.number
            self.newest_bytes -= kept.charge if newest else 0
            self.pinned_bytes -= kept.charge if kept.pins and not newest else 0
            self.resident_bytes -= kept.charge
            if kept.held:
                self.held_bytes -= kept.charge
                self.held_count -= 1
                kept.held = False
            kept.charge = 0
            if newest and len(line.numbers) > 1:
                before = line.versions[line.numbers[-2]]
                self.newest_bytes += before.charge
                self.pinned_bytes -= before.charge if before.pins else 0
        line.resident.pop(kept.info.number, None)
        line.large.pop(kept.info.number, None)
        self._remove(line, kept.info.number)

    def _remove(self, line: _Line, number: int) -> None:
        line.pinned.discard(number)
        del line.versions[number]
        del line.numbers[bisect_left(line.numbers, number)]
        self.version_count -= 1
