"""Starts a program that ends with its parent: `python leash.py PARENT_PID PROGRAM ARGUMENT...`.

Run as a file with `-I -S`, so it loads nothing but this and costs a hundredth of a second. The program takes its place, gets
SIGTERM when the parent's thread that started it dies, however that happens (Linux only; elsewhere the parent must end it),
and computes with one thread: more of them, in every process of the demo, would only fight for the same processors.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS")


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the parent is gone already")
    for name in ONE_THREAD:
        os.putenv(name, "1")
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
