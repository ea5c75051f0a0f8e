"""What all commands have in common: how errors end them, and the options that many of them take."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from broadcaster.cli.exits import EPILOG, Exit, exit_code, sentence_of, tell, tell_json
from broadcaster.protocol.errors import BroadcasterError
from broadcaster.protocol.names import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from clients import Client

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


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
                tell_json(error.code, str(error), error.facts, **_told(error))
            ctx.exit(exit_code(error))
        except OSError as error:
            if error.errno == errno.EPIPE:  # Who read our output has enough of it; click ends quietly.
                raise
            tell(sentence_of(error))
            if ctx.params.get("as_json"):
                tell_json("os-error", sentence_of(error), {"errno": error.errno})
            ctx.exit(Exit.FAILED)


def _told(error: BroadcasterError) -> dict[str, Any]:
    """What else is known of an error that a broadcaster told of."""
    if error.request_id is None:
        return {}
    return {"retryable": error.retryable, "request_id": error.request_id, "details": error.details}


class Group(click.Group):
    """The commands of `broadcaster`. Ends the process with the command's exit code."""

    command_class = Command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Never returns. Wrong usage is told in one line, like all errors."""
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except click.UsageError as wrong:
            where = wrong.ctx.command_path if wrong.ctx else "broadcaster"
            tell(f"{wrong.format_message().rstrip('.')} (see {where} --help)")
            code = Exit.USAGE
        except click.Abort:
            tell("interrupted")
            code = Exit.INTERRUPTED
        sys.exit(int(code or 0))


# --- options -------------------------------------------------------------------------------------------------------

_URL = click.option("--url", metavar="URL", help="Where the broadcaster is.  [default: BROADCASTER_URL, or tcp://localhost:5552]")
_NAMESPACE = click.option(
    "--namespace", metavar="NAME", default=DEFAULT_NAMESPACE, show_default=True, help="Namespace of the model."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and nothing else there.")


def timeout(seconds: float | None, what: str) -> Callable[[Decorated], Decorated]:
    """`--timeout`; its default is `seconds`."""
    return click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(0, min_open=True),
        default=seconds,
        show_default=seconds is not None,
        help=what,
    )


def at_a_broadcaster(command: Decorated) -> Decorated:
    """`--url` and `--namespace`."""
    return _URL(_NAMESPACE(command))


class Ref(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A version: its number, -1 for the newest, -n for the n-th newest, or an alias."""

    name = "ref"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if isinstance(value, int) or not value.removeprefix("-").isdecimal():
            if str(value).startswith("-") and not isinstance(value, int):
                raise click.NoSuchOption(value, ctx=ctx)
            return value  # type: ignore[no-any-return]
        return int(value)


WITH_REF = {"ignore_unknown_options": True}
"""Settings of a command with a Ref: -1 is a version, not an option."""


def connect(url: str | None, namespace: str) -> Client:
    """The client that a command speaks through. Raises NoBroadcaster."""
    from clients import connect

    return connect(url, namespace=namespace)
