"""A broadcaster whose wall clock is wrong, by as many seconds as a file says at the moment. Its monotonic clock is right.

python -m tests.fault.history.skewed FILE serve --data-port 0
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.broadcaster_process import BroadcasterProcess

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class Skewed(BroadcasterProcess):
    """`jump` sets its clock. With `by_library` the clock of the whole process is wrong, that of libraries too."""

    def __init__(self, directory: Path, *, by_library: bool = False, options: tuple[str, ...] = ()) -> None:
        self._file = directory.with_name(directory.name + "-clock")
        self._by_library = by_library
        self.jump(0)
        environment = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        super().__init__(directory, options=options, environment=environment if by_library else {})

    def jump(self, seconds: float) -> None:
        """From now on its wall clock is wrong by that."""
        aside = self._file.with_suffix(".aside")
        aside.write_text(f"{seconds:+.0f}\n")
        aside.rename(self._file)

    def command(self) -> list[str]:
        line = super().command()
        if self._by_library:
            return line
        at = line.index("broadcaster")
        return [*line[:at], "tests.fault.history.skewed", str(self._file), *line[at + 1 :]]


def skew(file: Path) -> None:
    """Whoever asks this process for the time is told the wrong one."""
    right: Callable[[], int] = time.time_ns

    def wrong() -> int:
        return max(0, right() + int(file.read_text()) * 1_000_000_000)

    time.time_ns = wrong
    time.time = lambda: wrong() / 1e9


if __name__ == "__main__":
    skew(Path(sys.argv.pop(1)))
    from broadcaster.entry import main

    main()
