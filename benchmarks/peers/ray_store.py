"""Ray: `ray.put` of an array, and actors that are called with the reference: they map it in the object store of their host.

python -m benchmarks.peers.ray_store driver ACTORS
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
import time
from importlib.util import find_spec
from typing import Any

from benchmarks.arm import Arm
from benchmarks.peers.payload import made, rounds, stamped
from benchmarks.processes import Group, end_with_parent, exit_on_sigterm, print_elsewhere, say

NAME = "Ray, put + actors that get"
READER = "maps the object, verifies nothing"
LOOPBACK = "127.0.0.2"
"""127.0.0.1 it takes for an address of this host on the network."""
STORE = 2 << 30
"""Bytes of the object store: room for a few of the largest payload."""


def missing() -> str:
    """What has to be installed, with the command that does it."""
    return "" if find_spec("ray") else "the package ray is not installed: pip install ray"


def start(group: Group, actors: int) -> Arm:
    driver = group.start("benchmarks.peers.ray_store", "driver", actors)
    driver.up()
    return Arm(driver, [], [])


class Reader:
    """What each actor does with a payload that Ray has mapped for it."""

    def take(self, payload: Any) -> tuple[int, int]:
        at = time.monotonic_ns()
        return at, stamped(payload)


def driver(count: int) -> None:
    """Told a number, it puts the payload and calls every actor with it, and says what they returned."""
    import ray

    actors = [ray.remote(num_cpus=0)(Reader).remote() for _ in range(count)]
    ray.get([actor.take.remote(ray.put(made(8))) for actor in actors])
    say(up=True)
    for payload, _ in rounds():
        began = time.monotonic_ns()
        reference = ray.put(payload)
        pending = [actor.take.remote(reference) for actor in actors]
        copied = time.monotonic_ns() - began
        heard = [{"at": at, "stamp": number} for at, number in ray.get(pending)]
        del reference, pending
        say(start=began, copied=copied, heard=heard)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("driver",))
    parser.add_argument("actors", type=int)
    count = parser.parse_args().actors
    end_with_parent(signal.SIGTERM)
    exit_on_sigterm()
    print_elsewhere()
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    import ray

    home = tempfile.mkdtemp(prefix="mb-ray-")
    try:
        ray.init(
            num_cpus=os.cpu_count(),
            object_store_memory=STORE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _node_ip_address=LOOPBACK,
            _temp_dir=home,
        )
        exit_on_sigterm()  # Ray has put its own handler there, which ends nothing in order.
        driver(count)
    finally:
        ray.shutdown()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
