"""torch.distributed: one gloo group, and a broadcast from rank 0. Everybody must take part in every broadcast.

python -m benchmarks.peers.gloo sender ACTORS
python -m benchmarks.peers.gloo receiver ACTORS PORT
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from benchmarks.arm import Arm
from benchmarks.peers.payload import kept, made, stamp, stamped
from benchmarks.processes import Group, end_with_parent, say, told, who

NAME = "torch gloo, broadcast"
READER = "receives into one kept tensor, verifies nothing"
PATIENCE = timedelta(minutes=10)


def missing() -> str:
    """What has to be installed, with the command that does it."""
    return "" if find_spec("torch") else "the package torch is not installed: pip install torch"


def load() -> None:
    """Imports what each process of a herd needs, before there are many."""
    import torch.distributed  # noqa: F401


def start(group: Group, actors: int) -> Arm:
    sender = group.start("benchmarks.peers.gloo", "sender", actors)
    following = group.herd(actors, "benchmarks.peers.gloo", "receiver", actors, sender.up()["port"])
    sender.read()
    return Arm(sender, [], following, announces=True)


def _join(actors: int, rank: int, port: int) -> Any:
    import torch
    import torch.distributed as dist

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", timeout=PATIENCE, rank=rank, world_size=actors + 1)
    return dist


def sender(actors: int) -> None:
    """A payload with the number 0 says that a size follows instead of a payload."""
    import torch

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    say(up=True, port=port)
    dist = _join(actors, 0, port)
    say(joined=True)
    payload = torch.from_numpy(made(16))
    for wish in told():
        stamp(payload.numpy(), wish.get("number", 0))
        began = time.monotonic_ns()
        dist.broadcast(payload, 0)
        if "size" in wish:
            dist.broadcast(torch.tensor([wish["size"]]), 0)
            payload = torch.from_numpy(made(wish["size"]))
        say(start=began, copied=time.monotonic_ns() - began)


def receiver(actors: int, port: int) -> None:
    import torch

    say(up=True)
    dist = _join(actors, who() + 1, port)
    payload = torch.frombuffer(kept(16), dtype=torch.uint8)
    size = torch.tensor([0])
    while True:
        dist.broadcast(payload, 0)
        at, number = time.monotonic_ns(), stamped(payload.numpy())
        if number:
            say(at=at, stamp=number)
            continue
        dist.broadcast(size, 0)
        payload = torch.frombuffer(kept(int(size)), dtype=torch.uint8)
        say(size=int(size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("sender", "receiver"))
    parser.add_argument("actors", type=int)
    parser.add_argument("port", nargs="?", type=int, default=0)
    arguments = parser.parse_args()
    end_with_parent()
    if arguments.role == "sender":
        sender(arguments.actors)
    else:
        receiver(arguments.actors, arguments.port)


if __name__ == "__main__":
    main()
