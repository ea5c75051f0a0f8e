"""What an archive needs while it lives: a look whether a disk that failed works again, and the scrub.

A thread of its own, at the priority of the others: one that waited for a processor while it holds the interpreter's lock would
hold up the live path. It is gentle by its rate instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from broadcaster.protocol.errors import BroadcasterError, Closed
from broadcaster.store.archive import Archive

PROBE = 2.0
"""Seconds between two looks whether the archive takes writes, and between two probes while it does not."""
DELAY = 60.0
"""Seconds after the start before the scrub begins, at most: a start has better things to do with the disk."""
RATE = 16 << 20
PERIOD = 86_400.0


class Upkeep:
    """Runs from the constructor until `close`.

    The scrub reads `rate` bytes a second at most (0: there is none) and begins a pass `period` seconds after the last one was
    complete. `say(sentence, good)` is told when the archive begins to refuse writes, takes them again, or the scrub fails.
    """

    def __init__(
        self,
        archive: Archive,
        say: Callable[[str, bool], None],
        *,
        rate: int = RATE,
        period: float = PERIOD,
        probe: float = PROBE,
    ) -> None:
        self._archive = archive
        self._say = say
        self._rate = rate
        self._period = period
        self._probe = probe
        self._scrub = archive.scrub()
        self._stop = threading.Event()
        self._was_writable = True
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._thread.start()

    @property
    def scrub_bytes(self) -> int:
        """Bytes that the scrub read since the start."""
        return self._scrub.bytes_read

    @property
    def scrub_unreadable(self) -> int:
        """Files that the disk did not give to the scrub since the start."""
        return self._scrub.unreadable

    @property
    def scrub_last_complete(self) -> float:
        """When a pass was complete last, in s since 1970; 0 when none ever was."""
        return self._scrub.last_complete

    def close(self, timeout: float = 1.0) -> bool:
        """Stop at the next step, of 1 MiB at most; True when it has within `timeout` s. A disk that hangs does not hold us."""
        self._stop.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._pause(max(min(DELAY, self._period), self._due())):
            try:
                for count in self._scrub.steps():
                    if self._pause(count / self._rate):
                        return
            except Closed:
                return
            except (OSError, BroadcasterError) as error:
                self._say(f"the scrub could not go on, and begins again: {error}", False)
            except BaseException as error:  # A mistake of ours: say so, and keep looking after the disk.
                threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))

    def _due(self) -> float:
        """Seconds until the next pass, by the clock of this machine; it may be set, but never puts a pass off for longer."""
        if not self._rate:
            return threading.TIMEOUT_MAX
        return min(self._period, self._scrub.last_complete + self._period - time.time())

    def _pause(self, seconds: float) -> bool:
        """Wait, and look after the disk meanwhile; True when it is time to stop."""
        until = time.monotonic() + seconds
        while True:
            self._look()
            left = until - time.monotonic()
            if left <= 0:
                return self._stop.is_set()
            if self._stop.wait(min(left, self._probe)):
                return True

    def _look(self) -> None:
        health = self._archive.health
        if not health.writable and not self._stop.is_set():
            reason = health.reason
            try:
                health = self._archive.probe()
            except Closed:
                return
            if self._was_writable:
                self._say(f"the archive takes no writes until its disk works again: {reason}", False)
            if health.writable:
                self._say("the archive takes writes again", True)
        self._was_writable = health.writable
