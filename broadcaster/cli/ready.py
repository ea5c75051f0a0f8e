"""The ready file: where everything serves and in which processes, as JSON, for as long as all of it does."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from broadcaster.protocol.errors import DirectoryUnusable


class ReadyFile:
    """`{"upload": "tcp://...", "push": ..., "data": ..., "pids": [...]}`: written aside and renamed. None: there is none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._owner = os.getpid()

    def tell(self, told: Mapping[str, Mapping[str, Any]] | None, pids: Sequence[int]) -> None:
        """All parts serve, where they `told`; None: not all of them do. Raises DirectoryUnusable."""
        if self._path is None:
            return
        if told is None:
            self.forget_ours()
            return
        endpoints = {name: address for facts in told.values() for name, address in facts["endpoints"].items()}
        self._write_aside(json.dumps(endpoints | {"pids": list(pids)})).rename(self._path)

    def prepare(self) -> None:
        """Removes one that an earlier life left; that of a broadcaster that still lives stays until we serve. Raises
        DirectoryUnusable where none could be written."""
        if self._path is None:
            return
        self._write_aside("").unlink()
        if not any(_lives(pid) for pid in self._pids() if pid != os.getpid()):
            self._path.unlink(missing_ok=True)

    def forget_ours(self) -> None:
        """Removes it, in the process that wrote it."""
        if self._path is not None and os.getpid() == self._owner and self._owner in self._pids():
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _write_aside(self, text: str) -> Path:
        assert self._path is not None
        aside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            aside.write_text(text)
        except OSError as wrong:
            raise DirectoryUnusable(key="ready-file", where=str(self._path), reason=wrong.strerror or str(wrong)) from wrong
        return aside

    def _pids(self) -> list[int]:
        assert self._path is not None
        try:
            return [int(pid) for pid in json.loads(self._path.read_text())["pids"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
