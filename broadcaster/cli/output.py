"""What commands print: tables for people, aligned text for pipes, JSON for programs. Nothing printed can steer a terminal."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import click

from broadcaster.cli.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

NOTHING = "-"
"""What stands in an empty cell, so that columns can be counted."""


def print_json(value: object) -> None:
    """One line of JSON on stdout."""
    click.echo(json.dumps(plain(value)))


def plain(value: object) -> Any:
    """`value` as JSON has it: values by name, bytes in hex; a float that is not finite is null, for JSON has no such number."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout: drawn by rich on a terminal, elsewhere columns of aligned text under their names."""
    cells = [[one_line(cell) or NOTHING for cell in row] for row in rows]
    if sys.stdout is not None and sys.stdout.isatty():
        _draw(columns, cells)
        return
    lines = [list(columns), *cells]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _draw(columns: Sequence[str], cells: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=SIMPLE_HEAD)
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))  # Text: what users wrote is no markup.
    Console().print(table)


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} GiB"


def moment(nanoseconds: int) -> str:
    """A time in ns since 1970 as local time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(nanoseconds / 1e9))
    except (OverflowError, ValueError, OSError):  # A publisher may say anything.
        return str(nanoseconds)


def brief(text: str) -> str:
    """The first line of a text, cut where it is long."""
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 60 else f"{line[:59]}…"


def pairs(values: Mapping[str, Any]) -> str:
    """`a=1 b=2`."""
    return " ".join(f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items())


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr, as a function of bytes done and bytes in all; None when stderr is no terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    label = TextColumn("{task.description}", markup=False)
    columns = (label, BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(one_line(what), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
