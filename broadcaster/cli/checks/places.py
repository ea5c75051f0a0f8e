"""The checks of the two directories: the archive wants a disk that flushes, the slots want memory."""

from __future__ import annotations

from broadcaster.cli.checks.finding import Finding, ok, problem, warning
from broadcaster.cli.checks.surroundings import Surroundings
from broadcaster.cli.output import size

SHARE = 0.8
"""Part of the slot directory's file system that payloads may take."""
SLOW = 0.1
"""Seconds: with more for each flush, archiving a version takes longer than most would wait for it."""
UNBELIEVABLE = 5e-6
"""Seconds: no disk, and no disk's cache, flushes as fast."""
_LITTLE = 1 << 30
_LEAST = 64 << 20
"""Bytes: with less free, a broadcaster is not ready."""

_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}
_NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "ceph",
    "glusterfs",
    "fuse.sshfs",
    "fuse.s3fs",
    "afs",
    "lustre",
    "virtiofs",
}
_LAYERED = {"overlay", "aufs"}


def archive_place(found: Surroundings) -> Finding:
    place = found.archive
    text = f"{place.path} on {place.file_system or 'an unknown file system'}"
    if place.trouble:
        remedy = "make it this user's own (chown), or name another directory with --archive-dir; a mount must be writable"
        return problem("archive", f"{place.path}: {place.trouble}", remedy)
    if place.file_system in _MEMORY:
        return warning("archive", f"{text}: memory, all is lost with it", "put it on a disk: --archive-dir, or a volume at /data")
    if place.file_system in _LAYERED:
        remedy = "mount a volume there: what is written into a container's own layer goes with the container"
        return warning("archive", f"{text}: the container's own layer", remedy)
    if place.file_system in _NETWORK:
        remedy = "prefer a local disk: locks and flushes over a network are only as good as its server, and one host may use it"
        return warning("archive", f"{text}: over a network", remedy)
    return ok("archive", text)


def archive_disk(found: Surroundings) -> Finding:
    place = found.archive
    text = f"{size(place.free)} free of {size(place.size)}"
    if place.size and place.free < _LEAST:
        return problem("disk", text, "free some, or point --archive-dir elsewhere; broadcaster prune deletes archived versions")
    if place.size and place.free < _LITTLE:
        return warning("disk", text, "free some soon; broadcaster retention keeps fewer archived versions")
    return ok("disk", text)


def archive_flush(found: Surroundings) -> Finding:
    seconds = found.archive.flush
    if seconds is None:
        return warning("flush", "not measured", "the archive's directory must be usable first")
    text = f"{seconds * 1000:.3g} ms for a small file"
    if seconds > SLOW:
        return warning("flush", text, "use a faster disk: an archived version takes about six of these")
    if seconds < UNBELIEVABLE and found.archive.file_system not in _MEMORY:
        return warning("flush", f"{text}: nothing flushes that fast", "do not rely on this disk after a power cut")
    return ok("flush", text)


def index(found: Surroundings) -> Finding:
    if found.archive.index:
        remedy = "use another file system for the archive: SQLite needs its write-ahead log there"
        return problem("sqlite", f"{found.sqlite}: {found.archive.index}", remedy)
    if found.archive.trouble:
        return warning("sqlite", f"{found.sqlite}; not tried", "the archive's directory must be usable first")
    return ok("sqlite", f"{found.sqlite}, journal_mode=wal synchronous=full locking_mode=exclusive")


def slot_place(found: Surroundings) -> Finding:
    place = found.slots
    if place.foreign or place.trouble:
        why = place.trouble or "it belongs to another user"
        remedy = "name a directory of this user's with --slot-dir, below a shared volume say: /slots/broadcaster"
        return problem("slots", f"{place.path}: {why}", remedy)
    text = f"{place.path} on {place.file_system or 'an unknown file system'}"
    if place.file_system is not None and place.file_system not in _MEMORY | {"hugetlbfs"}:
        remedy = "name a directory in memory with --slot-dir: /dev/shm, or a tmpfs"
        return warning("slots", f"{text}: no memory, so that every payload is written to a disk", remedy)
    return ok("slots", text)


def slot_memory(found: Surroundings) -> Finding:
    room = found.slots.size
    text = f"{size(found.budget)} budget, {size(room)} in the slot directory" if room else "not known"
    if room and room * SHARE < found.budget:
        most = f"payloads get {size(int(room * SHARE))}"
        remedy = (
            f"give it {size(int(found.budget / SHARE) + 1)}: --shm-size (64 MiB unless told), a larger tmpfs, or lower the budget"
        )
        return warning("slot-memory", f"{text}: {most}", remedy)
    return ok("slot-memory", text)
