"""`broadcaster search` and `describe`: finding versions by what is known of them, and saying what they are."""

from __future__ import annotations

import click

from broadcaster.cli.command import WITH_REF, Command, Ref, as_json, at_a_broadcaster, connect
from broadcaster.cli.models import VERSION_COLUMNS, version_row
from broadcaster.cli.output import print_json, print_table
from broadcaster.cli.text import one_line

EVERY_MODEL = "*"


@click.command(cls=Command)
@click.argument("model")
@click.argument("where", default="")
@click.option("--order", metavar="FIELD", help="Order by this field; with - before it, the greatest first.  [default: newest]")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="At most so many versions.")
@at_a_broadcaster
@as_json
def search(model: str, where: str, order: str | None, limit: int | None, url: str | None, namespace: str, as_json: bool) -> None:
    """Find versions by what is known of them.

    Those of MODEL ('*': of all models) for which WHERE holds, such as "metrics.return >= 200 and tags.stage = 'candidate'".
    """
    everywhere = model == EVERY_MODEL
    with connect(url, namespace) as client:
        found = list(client.registry.search(None if everywhere else model, where, order=order, limit=limit))
    if as_json:
        print_json(found)
    elif everywhere:
        print_table(["MODEL", *VERSION_COLUMNS], [[version.model_id, *version_row(version)] for version in found])
    else:
        print_table(VERSION_COLUMNS, [version_row(version) for version in found])


@click.command(cls=Command, context_settings=WITH_REF)
@click.argument("model")
@click.argument("text")
@click.option("--version", "ref", metavar="REF", type=Ref(), help="Describe this version, not the model.")
@at_a_broadcaster
@as_json
def describe(model: str, text: str, ref: int | str | None, url: str | None, namespace: str, as_json: bool) -> None:
    """Say in a few words what a model or a version is.

    TEXT takes the place of the description there was; '' removes it.
    """
    with connect(url, namespace) as client:
        info = client.registry.describe(model, text, ref=ref)
    if as_json:
        print_json(info)
    else:
        number = getattr(info, "number", None)
        click.echo(f"{info.model_id}{'' if number is None else f' {number}'}: {one_line(info.description)}")
