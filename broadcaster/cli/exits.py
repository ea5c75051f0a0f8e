"""Exit codes: one table, by class of error; and how an error is told."""

from __future__ import annotations

import json
from enum import IntEnum

import click

from broadcaster.protocol.errors import (
    BroadcasterError,
    ConfigError,
    InvalidName,
    InvalidRequest,
    MissingDependency,
    NoBroadcaster,
    RequestTimeout,
    UnknownModel,
    UnknownVersion,
)


class Exit(IntEnum):
    """What an exit code means; each has its line in `MEANINGS`."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    TIMEOUT = 5
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "refused by the broadcaster, or another failure",
    Exit.USAGE: "wrong usage or configuration",
    Exit.UNREACHABLE: "no broadcaster can be reached",
    Exit.NOT_FOUND: "no such model or version (or it was evicted)",
    Exit.TIMEOUT: "not finished in time",
    Exit.INTERRUPTED: "interrupted",
}

KINDS: tuple[tuple[type[BroadcasterError], Exit], ...] = (
    (ConfigError, Exit.USAGE),
    (InvalidName, Exit.USAGE),
    (InvalidRequest, Exit.USAGE),
    (MissingDependency, Exit.USAGE),
    (NoBroadcaster, Exit.UNREACHABLE),
    (UnknownModel, Exit.NOT_FOUND),
    (UnknownVersion, Exit.NOT_FOUND),
    (RequestTimeout, Exit.TIMEOUT),
    (BroadcasterError, Exit.FAILED),
)
"""The exit code by class of error; the first that fits."""

EPILOG = "Exit codes: " + "; ".join(f"{code.value} {meaning}" for code, meaning in MEANINGS.items()) + "."


def exit_code(error: BroadcasterError) -> Exit:
    """The exit code of a command that ended with `error`."""
    return next(code for kind, code in KINDS if isinstance(error, kind))


def tell(sentence: object) -> None:
    """One line `error: <sentence>` on stderr."""
    click.echo(f"error: {one_line(str(sentence))}", err=True)


def tell_json(error: BroadcasterError) -> None:
    """The error as one line of JSON on stdout."""
    click.echo(json.dumps({"error": {"code": error.code, "message": str(error), "facts": error.facts}}))


def one_line(text: str) -> str:
    """`text` on one line, with nothing in it that steers a terminal: other characters are written as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
