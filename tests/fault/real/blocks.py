"""Weights that show what they are: every 4 KiB block says its version and its place, so a torn or mixed payload is found.

python -m tests.fault.real.blocks learner URL MODEL WHO BLOCKS    publishes without pause
python -m tests.fault.real.blocks actor URL MODEL SEED DELIVERY   looks at all it gets, keeps some, looks again
python -m tests.fault.real.blocks stalled ADDRESSES MODEL BLOCKS  takes grants, loses them, and goes on writing into them
"""

from __future__ import annotations

import json
import mmap
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.bare_peer import BarePeer

Words = npt.NDArray[np.uint64]

BLOCK = 512
"""Words of 8 bytes in a block of 4 KiB."""
KEEP = 12
"""Views that an actor keeps at once, at most."""
LINE = 200
"""Reads between two lines of an actor."""


def stamped(stamp: int, blocks: int) -> Words:
    """`blocks` blocks, each word of which is the stamp in its upper and the block's place in its lower 32 bits."""
    words = np.empty((blocks, BLOCK), np.uint64)
    words[:] = (np.uint64(stamp) << np.uint64(32)) | np.arange(blocks, dtype=np.uint64)[:, None]
    return words


def wrong_blocks(words: Words, stamp: int) -> int:
    """How many blocks are not those of `stamp`, looked at in two halves with other processes' turn between them."""
    expected = (np.uint64(stamp) << np.uint64(32)) | np.arange(len(words), dtype=np.uint64)[:, None]
    half = len(words) // 2
    wrong = int((words[half:] != expected[half:]).any(axis=1).sum())
    os.sched_yield()
    return wrong + int((words[:half] != expected[:half]).any(axis=1).sum())


def learn(url: str, model: str, who: int, blocks: int) -> None:
    from broadcaster.protocol.errors import BroadcasterError
    from clients import connect

    count = 0
    with connect(url) as client:
        publisher = client.publisher(model)
        while True:
            count += 1
            stamp = who << 20 | count
            try:
                publisher.publish({"w": stamped(stamp, blocks)}, user_data={"stamp": str(stamp)})
            except BroadcasterError as error:
                print(json.dumps({"refused": error.code}), flush=True)
            if count % LINE == 0:
                print(json.dumps({"published": count}), flush=True)


def act(url: str, model: str, seed: int, delivery: str) -> None:
    from clients import connect

    chance = random.Random(seed)
    kept: list[tuple[int, Words]] = []
    reads = number = kept_reads = 0
    with connect(url) as client, client.subscriber(model, delivery=delivery) as subscriber:
        while True:
            snapshot = subscriber.wait(newer_than=number)
            number, stamp = snapshot.version.number, int(snapshot.version.user_data["stamp"])
            words: Words = snapshot.tensors["w"]
            del snapshot
            looked = [(stamp, words)]
            if chance.random() < 0.2:
                kept.append((stamp, words))
                chance.shuffle(kept)
            if chance.random() < 0.5:
                looked += kept
                kept_reads += len(kept)
            for wanted, seen in looked:
                wrong, reads = wrong_blocks(seen, wanted), reads + 1
                if wrong:
                    print(json.dumps({"torn": wrong, "stamp": wanted, "version": number, "seed": seed}), flush=True)
            del words, looked, seen
            while len(kept) > chance.randrange(1, KEEP):
                kept.pop()
            if reads >= LINE:
                stats = subscriber.stats()
                print(json.dumps({"reads": reads, "kept": kept_reads, "version": number, "delivery": stats.delivery}), flush=True)
                reads = kept_reads = 0


def stall(addresses: dict[str, str], model: str, blocks: int) -> None:
    """Writers that stop in the middle, lose their grant, wake up, and write: into slots that are nobody's any more."""
    size = blocks * BLOCK * 8 + 8192
    rooms: list[mmap.mmap] = []
    scribbles = 0
    with BarePeer(addresses) as peer:
        welcome = peer.ask("hello").fields
        token, directory = welcome["host_token"], Path(welcome["slot_dir"])
        while True:
            upload_id = os.urandom(16)
            peer.say("begin", upload_id, model_id=model, size=size, host_token=token)
            if (said := peer.heard()).kind != "grant":
                print(json.dumps({"refused": said.fields}), flush=True)
                time.sleep(0.05)  # There is no room for a moment: asking again at once would be all that it does.
                continue
            fd = os.open(directory / said.fields["slot"], os.O_RDWR)
            room = mmap.mmap(fd, os.fstat(fd).st_size)
            os.close(fd)
            room[4096 : 4096 + size // 2] = b"\xee" * (size // 2)
            peer.say("filled", upload_id, size=size // 2)
            peer.say("begin", upload_id, model_id=model, size=size)  # It woke up on another connection: the grant is withdrawn.
            while peer.heard().kind != "credit":
                pass
            peer.say("abort", upload_id)
            while peer.heard().kind != "aborted":
                pass
            rooms = [*rooms[-3:], room]
            for one in rooms:
                one[4096:] = os.urandom(1) * (len(one) - 4096)
                scribbles += 1
            print(json.dumps({"scribbles": scribbles}), flush=True)


if __name__ == "__main__":
    _, role, where, model, *rest = sys.argv
    if role == "learner":
        learn(where, model, int(rest[0]), int(rest[1]))
    elif role == "actor":
        act(where, model, int(rest[0]), rest[1])
    else:
        stall(json.loads(where), model, int(rest[0]))
