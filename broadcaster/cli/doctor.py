"""`broadcaster doctor`: looks at everything that a broadcaster needs here, and says what to do where something is wrong."""

from __future__ import annotations

from pathlib import Path

import click

from broadcaster.cli.command import Command, as_json
from broadcaster.cli.exits import Exit
from broadcaster.cli.output import print_json, print_table


@click.command(cls=Command)
@click.option("--config", metavar="FILE", help="TOML file with the settings of `serve`.")
@as_json
def doctor(config: str | None, as_json: bool) -> None:
    """Look whether a broadcaster has here what it needs.

    Reads the settings as `serve` would, from environment and file, and may be run beside a broadcaster. Ends with 1 when
    something is a problem; a warning is none.
    """
    from broadcaster.cli.checks import Level, examine, look
    from broadcaster.cli.checks.look import machine
    from broadcaster.config import load_settings

    surroundings = look(load_settings({}, Path(config) if config else None))
    findings = examine(surroundings)
    problems = [finding for finding in findings if finding.level is Level.PROBLEM]
    if as_json:
        print_json({"ok": not problems, "version": surroundings.version, "machine": machine(), "checks": findings})
    else:
        print_table(["CHECK", "", "FOUND"], [[one.check, one.level.value, one.found] for one in findings])
        wrong = [finding for finding in findings if finding.remedy]
        for finding in wrong:
            click.echo(f"{finding.level.value}: {finding.check}: {finding.remedy}")
        warnings = len(wrong) - len(problems)
        click.echo(f"broadcaster {surroundings.version} on {machine()}: {len(problems)} problem(s), {warnings} warning(s)")
    if problems:
        click.get_current_context().exit(Exit.FAILED)
