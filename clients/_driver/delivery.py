"""How versions come to a feed: out of the slots of this host or in chunks, and why not the former."""

from __future__ import annotations

import logging
from typing import Literal, get_args

import xxhash

from broadcaster.protocol.errors import InvalidRequest
from broadcaster.protocol.machines.follow import Lease
from clients.buffers import Bytes
from clients.slots.directory import SlotsUnusable
from clients.slots.leases import Leases

log = logging.getLogger("clients")

Kind = Literal["auto", "shared", "chunks"]


class Delivery:
    """What a feed's users want, what it comes to here and now, and what came of it. Runs on the I/O thread; the counts, `now` and
    `reason` may be read from any."""

    def __init__(self, wanted: Kind, *, verify: bool) -> None:
        """Raises InvalidRequest for a `wanted` that is none."""
        if wanted not in get_args(Kind):
            raise InvalidRequest(field="delivery", reason=f"{wanted!r} is none of {', '.join(get_args(Kind))}")
        self.wanted = wanted
        self.verify = verify
        self.leases: Leases | None = None
        """Where versions are leased; None when they are not."""
        self.reason: str | None = None
        """Why the newest version was not leased although that is wanted."""
        self.taken = 0
        self.failed = 0
        self._useless: Leases | None = None
        """Those that cannot be used, which will not change."""

    def same(self, other: Delivery) -> bool:
        """Whether the users of both want the same."""
        return type(other) is Delivery and (self.wanted, self.verify) == (other.wanted, other.verify)

    @property
    def chunks(self) -> bool:
        """Whether chunks are to be pushed."""
        return self.wanted == "chunks" or (self.wanted == "auto" and self.leases is None)

    @property
    def now(self) -> str:
        """`shared`, `chunks`, or `reads`: neither, each version is read over the data channel."""
        if self.chunks:
            return "chunks"
        return "shared" if self.reason is None else "reads"

    def decide(self, leases: Leases | None, why: str) -> None:
        """`leases` are what there is on this host now; None because of `why`."""
        if self.wanted == "chunks" or leases is not None and leases in (self.leases, self._useless):
            return
        self.leases, self.reason = leases, None if leases is not None else why

    def lease(self, wanted: Lease) -> Bytes | None:
        """The payload under a lease, with `verify` compared with its digest; None when it has to come otherwise."""
        if self.leases is None:
            return None
        try:
            root = self.leases.lease(wanted.slot, wanted.generation, wanted.epoch, wanted.version)
            if self.verify and xxhash.xxh3_128_hexdigest(root.data) != wanted.version.digest:
                raise SlotsUnusable(f"{wanted.slot} has other bytes than were committed", passing=True)
        except SlotsUnusable as error:
            self._note(error, wanted)
            return None
        self.taken += 1
        self.reason = None
        return root

    def _note(self, error: SlotsUnusable, wanted: Lease) -> None:
        self.failed += 1
        self.reason = str(error)
        if not error.passing and self.wanted == "auto":
            log.warning("slots cannot be used model=%s reason=%s", wanted.version.model_id, error)
            self._useless, self.leases = self.leases, None
