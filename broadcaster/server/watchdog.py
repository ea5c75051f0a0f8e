"""Whether the loop still makes turns. libzmq can be kept busy for minutes by whoever may subscribe; then another life of the core
serves sooner than this one would."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
from collections.abc import Callable

log = logging.getLogger("broadcaster.server")

LOOK = 0.5
"""Seconds between two looks. The loop makes a turn in that time whatever happens."""
STUCK = 20.0
"""Seconds without a turn after which the process ends. None takes so long by itself: payloads and files are for other threads."""
STUCK_ENDING = 5.0
"""Seconds of it when all is to end anyway."""
CODE = 70
"""Exit code: a mistake inside (EX_SOFTWARE of sysexits.h)."""


class Watchdog:
    """Counts its own looks, not the clock's seconds: a process that was stopped has not been looking either."""

    def __init__(self, turns: Callable[[], int], ending: Callable[[], bool]) -> None:
        """`turns` were made so far; `ending`: no more are wanted after this one."""
        self._turns = turns
        self._ending = ending
        self._seen = -1
        self._looks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def stuck(self) -> bool:
        """One look. Whether there was no turn for so many of them that there will be none."""
        turns = self._turns()
        self._looks = self._looks + 1 if turns == self._seen else 0
        self._seen = turns
        return self._looks * LOOK >= (STUCK_ENDING if self._ending() else STUCK)

    def _run(self) -> None:
        while not self._over.wait(LOOK):
            if self.stuck():
                log.critical("the loop makes no turn any more, this life of the core ends seconds=%.0f", self._looks * LOOK)
                faulthandler.dump_traceback()
                os._exit(CODE)
