"""What all commands have in common: how errors end them, and the options that many of them take."""

from __future__ import annotations

import sys
from typing import Any

import click

from broadcaster.cli.exits import EPILOG, Exit, exit_code, tell, tell_json
from broadcaster.protocol.errors import BroadcasterError


class Command(click.Command):
    """A command whose errors are told in one line and decide its exit code. With `--json` stdout gets the error too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("epilog", EPILOG)
        super().__init__(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BroadcasterError as error:
            tell(error)
            if ctx.params.get("as_json"):
                tell_json(error)
            ctx.exit(exit_code(error))


class Group(click.Group):
    """The commands of `broadcaster`. Ends the process with the command's exit code."""

    command_class = Command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Never returns. Wrong usage and what the system refuses are told in one line, like all errors."""
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except click.exceptions.NoArgsIsHelpError as asked:
            click.echo(asked.format_message(), err=True)
            code = Exit.USAGE
        except click.UsageError as wrong:
            where = wrong.ctx.command_path if wrong.ctx else "broadcaster"
            tell(f"{wrong.format_message().rstrip('.')} (see {where} --help)")
            code = Exit.USAGE
        except click.ClickException as wrong:
            tell(wrong.format_message())
            code = wrong.exit_code
        except click.Abort:
            tell("interrupted")
            code = Exit.INTERRUPTED
        except OSError as wrong:
            tell(f"{wrong.filename}: {wrong.strerror}" if wrong.filename else wrong)
            code = Exit.FAILED
        sys.exit(int(code or 0))
