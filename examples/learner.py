"""A learner: publishes new weights again and again, and the best of them for ever. numpy only.

    learner.py [MODEL] [--megabytes 16] [--every 0.5] [--versions N]

BROADCASTER_URL says where the broadcaster is; in a container beside it, ipc:///slots/data.sock.
"""

import argparse
import signal
import sys
import time

import numpy as np

from clients import connect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="policy")
    parser.add_argument("--megabytes", type=float, default=16, help="size of the weights")
    parser.add_argument("--every", type=float, default=0.5, help="seconds between two versions")
    parser.add_argument("--versions", type=int, default=sys.maxsize, help="end after so many")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    random = np.random.default_rng(1)
    weights = {"torso": random.standard_normal(int(given.megabytes * (1 << 18)), np.float32), "head": np.zeros(8, np.float32)}
    best = float("-inf")
    with connect(name="learner", timeout=60) as client:
        policy = client.publisher(given.model)
        for step in range(given.versions):
            weights["torso"] *= 0.999  # In place, as an optimizer does: publish takes its own copy.
            weights["head"] += 1
            score = float(random.normal(loc=step / 10))
            begun = time.perf_counter()
            version = policy.publish(weights, archived=score > best + 1, metrics={"return": score})
            best = max(best, score) if version.archived else best
            took = (time.perf_counter() - begun) * 1000
            print(f"published {version.number} archived={version.archived} in {took:.1f} ms", flush=True)
            time.sleep(given.every)


if __name__ == "__main__":
    main()
