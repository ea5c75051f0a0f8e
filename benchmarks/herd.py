"""Many processes of one module: it is imported once, with what its `load` adds if it has one, and forked.

python -m benchmarks.herd COUNT MODULE ARGUMENTS...

Each process runs the module's `main` with these arguments, as `python -m MODULE ARGUMENTS...` would, and says who it is with
every line. When one ends, all end.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import NoReturn

from benchmarks.processes import be_member, end_with_parent


def _run(module: str, who: int, parent: int) -> NoReturn:
    """Runs it and ends, whatever happens: what is below in the stack belongs to the parent."""
    status = 1
    try:
        end_with_parent()
        if os.getppid() == parent:
            be_member(who)
            import_module(module).main()
            status = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def main() -> None:
    count, module = int(sys.argv[1]), sys.argv[2]
    end_with_parent()
    getattr(import_module(module), "load", lambda: None)()
    sys.argv = [module, *sys.argv[3:]]
    parent = os.getpid()
    for who in range(count):
        if not os.fork():
            _run(module, who, parent)
    _, status = os.wait()
    sys.exit(os.waitstatus_to_exitcode(status) or 1)


if __name__ == "__main__":
    main()
