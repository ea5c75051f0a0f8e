"""`broadcaster token`: who may ask over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from broadcaster.cli.command import Command, as_json
from broadcaster.cli.output import print_json, print_table
from broadcaster.protocol.errors import ConfigError, InvalidRequest


@click.command(cls=Command)
@click.argument("name", required=False)
@click.option("--role", metavar="ROLE", default="admin", show_default=True, help="actor, learner or admin.")
@click.option(
    *("--models", "--model", "models"),
    metavar="PATTERN",
    multiple=True,
    help="Models it covers: 'policy-*', 'lab/*'.  [default: all]",
)
@click.option("--remove", is_flag=True, help="Take the token of this name back.")
@click.option("--http-tokens", metavar="FILE", help="The file.  [default: as `serve` would have it with these settings]")
@click.option("--archive-dir", metavar="DIR", help="The archive's directory, where `serve` is told it by a flag.")
@click.option("--config", metavar="FILE", help="TOML file with the settings of `serve`.")
@as_json
def token(
    name: str | None,
    role: str,
    models: tuple[str, ...],
    remove: bool,
    http_tokens: str | None,
    archive_dir: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Make a token for HTTP and print it: this once, for only its hash is kept. Without NAME, list those that there are.

    From the first one on, HTTP needs a token. A broadcaster that runs knows of it within a second.
    """
    from broadcaster.config import load_settings
    from broadcaster.web.tokens import EVERYTHING, add_token, read_tokens, remove_token

    settings = load_settings({"http_tokens": http_tokens, "archive_dir": archive_dir}, Path(config) if config else None)
    file = settings.token_file.absolute()
    if name is None:
        if remove:
            raise InvalidRequest(field="name", reason="which token is to be removed?")
        found = read_tokens(file) if file.exists() else ()
        if as_json:
            print_json([{"name": one.name, "role": one.role, "models": list(one.models)} for one in found])
        else:
            print_table(["NAME", "ROLE", "MODELS"], [[one.name, one.role, " ".join(one.models)] for one in found])
    elif remove:
        if not file.exists() or not remove_token(file, name):
            raise ConfigError(key="http-tokens", reason=f"{file} has no token {name}")
        if as_json:
            print_json({"name": name, "file": str(file), "removed": True})
        else:
            click.echo(f"removed {name} from {file}", err=True)
    else:
        made = add_token(file, name, role, models or EVERYTHING)
        if as_json:
            print_json({"name": name, "role": role, "models": list(models or EVERYTHING), "file": str(file), "token": made})
        else:
            click.echo(f"its hash is in {file}; this is the only time that it is shown:", err=True)
            click.echo(made)
