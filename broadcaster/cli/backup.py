"""`broadcaster backup` and `restore`: a copy of an archive that may be in use, and a new archive made of one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broadcaster.cli.command import Command, as_json
from broadcaster.cli.exits import Exit
from broadcaster.cli.offline import require_archive
from broadcaster.cli.output import print_json, progress, size
from broadcaster.cli.text import one_line

if TYPE_CHECKING:
    from broadcaster.store.copying import CopyReport


def _directory(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.argument(name.lower().replace("_dir", ""), metavar=name, type=click.Path(path_type=Path))


@click.command(cls=Command)
@_directory("ARCHIVE_DIR")
@_directory("BACKUP_DIR")
@as_json
def backup(archive: Path, backup: Path, as_json: bool) -> None:
    """Copy an archive, also while a broadcaster uses it.

    A directory that holds an older backup is brought up to date: payloads that it has are not copied again.

    Ends with 1 when something in the archive is damaged; the rest is in the backup.
    """
    from broadcaster.store.backup import backup as take

    require_archive(archive)
    with progress("copying") as told:
        report = take(archive, backup, time.time(), told)
    _show(report, as_json, [])


@click.command(cls=Command)
@_directory("BACKUP_DIR")
@_directory("ARCHIVE_DIR")
@click.option("--above", metavar="N", type=click.IntRange(0, 1 << 62), help="Version numbers go on above N, of every model.")
@as_json
def restore(backup: Path, archive: Path, above: int | None, as_json: bool) -> None:
    """Make a new archive of a backup.

    Every byte is checked. Version numbers go on above all that can have been used since the backup was taken, unless --above
    says where.

    Ends with 1 when something in the backup is damaged; the rest is in the archive.
    """
    from broadcaster.store.backup import restore as make

    with progress("copying") as told:
        report = make(backup, archive, time.time(), above=above, progress=told)
    on = f"above {above}" if above is not None else f"{report.step} above those of the backup"
    _show(report, as_json, [*(f"note: {note}" for note in report.notes), f"version numbers go on {on}"])


def _show(report: CopyReport, as_json: bool, more: list[str]) -> None:
    if as_json:
        print_json(report)
    else:
        for line in (*(f"damaged: {problem}" for problem in report.problems), *more):
            click.echo(one_line(line))
        copied = f"{report.copied} of them copied ({size(report.copied_bytes)})"
        click.echo(
            f"{report.models} model(s), {report.versions} version(s), {report.blobs} payload(s), {size(report.bytes)}; {copied}"
        )
    if report.problems:
        click.get_current_context().exit(Exit.FAILED)
