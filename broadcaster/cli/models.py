"""`broadcaster models`, `versions`, `subscribers`, `archive`, `delete` and `stats`: what is there, and changes to it."""

from __future__ import annotations

import sys
from typing import Any

import click

from broadcaster.cli.command import WITH_REF, Command, Ref, as_json, at_a_broadcaster, connect
from broadcaster.cli.output import brief, moment, pairs, print_json, print_table, size
from broadcaster.protocol.subscriber import SubscriberInfo
from broadcaster.protocol.version import ModelInfo, VersionInfo


@click.command(cls=Command)
@at_a_broadcaster
@as_json
def models(url: str | None, namespace: str, as_json: bool) -> None:
    """List the models."""
    with connect(url, namespace) as client:
        found = list(client.registry.models())
    if as_json:
        print_json(found)
    else:
        columns = ["MODEL", "NEWEST", "VERSIONS", "CREATED", "ALIASES", "TAGS", "USER DATA", "DESCRIPTION"]
        print_table(columns, [_model(model) for model in found])


def _model(model: ModelInfo) -> list[str]:
    newest = "" if model.newest is None else str(model.newest)
    about = [pairs(values) for values in (model.aliases, model.tags, model.user_data)]
    return [model.model_id, newest, str(model.versions), moment(model.creation_timestamp), *about, brief(model.description)]


@click.command(cls=Command)
@click.argument("model")
@at_a_broadcaster
@as_json
def versions(model: str, url: str | None, namespace: str, as_json: bool) -> None:
    """List the versions of a model.

    Those that can be fetched, oldest first.
    """
    with connect(url, namespace) as client:
        found = list(client.registry.versions(model))
    if as_json:
        print_json(found)
    else:
        print_table(VERSION_COLUMNS, [version_row(version) for version in found])


VERSION_COLUMNS = ["NUMBER", "SIZE", "KEPT", "CREATED", "XXH3-128", "METRICS", "TAGS", "USER DATA", "DESCRIPTION"]


def version_row(info: VersionInfo) -> list[str]:
    """What a table says of a version."""
    kept = ("archived" if info.archived else "transient") + (", pinned" if info.pinned else "")
    about = [*(pairs(values) for values in (info.metrics, info.tags, info.user_data)), brief(info.description)]
    return [str(info.number), size(info.size), kept, moment(info.creation_timestamp), info.digest, *about]


@click.command(cls=Command, context_settings=WITH_REF)
@click.argument("model")
@click.argument("ref", type=Ref(), default=-1)
@at_a_broadcaster
@as_json
def archive(model: str, ref: int | str, url: str | None, namespace: str, as_json: bool) -> None:
    """Keep a version on disk for ever.

    Done when it is there.

    REF is a version number, -1 for the newest (the default), -n for the n-th newest, or an alias.
    """
    with connect(url, namespace) as client:
        info = client.registry.archive(model, ref)
    if as_json:
        print_json(info)
    else:
        click.echo(f"{info.model_id} {info.number}: archived, sha256 {info.sha256}")


class Number(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """The number of a version: what is deleted is named by nothing that may mean another one in a moment."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if str(value).isascii() and str(value).isdecimal() and int(value) >= 1:
            return int(value)
        self.fail(f"{value!r} is no version's number; `broadcaster versions` tells them", param, ctx)


@click.command(cls=Command)
@click.argument("model")
@click.argument("number", type=Number(), required=False)
@click.option("--force", is_flag=True, help="Delete although an alias points there, or it is pinned.")
@click.option("--yes", is_flag=True, help="Do not ask before deleting a whole model.")
@at_a_broadcaster
@as_json
def delete(model: str, number: int | None, force: bool, yes: bool, url: str | None, namespace: str, as_json: bool) -> None:
    """Delete a version, or a whole model.

    Archived versions too; there is no way back. Asks before it deletes a whole model.
    """
    with connect(url, namespace) as client:
        if number is not None:
            client.registry.delete(model, number, force=force)
        else:
            if not yes:
                _ask(model, client.registry.model(model).versions)
            client.registry.delete_model(model, force=force)
    if as_json:
        print_json({"deleted": {"namespace": namespace, "model_id": model, "number": number}})
    else:
        click.echo(f"{model}{'' if number is None else f' {number}'}: deleted")


def _ask(model: str, count: int) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError("to delete a whole model without a terminal to ask on, say --yes", click.get_current_context())
    if not click.confirm(f"Delete the model {model} and its {count} version(s), archived ones too?", err=True):
        raise click.Abort


@click.command(cls=Command)
@click.argument("model")
@at_a_broadcaster
@as_json
def subscribers(model: str, url: str | None, namespace: str, as_json: bool) -> None:
    """List who follows a model, and how far each is.

    Those that are furthest behind first. One that is silent is listed for 30 seconds.
    """
    with connect(url, namespace) as client:
        found = sorted(client.registry.subscribers(model), key=lambda one: (-one.lag, -one.lag_ms, one.name or ""))
    if as_json:
        print_json(found)
    else:
        columns = ["NAME", "RECEIVED", "APPLIED", "LAG", "LAG SECONDS", "SEEN"]
        print_table(columns, [_subscriber(subscriber) for subscriber in found])


def _subscriber(info: SubscriberInfo) -> list[str]:
    name = info.subscriber.hex() if info.name is None else info.name
    since = [f"{info.lag_ms / 1000:.1f}", f"{info.seen_ms / 1000:.1f} s ago"]
    return [name, str(info.received), str(info.applied), str(info.lag), *since]


@click.command(cls=Command)
@click.argument("model")
@at_a_broadcaster
@as_json
def give_up_term(model: str, url: str | None, namespace: str, as_json: bool) -> None:
    """Let everybody publish a model again.

    For when its exclusive publisher died and no other one takes over. Should it live, it is refused from now on.
    """
    with connect(url, namespace) as client:
        term = client.registry.give_up_term(model)
    if as_json:
        print_json({"namespace": namespace, "model_id": model, "given_up": term})
    else:
        click.echo(f"{model}: " + ("no publisher was exclusive" if term is None else f"term {term} is over"))


@click.command(cls=Command)
@at_a_broadcaster
@as_json
def stats(url: str | None, namespace: str, as_json: bool) -> None:
    """Show a broadcaster's counters and gauges."""
    with connect(url, namespace) as client:
        values = client.registry.stats()
    if as_json:
        print_json(values)
    else:
        print_table(["NAME", "VALUE"], [[name, f"{value:.15g}"] for name, value in sorted(values.items())])
