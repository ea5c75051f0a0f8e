"""Two hosts on this one: network namespaces with a line between them that delays, loses, doubles and stops packets.

with Wire(seed=1) as wire:
    subprocess.run([*wire.inside(NEAR), "ping", "-c", "1", wire.address(FAR)])
    wire.cut(TO_FAR)            # what goes that way is lost, until wire.heal()

Each end of the line is a TUN device whose packets this process passes on: that needs neither a module nor a package, only root.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, replace

NEAR, FAR = "near", "far"
TO_FAR, TO_NEAR = NEAR, FAR
"""Directions are called after where packets come from."""
_ADDRESSES = {NEAR: "10.77.0.1", FAR: "10.77.0.2"}
_SET_INTERFACE = 0x400454CA
_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
_QUEUE = 20_000
"""Packets under way, at most; more are lost, as a router would."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to the packets of one direction: seconds of delay, give or take `jitter`; shares that are lost or doubled."""

    delay: float = 0.0
    jitter: float = 0.0
    lost: float = 0.0
    doubled: float = 0.0
    cut: bool = False


class CannotHave(Exception):
    """Why there are no such namespaces on this machine."""


class Wire:
    """Raises CannotHave where the machine does not allow it."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._names = {end: f"mb-{os.getpid()}-{end}" for end in (NEAR, FAR)}
        self._weather = {end: Weather() for end in (NEAR, FAR)}
        self._fds: dict[str, int] = {}
        self._made: list[str] = []
        self._over = False
        try:
            for end in (NEAR, FAR):
                self._make(end)
        except (OSError, subprocess.CalledProcessError) as error:
            self._remove()
            raise CannotHave(str(getattr(error, "stderr", "") or error)) from error
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def _make(self, end: str) -> None:
        name, device = self._names[end], f"mb{os.getpid()}{end[0]}"[-15:]
        _run("ip", "netns", "add", name)
        self._made.append(name)
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._fds[end] = fd
        fcntl.ioctl(fd, _SET_INTERFACE, struct.pack("16sH22x", device.encode(), _TUN_WITHOUT_HEADER))
        _run("ip", "link", "set", device, "netns", name)
        _run("ip", "-n", name, "addr", "add", f"{_ADDRESSES[end]}/24", "dev", device)
        _run("ip", "-n", name, "link", "set", device, "up", "txqueuelen", "1000")
        _run("ip", "-n", name, "link", "set", "lo", "up")

    # --- what a test does --------------------------------------------------------------------------------------------

    def inside(self, end: str) -> list[str]:
        """What a command line begins with to run at that end."""
        return ["ip", "netns", "exec", self._names[end]]

    def address(self, end: str) -> str:
        return _ADDRESSES[end]

    def weather(self, weather: Weather, *directions: str) -> None:
        """From now on; both directions unless one is named."""
        for direction in directions or (TO_FAR, TO_NEAR):
            self._weather[direction] = weather

    def cut(self, *directions: str) -> None:
        """Nothing passes any more, whatever is under way."""
        for direction in directions or (TO_FAR, TO_NEAR):
            self._weather[direction] = replace(self._weather[direction], cut=True)

    def heal(self) -> None:
        """All is well."""
        self.weather(Weather())

    def reset(self) -> None:
        """Ends every connection over the line, at both of its ends."""
        _run(*self.inside(FAR), "ss", "-K", "dst", _ADDRESSES[NEAR])

    def close(self) -> None:
        self._over = True
        self._thread.join()
        self._remove()

    def _remove(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        for name in self._made:
            _run("ip", "netns", "del", name)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the packets -----------------------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        order = itertools.count()
        under_way: list[tuple[float, int, str, bytes]] = []
        ends = {fd: end for end, fd in self._fds.items()}
        other = {NEAR: FAR, FAR: NEAR}
        while not self._over:
            wait = min(0.05, max(0.0, under_way[0][0] - time.monotonic())) if under_way else 0.05
            ready, _, _ = select.select(list(ends), [], [], wait)
            for fd in ready:
                for packet in _packets(fd):
                    for due in self._fate(ends[fd]):
                        if len(under_way) < _QUEUE:
                            heapq.heappush(under_way, (due, next(order), ends[fd], packet))
            now = time.monotonic()
            while under_way and under_way[0][0] <= now:
                _, _, source, packet = heapq.heappop(under_way)
                if not self._weather[source].cut:
                    _write(self._fds[other[source]], packet)

    def _fate(self, direction: str) -> list[float]:
        """When the packet arrives: never, once, or twice."""
        weather, now, rng = self._weather[direction], time.monotonic(), self._random
        if weather.cut or rng.random() < weather.lost:
            return []
        copies = 2 if rng.random() < weather.doubled else 1
        return [now + max(0.0, weather.delay + rng.uniform(-weather.jitter, weather.jitter)) for _ in range(copies)]


def _packets(fd: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < 64:
        try:
            found.append(os.read(fd, 65536))
        except BlockingIOError:
            break
    return found


def _write(fd: int, packet: bytes) -> None:
    try:
        os.write(fd, packet)
    except OSError:
        pass  # Its queue is full, or the device is down: a packet is lost.


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
