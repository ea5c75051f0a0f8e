"""Exit codes: one table, by class of error; and how an error is told."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import click

from broadcaster.cli.output import print_json
from broadcaster.cli.text import one_line
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

EPILOG = "\b\nExit codes:\n" + "\n".join(f"{code.value:3}  {meaning}" for code, meaning in MEANINGS.items())


def exit_code(error: BroadcasterError) -> Exit:
    """The exit code of a command that ended with `error`."""
    return next(code for kind, code in KINDS if isinstance(error, kind))


def tell(sentence: object) -> None:
    """One line `error: <sentence>` on stderr."""
    click.echo(f"error: {one_line(str(sentence))}", err=True)


def tell_json(code: str, message: str, facts: Mapping[str, Any], **more: Any) -> None:
    """The error as one line of JSON on stdout."""
    print_json({"error": {"code": code, "message": message, "facts": facts, **more}})


def sentence_of(error: OSError) -> str:
    """What the system refused, and where."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
