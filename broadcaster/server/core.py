"""One life of the core: opens archive, slots and sockets, serves, and closes everything in the right order."""

from __future__ import annotations

import logging
import os
import resource
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq

from broadcaster import __version__
from broadcaster.acks import AckTable
from broadcaster.beacons import Beacons
from broadcaster.broker import Broker, Rooms
from broadcaster.catalog import Catalog, Retention
from broadcaster.eventlog import EventLog
from broadcaster.numbers import Numbers
from broadcaster.protocol.errors import BroadcasterError
from broadcaster.protocol.limits import CHUNK, CONTROL, EAGER, IDLE_UPLOAD, INLINE, PROTOCOL, READ, WINDOW
from broadcaster.protocol.messages import Hello, Welcome
from broadcaster.registry import Registry
from broadcaster.security import Book, KeyDirectory
from broadcaster.server.answers import Answers, host_name
from broadcaster.server.channels import Binding, Channels
from broadcaster.server.connections import Connections
from broadcaster.server.door import Door, KeyWatch
from broadcaster.server.loop import Loop
from broadcaster.server.requests import Requests
from broadcaster.server.upkeep import gauges, look_after
from broadcaster.server.watchdog import Watchdog
from broadcaster.slots import SlotPool, file_system_of, is_memory, open_slot_directory, sweep_abandoned
from broadcaster.stats import Stats
from broadcaster.store.archive import Archive
from broadcaster.store.upkeep import PERIOD, RATE
from broadcaster.store.worker import Worker

log = logging.getLogger("broadcaster.server")

_SHARE = 0.8
"""Part of a slot directory's file system that payloads may take when it is smaller than the budget."""
RESERVED = 1024
"""Descriptors that connections leave to slots and the archive, or a quarter of all where that is less."""


@dataclass(frozen=True, slots=True)
class CoreOptions:
    """What the core is told. `slot_dir` None: a directory of its own in the machine's shared memory."""

    host: str
    upload_port: int
    push_port: int
    data_port: int
    advertise: str | None
    archive_dir: Path
    slot_dir: Path | None
    max_payload: int
    retention: Retention
    node_name: str = ""
    """What this broadcaster is called in replies; empty: the host's name, without its domain."""
    debug: bool = False
    """Whether errors are told with tracebacks and paths."""
    idle_upload: float = IDLE_UPLOAD
    """Seconds without progress after which an upload is given up."""
    scrub_rate: int = RATE
    scrub_period: float = PERIOD
    keys_dir: Path | None = None
    """Where the keys are; None: nobody needs one."""
    max_connections: int = 16_384
    """Connections over TCP, of all clients together; fewer where there are not so many descriptors."""


class Core:
    """Everything that one broadcaster process holds. Opened by the constructor, served by `run`, closed by `close`."""

    def __init__(self, options: CoreOptions) -> None:
        self._options = options
        bytes(31 << 20)  # Freed at once: glibc then keeps freed blocks of up to this size instead of giving them back to
        # the kernel, so that a received chunk (1 MiB, made by libzmq) does not fault 256 fresh pages. Halves system time.
        self._closing: list[Callable[[], object]] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        options = self._options
        directory, own = slot_directory(options.slot_dir, options.data_port)
        self.slot_directory = directory
        lock = open_slot_directory(directory)
        self._closing.append(lambda: os.close(lock))
        if own:
            self._closing.append(lambda: shutil.rmtree(directory, ignore_errors=True))
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._closing.append(lambda: context.destroy(linger=0))
        self._door = Door(context, KeyDirectory(options.keys_dir)) if options.keys_dir else None
        binding = Binding(options.host, options.upload_port, options.push_port, options.data_port, directory)
        channels = Channels(context, binding, self._door.server_key if self._door else None)
        self._channels = channels
        self._closing.append(channels.close)
        self.ports, self._ipc = channels.ports, channels.ipc
        if not channels.ipc:
            log.warning("no ipc sockets: the path of the slot directory is too long for them path=%s", directory)
        self._stats = Stats()
        self.loop = Loop(channels, self._door)
        self._closing.append(self.loop.close)
        self._connections = self._watch_connections(context, channels)
        self._closing.append(self._connections.close)
        retention = _fitting(options.retention, directory)
        archive = Archive.open(options.archive_dir.absolute(), now_ms=time.time_ns() // 1_000_000)
        self._closing.append(archive.close)
        self._compose(archive, SlotPool(directory, retention.budget), retention, directory)
        _warn_of_disk(directory)

    def _watch_connections(self, context: zmq.Context[zmq.Socket[bytes]], channels: Channels) -> Connections:
        """From now on they are counted, and bounded."""
        made = Connections(
            context,
            {"upload": channels.upload, "push": channels.push, "data": channels.data},
            self._stats,
            most=_connections(self._options.max_connections),
            proven=self._door is not None,
            gone=self.loop.connection_gone,
            laden=lambda: self.loop.is_laden,
        )
        self.loop.connections = made
        return made

    def _compose(self, archive: Archive, slots: SlotPool, retention: Retention, directory: Path) -> None:
        loaded = archive.load()
        for note in loaded.notes:
            log.warning("archive: %s", note)
        self._closing.append(slots.close)
        self._rooms = Rooms(
            catalog=Catalog(retention),
            numbers=Numbers(loaded.floors),
            log=EventLog(loaded.epoch),
            beacons=Beacons(),
            acks=AckTable(),
            slots=slots,
            archive=archive,
            writer=Worker("archive"),
            reserver=Worker("numbers"),
            readers=Worker("readers", threads=2, capacity=4096),
            stats=self._stats,
        )
        for worker in (self._rooms.readers, self._rooms.reserver, self._rooms.writer):
            self._closing.append(worker.close)
        self._token = secrets.token_hex(16)
        self._broker = Broker(
            self._rooms,
            self.loop,
            host_token=self._token,
            max_payload=min(self._options.max_payload, retention.budget),
            make_id=lambda: os.urandom(16),
            clock=time.monotonic,
            wall=time.time_ns,
            idle=self._options.idle_upload,
        )
        self._broker.archiving.load(loaded.models, loaded.versions)
        self._broker.archiving.load_deleted(loaded.tombstones, loaded.ended, loaded.deleted_uploads)
        for key, numbers in loaded.lost.items():
            self._rooms.catalog.load_lost(key, numbers)
        self._broker.terms.load(loaded.terms)
        (directory / "token").write_text(self._token)
        self._closing.append(lambda: (directory / "token").unlink(missing_ok=True))
        registry = Registry(self._broker, self.loop, time.time_ns)
        self._requests = Requests(self._broker, registry, self._welcome, self._gauges)
        self.loop.attach(self._broker, self._requests, self._answers(directory))
        self._retention = retention
        self._broker.reserve_all(time.monotonic())
        self._upkeep = look_after(self._broker, self.loop, rate=self._options.scrub_rate, period=self._options.scrub_period)
        self._closing.append(self._upkeep.close)

    def _answers(self, slot_dir: Path) -> Answers:
        """Paths that clients are told begin with these names instead."""
        directories = ((slot_dir, "slots"), (self._options.archive_dir, "archive"))
        roots = {str(path): name for directory, name in directories for path in (directory.absolute(), directory.resolve())}
        name = self._options.node_name or host_name()
        return Answers(self._rooms.stats, name, roots, debug=self._options.debug)

    def _welcome(self, hello: Hello) -> Welcome:
        return Welcome(
            request_id=hello.request_id,
            protocol=PROTOCOL,
            epoch=self._rooms.log.epoch,
            offset=self._rooms.log.offset,
            server_version=__version__,
            endpoints=self.ports,
            host=self._options.advertise,
            host_token=self._token,
            slot_dir=str(self.slot_directory.absolute()),
            limits={
                "chunk": CHUNK,
                "inline": INLINE,
                "control": CONTROL,
                "read": READ,
                "window": WINDOW,
                "eager": EAGER,
                "max_payload": min(self._options.max_payload, self._retention.budget),
                "memory_budget": self._retention.budget,
            },
        )

    def _gauges(self) -> dict[str, float]:
        rooms = self._rooms
        return {
            "epoch": rooms.log.epoch,
            "offset": rooms.log.offset,
            "models": rooms.catalog.model_count,
            "versions": rooms.catalog.version_count,
            "connections": self._connections.count,
            "subscriptions": self.loop.subscriptions,
            "loop_longest_turn_seconds": self.loop.longest_turn,
            **self._broker.acknowledging.gauges(time.monotonic()),
            "memory_budget": rooms.catalog.retention.budget,
            "memory_versions": rooms.catalog.resident_bytes,
            "memory_uploads": self._broker.memory.in_flight,
            "uploads": self._broker.uploads(time.monotonic()),
            "slot_bytes": rooms.slots.bytes,
            "slots_used": rooms.slots.used_slots,
            "slots_free": rooms.slots.free_slots,
            "slots_pinned": rooms.slots.pinned_slots,
            "slot_bytes_pinned": rooms.slots.pinned_bytes,
            "slots_lost": rooms.slots.lost_slots,
            "slot_bytes_lost": rooms.slots.lost_bytes,
            "archive_jobs": rooms.writer.pending,
            "archive_doubts": self._broker.settling.pending,
            "keys_refused": self._door.refused if self._door else 0,
            "changes_waiting": self._requests.waiting,
            "manifests_lost": rooms.catalog.lost_count,
            **gauges(self._broker, self._upkeep),
        }

    def prove_keys(self) -> None:
        """Where keys are needed: sees that strangers are turned away, and watches the file of keys from then on. To be called
        before anybody is told that this serves. Raises ConfigError."""
        door = self._door
        if door is None:
            return
        door.try_strangers(self.endpoints)
        watch = KeyWatch(door.keys, door.guard.book, lambda book: self.loop.post(lambda: self._keys_changed(book)))
        self._closing.append(watch.close)
        self.loop.watch = watch

    def _keys_changed(self, book: Book) -> None:
        assert self._door is not None
        less = self._door.guard.change(book)
        log.info("keys read again keys=%d cut=%s", len(book.keys), "all" if less else "none")
        if less:
            self._connections.excuse()
            self._channels.cut_connections()

    @property
    def budget(self) -> int:
        """Bytes that payloads may take in memory: what was asked for, or less where the slot directory is smaller."""
        return self._retention.budget

    @property
    def inside(self) -> str:
        """Where a client of our own user's finds the data channel."""
        return f"ipc://{self.slot_directory}/data.sock" if self._ipc else self.endpoints["data"]

    @property
    def endpoints(self) -> dict[str, str]:
        """Where a client on this machine finds the channels."""
        host = "localhost" if self._options.host in ("0.0.0.0", "::") else self._options.host
        host = f"[{host}]" if ":" in host else host
        return {name: f"tcp://{host}:{port}" for name, port in self.ports.items()}

    def run(self) -> None:
        """Serves until `loop.stop()`; then stops taking work and gives numbers back that were never used."""
        with Watchdog(lambda: self.loop.turns, lambda: self.loop.stopping):
            self.loop.run()
        for worker in (self._rooms.readers, self._rooms.reserver, self._rooms.writer):
            worker.close()
        self._broker.close()
        try:
            self._rooms.archive.release_numbers((*key, used) for key, used in self._rooms.numbers.used().items())
        except BroadcasterError as error:
            log.warning("numbers not given back: the next ones will be higher reason=%s", error)

    def close(self) -> None:
        """Closes what was opened, last first."""
        while self._closing:
            self._closing.pop()()


def slot_directory(wanted: Path | None, data_port: int) -> tuple[Path, bool]:
    """The slot directory, and whether it is one of our own that goes when we go."""
    if wanted is not None:
        return wanted.absolute(), False
    memory = Path("/dev/shm")
    root = memory if sys.platform == "linux" and memory.is_dir() else Path(tempfile.gettempdir())
    sweep_abandoned(root, f"broadcaster-{os.getuid()}-")
    if data_port:
        return root / f"broadcaster-{os.getuid()}-{data_port}", True
    return root / f"broadcaster-{os.getuid()}-{os.getpid()}-{secrets.token_hex(4)}", True


def _connections(wanted: int) -> int:
    """How many there is room for."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = wanted if allowed == resource.RLIM_INFINITY else allowed - min(RESERVED, allowed // 4)
    if room < wanted:
        log.warning(
            "fewer connections than wanted: this process may have too few descriptors wanted=%d most=%d descriptors=%d",
            wanted,
            room,
            allowed,
        )
    return min(wanted, room)


def _warn_of_disk(directory: Path) -> None:
    """It works there as well, at the speed of a disk."""
    file_system = file_system_of(directory)
    if not is_memory(file_system):
        log.warning(
            "SLOW: the slot directory is not in memory, so every payload is written to a disk: "
            "name a directory in /dev/shm, or on another tmpfs, with --slot-dir path=%s file_system=%s",
            directory.absolute(),
            file_system,
        )


def _fitting(retention: Retention, directory: Path) -> Retention:
    """A budget that the slot directory's file system can hold."""
    room = os.statvfs(directory)
    size = int(room.f_blocks * room.f_frsize * _SHARE)
    if size >= retention.budget:
        return retention
    log.warning(
        "memory budget reduced: the slot directory is smaller budget=%d reduced_to=%d path=%s",
        retention.budget,
        size,
        directory,
    )
    return Retention(size, retention.keep, retention.keep_large, retention.expiry)
