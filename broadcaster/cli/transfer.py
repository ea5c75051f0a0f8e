"""`broadcaster publish`, `fetch` and `watch`: payloads to a broadcaster and from it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from broadcaster.cli.command import WITH_REF, Command, Ref, as_json, at_a_broadcaster, connect, timeout
from broadcaster.cli.output import moment, pairs, print_json, progress, size
from broadcaster.cli.text import one_line
from broadcaster.protocol.errors import AlreadyExists, RequestTimeout, VersionDeleted, VersionEvicted
from broadcaster.protocol.version import DIRECTORY, VersionInfo

if TYPE_CHECKING:
    from concurrent.futures import Future

    from clients import Snapshot, Subscriber

Value = TypeVar("Value")


def _pairs_of(
    turn: Callable[[str], Value], what: str
) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, Value]]:
    """A callback that makes a dict of `key=value` texts."""

    def parse(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for text in given:
            key, equals, value = text.partition("=")
            if not equals or not key:
                raise click.BadParameter(f"{text!r} is not of the form key={what}", ctx=ctx, param=param)
            if key in found:
                raise click.BadParameter(f"{key!r} is given twice", ctx=ctx, param=param)
            try:
                found[key] = turn(value)
            except ValueError:
                raise click.BadParameter(f"{key!r} must be a {what}, not {value!r}", ctx=ctx, param=param) from None
        return found

    return parse


@click.command(cls=Command)
@click.argument("path", metavar="FILE|DIR", type=click.Path(exists=True, path_type=Path))
@click.option("--model", metavar="MODEL", help="Name of the model.  [default: the file's name without its suffix]")
@click.option("--archived", is_flag=True, help="Keep the version on disk for ever; done when it is there.")
@click.option(
    "--metric", "metrics", metavar="KEY=NUMBER", multiple=True, callback=_pairs_of(float, "number"), help="A metric; repeat."
)
@click.option("--user-data", metavar="KEY=TEXT", multiple=True, callback=_pairs_of(str, "text"), help="A note; repeat.")
@click.option("--exclusive", is_flag=True, help="Take the model over from any other publisher, for this one version.")
@timeout(300.0, "Give up after so many seconds.")
@at_a_broadcaster
@as_json
def publish(
    path: Path,
    model: str | None,
    exclusive: bool,
    url: str | None,
    namespace: str,
    as_json: bool,
    timeout: float,
    **about: Any,
) -> None:
    """Publish a file, or a directory as one payload."""
    whole = Path(os.path.abspath(path))  # "." has no name of its own.
    model = model or (whole.name if path.is_dir() else whole.stem)
    with connect(url, namespace) as client, progress(f"publishing {model}") as tell:
        with client.publisher(model, exclusive=exclusive) as publisher:
            version = publisher.publish(path, **about, timeout=timeout, progress=tell)
    if as_json:
        print_json(version)
    else:
        kept = "archived" if version.archived else "transient"
        click.echo(f"{version.model_id} {version.number}: {size(version.size)}, {kept}, xxh3-128 {version.digest}")


@click.command(cls=Command, context_settings=WITH_REF)
@click.argument("model")
@click.argument("ref", type=Ref(), default=-1)
@click.option(
    "--out", metavar="PATH", type=click.Path(path_type=Path), help="File or directory to make.  [default: MODEL-NUMBER]"
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@timeout(300.0, "Give up after so many seconds.")
@at_a_broadcaster
@as_json
def fetch(
    model: str, ref: int | str, out: Path | None, force: bool, url: str | None, namespace: str, as_json: bool, timeout: float
) -> None:
    """Fetch a version, verified, to a file.

    Or to a directory, if one was published.

    REF is a version number, -1 for the newest (the default), -n for the n-th newest, or an alias.
    """
    with connect(url, namespace) as client:
        handle = client.registry.get(model, ref)
        info = handle.info
        out = out or Path(f"{info.model_id}-{info.number}")
        _require_free(out, info, force=force)
        with progress(f"fetching {info.model_id} {info.number}") as tell:
            path = handle.download(out, timeout=timeout, progress=tell)
    if as_json:
        print_json({"path": str(path), "version": info})
    else:
        click.echo(f"{path}: {info.model_id} {info.number}, {size(info.size)}, verified")


def _require_free(out: Path, info: VersionInfo, *, force: bool) -> None:
    """Raises AlreadyExists before anything is transferred, rather than after."""
    if info.content_type == DIRECTORY:
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
        hint = "a file or a directory that is not empty"
    else:
        taken = out.is_dir() or (os.path.lexists(out) and not force)
        hint = "a directory" if out.is_dir() else "a file that --force would replace"
    if taken:
        raise AlreadyExists(model_id=str(out), what=hint)


@click.command(cls=Command)
@click.argument("model")
@click.option("--alias", metavar="NAME", help="Watch what this alias names, instead of the newest.")
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after so many versions.")
@timeout(None, "End after so many seconds; with --count that is a failure.")
@at_a_broadcaster
@as_json
def watch(
    model: str, alias: str | None, count: int | None, timeout: float | None, url: str | None, namespace: str, as_json: bool
) -> None:
    """Print a line for each new version.

    The newest version comes first, then each one from then on.
    With --alias, the one that it names, then each that it is moved to.
    The model need not exist yet. With --json each line is one JSON object.
    """
    until = None if timeout is None else time.monotonic() + timeout
    with connect(url, namespace) as client, client.subscriber(model, alias=alias) as subscriber:
        versions, seen = subscriber.every() if alias is None else Moves(subscriber), 0
        while count is None or seen < count:
            future = versions.following()
            try:
                info = versions.hand_out(future.result(None if until is None else max(0.0, until - time.monotonic()))).version
            except (VersionEvicted, VersionDeleted) as gone:
                _tell_gone(gone, as_json=as_json)
                continue
            except TimeoutError:
                if count is None:
                    return
                raise RequestTimeout(what=f"watching for {count} version(s) of {model}, {seen} came,", timeout=timeout) from None
            finally:
                versions.answered(future)
            seen += 1
            _tell_version(info, as_json=as_json)


class Moves:
    """The versions that an alias comes to name, one after the other; see `clients.Every`."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self._last = 0
        self._asked: Future[Snapshot] | None = None

    def following(self) -> Future[Snapshot]:
        if self._asked is None:
            self._asked = self._subscriber.newer(self._last, None)
        return self._asked

    def hand_out(self, snapshot: Snapshot) -> Snapshot:
        self._last = snapshot.version.number
        return self._subscriber.hand_out(snapshot)

    def answered(self, future: Future[Snapshot]) -> None:
        if future.done():
            self._asked = None


def _tell_version(info: VersionInfo, *, as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    parts = [moment(info.creation_timestamp), info.model_id, str(info.number), size(info.size)]
    parts += ["archived"] if info.archived else []
    click.echo(one_line("  ".join([*parts, *filter(None, [pairs(info.metrics), pairs(info.user_data)])])))


def _tell_gone(gone: VersionEvicted | VersionDeleted, *, as_json: bool) -> None:
    click.echo(f"missed: {one_line(str(gone))}", err=True)
    if as_json:
        print_json({"missed": {"code": gone.code, "message": str(gone), "facts": gone.facts}})
