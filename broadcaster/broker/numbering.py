"""Blocks of version numbers made durable ahead of their use, and the uploads that have to wait for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from broadcaster.broker.checks import store_error
from broadcaster.broker.rooms import Front, Key, Rooms, submit
from broadcaster.broker.uploads import Upload
from broadcaster.protocol.errors import BroadcasterError


class Numbering:
    """Keeps `rooms.numbers` supplied. Who waited for a number is handed to `go`, or to `fail`."""

    def __init__(
        self,
        rooms: Rooms,
        front: Front,
        *,
        go: Callable[[Upload, float], None],
        fail: Callable[[Upload, BroadcasterError], None],
    ) -> None:
        self._rooms = rooms
        self._front = front
        self._go = go
        self._fail = fail
        self._parked: dict[Key, list[Upload]] = {}

    def want(self, key: Key, now: float) -> None:
        """Makes the next block of numbers durable when half of this one is used."""
        ceiling = self._rooms.numbers.wants(key, now)
        if ceiling is None:
            return
        archive, wanted = self._rooms.archive, ceiling

        def finished(result: None | BaseException) -> None:
            self._came(key, wanted, result, now)

        try:
            submit(self._rooms.reserver, self._front, lambda: archive.reserve_numbers([(*key, wanted)]), finished)
        except BroadcasterError as error:
            finished(error)

    def want_all(self, keys: Iterable[Key], now: float) -> None:
        """A block for each of these models, in one transaction."""
        wanted = {key: self._rooms.numbers.wants(key, now) for key in keys}
        ceilings = [(*key, ceiling) for key, ceiling in wanted.items() if ceiling is not None]
        archive = self._rooms.archive

        def finished(result: None | BaseException) -> None:
            for namespace, model_id, ceiling in ceilings:
                self._came((namespace, model_id), ceiling, result, now)

        if ceilings:
            submit(self._rooms.reserver, self._front, lambda: archive.reserve_numbers(ceilings), finished)

    def park(self, upload: Upload, now: float) -> None:
        """Until a block is durable, or is not to be had."""
        self._parked.setdefault(upload.key, []).append(upload)
        self.want(upload.key, now)

    def _came(self, key: Key, ceiling: int, result: None | BaseException, now: float) -> None:
        """A block is durable, or is not to be had: uploads that wait for a number go on, or end."""
        parked = self._parked.pop(key, [])
        if isinstance(result, BaseException):
            self._rooms.numbers.failed(key)
            for upload in parked:
                self._fail(upload, store_error(result, "reserving version numbers"))
            return
        self._rooms.numbers.reserved(key, ceiling, now)
        for upload in parked:
            self._go(upload, now)
