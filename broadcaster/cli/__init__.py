"""The command `broadcaster`: one file per group of commands. Libraries are loaded when a command runs, never for its help."""

from __future__ import annotations

import click

from broadcaster import __version__
from broadcaster.cli.alias import alias
from broadcaster.cli.backup import backup, restore
from broadcaster.cli.command import Group
from broadcaster.cli.demo import demo
from broadcaster.cli.doctor import doctor
from broadcaster.cli.drain import drain
from broadcaster.cli.exits import EPILOG, Exit
from broadcaster.cli.healthcheck import healthcheck
from broadcaster.cli.keys import keygen
from broadcaster.cli.migrate import migrate
from broadcaster.cli.models import archive, delete, give_up_term, models, stats, subscribers, versions
from broadcaster.cli.offline import rebuild_index, verify
from broadcaster.cli.ping import ping
from broadcaster.cli.retention import pin, prune, retention, unpin
from broadcaster.cli.search import describe, search
from broadcaster.cli.serve import serve
from broadcaster.cli.token import token
from broadcaster.cli.transfer import fetch, publish, watch


@click.group(
    cls=Group,
    epilog=EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="broadcaster")
@click.pass_context
def main(context: click.Context) -> None:
    """Broadcast model weights from a learner to its actors while it trains."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(Exit.USAGE)


for command in (
    serve,
    publish,
    fetch,
    watch,
    models,
    versions,
    search,
    describe,
    alias,
    subscribers,
    archive,
    delete,
    retention,
    prune,
    pin,
    unpin,
    give_up_term,
    ping,
    stats,
    verify,
    rebuild_index,
    migrate,
    backup,
    restore,
    doctor,
    drain,
    healthcheck,
    token,
    keygen,
    demo,
):
    main.add_command(command)
