"""What the Cogment front takes of memory while large versions go through it: a few pieces for each call, never a payload."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.broadcaster_process import BroadcasterProcess

grpc = pytest.importorskip("grpc")

from tests.cogment_calls import Calls, body, header  # noqa: E402

pytestmark = [pytest.mark.fault_long, pytest.mark.deadline(300)]

MIB = 1 << 20
SIZE = 256 * MIB
CLIENTS = 10
EACH = 12 * MIB
"""Bytes of the front's own memory that a reader may cost: chunks on their way, and what gRPC buffers."""


def own_memory(pid: int) -> int:
    """Bytes of a process that nobody shares: its mappings of slots are everybody's."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss_Anon"))


@contextmanager
def peak_of(pid: int) -> Iterator[list[int]]:
    """The largest that it was, every 50 ms."""
    peak, over = [own_memory(pid)], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            peak[0] = max(peak[0], own_memory(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def test_ten_clients_that_read_large_versions_and_one_that_writes_them_cost_a_few_pieces_each(tmp_path: Path) -> None:
    block = random.Random(7).randbytes(2 * MIB)
    options = ["--grpc-port", "0", "--memory-budget", "2GiB"]
    with BroadcasterProcess(tmp_path / "b", http=True, options=options) as process:
        address, web = process.ready["grpc"], process.pids[2]
        with Calls(address, timeout=200) as calls:
            calls.make("policy")
            before = own_memory(web)
            with peak_of(web) as writing:
                for _ in range(3):
                    calls.send([header("policy", SIZE), *[body(block)] * (SIZE // len(block))])
            assert writing[0] < before + 96 * MIB, f"{(writing[0] - before) / MIB:.0f} MiB for an upload"

        def read(slowly: float) -> int:
            total = 0
            with Calls(address, timeout=200) as reader:
                for reply in reader("RetrieveVersionData", model_id="policy", version_number=-1):
                    total += len(reply.data_chunk)
                    time.sleep(slowly)
            return total

        peaks = []
        for _ in range(3):
            with peak_of(web) as reading, ThreadPoolExecutor(CLIENTS) as threads:
                assert list(threads.map(read, [0.002 * n for n in range(CLIENTS)])) == [SIZE] * CLIENTS
            peaks.append(reading[0])
        print("before", before >> 20, "writing", writing[0] >> 20, "reading", [peak >> 20 for peak in peaks], "MiB")
        assert max(peaks) < before + 64 * MIB + CLIENTS * EACH
        assert peaks[-1] < peaks[0] + 32 * MIB, "it does not grow from one round to the next"
