"""An actor: acts with the newest weights, and says now and then which ones, and how they came. numpy only.

    actor.py [MODEL] [--until N]

BROADCASTER_URL says where the broadcaster is; in a container beside it, ipc:///slots/data.sock.
"""

import argparse
import signal
import socket
import sys

from clients import connect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="policy")
    parser.add_argument("--until", type=int, default=sys.maxsize, help="end once this version, or a newer one, is there")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    with connect(name=f"actor-{socket.gethostname()}", timeout=60) as client:
        policy = client.subscriber(given.model)
        for snapshot in policy:  # Each newest one; what came meanwhile is skipped.
            action = float(snapshot.tensors["torso"][:1000].sum()) * float(snapshot.tensors["head"][0])
            stats = policy.stats()
            how = stats.delivery if stats.reason is None else f"{stats.delivery} ({stats.reason})"
            print(f"acting with {snapshot.version.number} action={action:.3f} delivery={how}", flush=True)
            if snapshot.version.number >= given.until:
                return


if __name__ == "__main__":
    main()
