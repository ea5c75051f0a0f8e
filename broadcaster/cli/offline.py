"""`broadcaster verify` and `rebuild-index`: what is done to an archive without asking a broadcaster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from broadcaster.cli.command import Command, as_json
from broadcaster.cli.exits import Exit
from broadcaster.cli.output import print_json, print_table, progress, size
from broadcaster.cli.text import one_line
from broadcaster.protocol.errors import DirectoryUnusable

if TYPE_CHECKING:
    from broadcaster.store.verification import VerifyReport

_ARCHIVE = click.argument("directory", metavar="ARCHIVE_DIR", type=click.Path(path_type=Path))


@click.command(cls=Command)
@_ARCHIVE
@click.option("--full", is_flag=True, help="Read every byte; that is so without --quick.")
@click.option("--quick", is_flag=True, help="Only read manifests, and look whether their payloads are there.")
@as_json
def verify(directory: Path, full: bool, quick: bool, as_json: bool) -> None:
    """Check every byte of an archive.

    While a broadcaster uses it, it is only read. Else a damaged payload is put aside, and never served.

    Ends with 1 when something is damaged or missing.
    """
    from broadcaster.store.verification import verify as read

    if full and quick:
        raise click.UsageError("--full and --quick are one or the other")
    require_archive(directory)
    with progress("reading") as told:
        report = read(directory, full=not quick, progress=told)
    if as_json:
        print_json(report)
    else:
        for problem in report.problems:
            click.echo(f"damaged: {one_line(problem)}")
        for sha256 in report.restored:
            click.echo(f"restored: payload {sha256} is right, and served again")
        print_table(["", "count"], [[name, str(len(found))] for name, found in _lists(report)])
        found = f"{report.versions} version(s), {report.blobs} payload(s), {size(report.bytes)} read"
        click.echo(f"{found}: {_verdict(len(report.problems))}")
        if report.in_use:
            click.echo("a broadcaster is using it: nothing was moved, and orphans were not looked for")
    if report.problems:
        click.get_current_context().exit(Exit.FAILED)


def _lists(report: VerifyReport) -> list[tuple[str, list[str]]]:
    names = ("damaged", "missing", "unreadable", "not_given", "quarantined", "orphans", "restored")
    return [(name.replace("_", " "), getattr(report, name)) for name in names]


def _verdict(problems: int) -> str:
    return f"{problems} problem(s)" if problems else "all right"


@click.command("rebuild-index", cls=Command)
@_ARCHIVE
@as_json
def rebuild_index(directory: Path, as_json: bool) -> None:
    """Make an archive's index anew.

    From its manifests. Needs the broadcaster to be stopped.

    The old index stays beside the new one.
    """
    from broadcaster.store import offline

    require_archive(directory)
    report = offline.rebuild_index(directory)
    if as_json:
        print_json(report)
        return
    for note in report.notes:
        click.echo(f"note: {one_line(note)}")
    click.echo(f"{report.models} model(s), {report.versions} version(s) in the new index")


def require_archive(directory: Path) -> None:
    """Raises DirectoryUnusable for what is no archive: opening it would make one there."""
    if not (directory / "manifests").is_dir():
        reason = "it is no archive: it has no manifests" if directory.exists() else "it does not exist"
        raise DirectoryUnusable(key="ARCHIVE_DIR", where=str(directory), reason=reason)
