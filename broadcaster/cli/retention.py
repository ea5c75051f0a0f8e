"""`broadcaster retention`, `prune`, `pin` and `unpin`: which archived versions stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from broadcaster.cli.command import WITH_REF, Command, Ref, as_json, at_a_broadcaster, connect
from broadcaster.cli.output import pairs, print_json, size
from broadcaster.protocol.version import ModelInfo, VersionInfo

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Age(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """Seconds, or a number with s, m, h or d."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
        try:
            return float(number) * unit
        except ValueError:
            self.fail(f"{text!r} is not a number of seconds, nor one with s, m, h or d", param, ctx)


class Best(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """METRIC, METRIC:MODE or METRIC:MODE:COUNT."""

    name = "best"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str, int]:
        if isinstance(value, tuple):
            return value
        metric, mode, count = (*str(value).split(":"), "", "")[:3]
        if not metric or mode not in ("max", "min", "") or not (count or "1").isdecimal() or str(value).count(":") > 2:
            self.fail(f"{value!r} is not METRIC, METRIC:max:COUNT or METRIC:min:COUNT", param, ctx)
        return metric, mode or "max", int(count or 1)


_RULES = (
    click.option("--keep-last", metavar="N", type=click.IntRange(min=1), help="Keep the newest N."),
    click.option("--keep-every", metavar="K", type=click.IntRange(min=1), help="Keep each whose number is a multiple of K."),
    click.option("--keep-best", metavar="METRIC[:MODE[:N]]", type=Best(), help="Keep the N best; MODE is max or min."),
    click.option("--keep-age", metavar="AGE", type=Age(), help="Keep those younger than AGE seconds, or 90m, 12h, 7d."),
)


def rules(command: Decorated) -> Decorated:
    """The options that make a policy."""
    for option in reversed(_RULES):
        command = option(command)
    return command


def _rules_of(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given.pop(f"keep_{name}") for name in ("last", "every", "best", "age")}


@click.command(cls=Command)
@click.argument("model")
@rules
@click.option("--none", "none", is_flag=True, help="End the policy: all versions stay from now on.")
@at_a_broadcaster
@as_json
def retention(model: str, none: bool, url: str | None, namespace: str, as_json: bool, **given: Any) -> None:
    """Show or set a model's own rules of which archived versions stay.

    With rules, they decide from now on; --none ends that. A version stays when any rule keeps it. The newest, and what is pinned
    or has an alias, always stays.
    """
    policy = _rules_of(given)
    changes = any(rule is not None for rule in policy.values())
    if changes and none:
        raise click.UsageError("--none goes with no rule", click.get_current_context())
    with connect(url, namespace) as client:
        info = client.registry.retention(model, **policy) if changes or none else client.registry.model(model)
    if as_json:
        print_json(info)
    else:
        click.echo(f"{info.model_id}: {_shown(info)}")


def _shown(info: ModelInfo) -> str:
    return f"keeps {pairs(info.retention)}" if info.retention else "no policy, all archived versions stay"


@click.command(cls=Command)
@click.argument("model")
@rules
@click.option("--dry-run", is_flag=True, help="Delete nothing; say what would go.")
@click.option("--force", is_flag=True, help="Believe ages although the broadcaster's clock has jumped.")
@at_a_broadcaster
@as_json
def prune(model: str, dry_run: bool, force: bool, url: str | None, namespace: str, as_json: bool, **given: Any) -> None:
    """Delete the archived versions of a model that no rule keeps.

    There is no way back. Without rules, the model's own hold; if it has none, nothing goes. The newest, and what is pinned or has
    an alias, always stays.
    """
    with connect(url, namespace) as client:
        found = client.registry.prune(model, **_rules_of(given), dry_run=dry_run, force=force)
    if as_json:
        print_json({"numbers": found.numbers, "kept": found.kept, "bytes": found.bytes, "dry_run": dry_run})
        return
    if found.numbers and dry_run:
        click.echo(" ".join(map(str, found.numbers)))
    verb = "would be deleted" if dry_run else "deleted"
    click.echo(f"{model}: {len(found.numbers)} version(s) of {size(found.bytes)} {verb}, {found.kept} kept")


@click.command(cls=Command, context_settings=WITH_REF)
@click.argument("model")
@click.argument("ref", type=Ref(), default=-1)
@at_a_broadcaster
@as_json
def pin(model: str, ref: int | str, url: str | None, namespace: str, as_json: bool) -> None:
    """Pin a version: only force deletes it.

    One that is not archived does not leave memory either.

    REF is a version number, -1 for the newest (the default), -n for the n-th newest, or an alias.
    """
    with connect(url, namespace) as client:
        _say(client.registry.pin(model, ref), as_json=as_json)


@click.command(cls=Command, context_settings=WITH_REF)
@click.argument("model")
@click.argument("ref", type=Ref())
@at_a_broadcaster
@as_json
def unpin(model: str, ref: int | str, url: str | None, namespace: str, as_json: bool) -> None:
    """Let a pinned version go the way of the others.

    REF is a version number, -1 for the newest, -n for the n-th newest, or an alias.
    """
    with connect(url, namespace) as client:
        _say(client.registry.unpin(model, ref), as_json=as_json)


def _say(info: VersionInfo, *, as_json: bool) -> None:
    if as_json:
        print_json(info)
    else:
        click.echo(f"{info.model_id} {info.number}: {'pinned' if info.pinned else 'not pinned'}")
