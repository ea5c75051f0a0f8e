"""`broadcaster migrate`: an archive's index for an older program, or for this one again."""

from __future__ import annotations

from pathlib import Path

import click

from broadcaster.cli.command import Command, as_json
from broadcaster.cli.offline import require_archive
from broadcaster.cli.output import print_json


@click.command(cls=Command)
@click.argument("directory", metavar="ARCHIVE_DIR", type=click.Path(path_type=Path))
@click.option("--to", "schema", metavar="SCHEMA", help="The schema to go to, such as 0001.  [default: only say which it has]")
@as_json
def migrate(directory: Path, schema: str | None, as_json: bool) -> None:
    """Take an archive's index to another schema.

    For an older program that refuses this one's. Needs the broadcaster to be stopped.

    The index as it was stays beside the new one.
    """
    from broadcaster.store import schema as schemas

    require_archive(directory)
    report = schemas.migrate(directory, schema)
    if as_json:
        print_json(report)
    elif report.copy is None:
        click.echo(f"the index has schema {report.schema}; this program knows {', '.join(report.known)}")
    else:
        click.echo(f"the index went from schema {report.found} to {report.schema}; as it was, it is kept as {report.copy}")
