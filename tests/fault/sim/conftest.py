"""The simulation's chunks are small, so that a payload of many chunks costs nothing."""

from __future__ import annotations

import pytest

from broadcaster.protocol import assembly, frames, limits
from broadcaster.protocol.machines import fetch, upload

CHUNK = 64


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of a chunk in these tests; the machines read the constant of their module."""
    for module in (limits, frames, assembly, upload, fetch):
        monkeypatch.setattr(module, "CHUNK", CHUNK)
    return CHUNK
