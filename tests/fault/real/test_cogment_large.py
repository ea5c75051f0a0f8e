"""A version of 2 GiB goes in and out over gRPC, bit for bit, and no process ever has all of it to itself."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc")

from tests.broadcaster_process import BroadcasterProcess  # noqa: E402
from tests.cogment_calls import Calls, body, header  # noqa: E402
from tests.fault.real.test_cogment_memory import own_memory, peak_of  # noqa: E402

pytestmark = [pytest.mark.fault_long, pytest.mark.deadline(300)]

MIB = 1 << 20
SIZE = 2048 * MIB
STEP = 2 * MIB
ROOM = 192 * MIB
"""Bytes of its own memory that the front may need for one upload and one download, whatever their size: the messages that gRPC
has received ahead, and what the allocator keeps of them."""


@pytest.mark.parametrize("archived", [False, True], ids=["transient", "archived"])
def test_a_version_of_2_gib_goes_in_and_out(tmp_path: Path, archived: bool) -> None:
    block = random.Random(11).randbytes(STEP)
    sha256 = hashlib.sha256()

    def messages() -> Iterator[Any]:
        yield header("policy", SIZE, archived=archived)
        for index in range(SIZE // STEP):
            piece = index.to_bytes(8, "little") + block[8:]  # No two alike.
            sha256.update(piece)
            yield body(piece)

    options = ["--grpc-port", "0", "--memory-budget", "5GiB"]
    with BroadcasterProcess(tmp_path / "b", options=options) as process, Calls(process.ready["grpc"], timeout=250) as calls:
        calls.make("policy")
        before = own_memory(process.pids[2])
        with peak_of(process.pids[2]) as peak:
            info = calls.send(messages())
            assert (info.version_number, info.data_size, info.archived) == (1, SIZE, archived)
            read = hashlib.sha256()
            for reply in calls("RetrieveVersionData", model_id="policy", version_number=-1):
                read.update(reply.data_chunk)
        assert read.digest() == sha256.digest()
        assert peak[0] - before <= ROOM, f"{(peak[0] - before) / MIB:.0f} MiB"
