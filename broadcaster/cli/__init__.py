"""The command `broadcaster`: one file per group of commands. Libraries are loaded when a command runs, never for its help."""

from __future__ import annotations

import click

from broadcaster import __version__
from broadcaster.cli.command import Group
from broadcaster.cli.exits import EPILOG
from broadcaster.cli.serve import serve


@click.group(cls=Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="broadcaster")
def main() -> None:
    """Broadcast model weights from a learner to its actors while it trains."""


main.add_command(serve)
