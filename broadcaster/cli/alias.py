"""`broadcaster alias`: which version a name points to."""

from __future__ import annotations

import click

from broadcaster.cli.command import WITH_REF, Command, Ref, as_json, at_a_broadcaster, connect
from broadcaster.cli.output import print_json


@click.command(cls=Command, context_settings=WITH_REF)
@click.argument("model")
@click.argument("name")
@click.argument("ref", type=Ref(), required=False)
@click.option("--remove", is_flag=True, help="The alias names nothing from now on.")
@click.option("--expect", metavar="NUMBER", type=click.IntRange(min=0), help="Only if it names this version now; 0: none.")
@at_a_broadcaster
@as_json
def alias(
    model: str,
    name: str,
    ref: int | str | None,
    remove: bool,
    expect: int | None,
    url: str | None,
    namespace: str,
    as_json: bool,
) -> None:
    """Make an alias name a version of a model.

    It is made, or moved at once for all who ask for it or follow it.

    REF is a version number, -1 for the newest, -n for the n-th newest, or another alias.
    """
    if (ref is None) is not remove:
        raise click.UsageError("say which version, or --remove", click.get_current_context())
    with connect(url, namespace) as client:
        info = client.registry.set_alias(model, name, ref, expect=expect)
    if as_json:
        print_json(info)
    else:
        click.echo(f"{info.model_id} {name}: {info.aliases.get(name, 'removed')}")
