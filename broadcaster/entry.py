"""The door of the command `broadcaster`: opens the command line, or says in one sentence which extra brings it."""

from __future__ import annotations

import sys

from broadcaster.protocol.errors import MissingDependency

SERVER_LIBRARIES = frozenset(
    {"alembic", "click", "prometheus_client", "pydantic", "pydantic_settings", "rich", "sqlalchemy", "starlette", "uvicorn"}
)
"""What the extra `server` installs; the core does without."""

USAGE = 2
"""The exit code of a command that cannot start as it was called."""


def main() -> None:
    """Run the command line with this process's arguments; ends the process with its exit code."""
    try:
        from broadcaster.cli import main as command

        command(prog_name="broadcaster")
    except ModuleNotFoundError as missing:
        library = (missing.name or "").partition(".")[0]
        if library not in SERVER_LIBRARIES:
            raise
        print(MissingDependency(what="the command broadcaster", library=library, extra="server"), file=sys.stderr)
        sys.exit(USAGE)
