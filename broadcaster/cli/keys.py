"""`broadcaster keygen`: who may connect over the network. And what `serve` needs of keys before it starts."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broadcaster.cli.command import Command, as_json
from broadcaster.cli.output import print_json
from broadcaster.protocol.errors import InvalidRequest
from broadcaster.protocol.patterns import split_pattern

if TYPE_CHECKING:
    from broadcaster.config import Settings
    from broadcaster.security import KeyDirectory

log = logging.getLogger("broadcaster.serve")


@click.command(cls=Command)
@click.argument("name", required=False)
@click.option("--role", metavar="ROLE", help="learner, actor, relay or admin.")
@click.option("--namespace", metavar="PATTERN", help="Namespace it is for, where --models names none.  [default: default]")
@click.option("--models", metavar="PATTERN", default="*", show_default=True, help="Models it is for: 'policy-*', 'lab/*'.")
@click.option(
    "--days", metavar="N", type=click.FloatRange(0, 36500, min_open=True), help="Days until it expires.  [default: never]"
)
@click.option("--file", metavar="FILE", help="Where the key file goes.  [default: NAME.key in the directory of keys]")
@click.option("--server", is_flag=True, help="Make the broadcaster's own next pair instead: `serve` takes it at its next start.")
@click.option("--keys-dir", metavar="DIR", help="The directory of keys.  [default: as `serve` would have it]")
@click.option("--archive-dir", metavar="DIR", help="The archive's directory, where `serve` is told it by a flag.")
@click.option("--config", metavar="FILE", help="TOML file with the settings of `serve`.")
@as_json
def keygen(
    name: str | None,
    role: str | None,
    namespace: str | None,
    models: str,
    days: float | None,
    file: str | None,
    server: bool,
    keys_dir: str | None,
    archive_dir: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Make a key for a client: a file for its eyes only, and an entry in keys.toml that says what it may do.

    A client connects with BROADCASTER_KEY=FILE. A broadcaster that runs with keys knows of it within a second; one that runs
    without, on loopback, asks for keys from its next start on.
    """
    from broadcaster.config import load_settings
    from broadcaster.security import ROLES, Grant, KeyDirectory

    if server == (name is not None):
        raise InvalidRequest(field="name", reason="whose key is to be made? A NAME, or the broadcaster's own with --server")
    if name is not None and role not in ROLES:
        raise InvalidRequest(field="role", reason=f"it must be one of {', '.join(ROLES)}")
    settings = load_settings({"keys_dir": keys_dir, "archive_dir": archive_dir}, Path(config) if config else None)
    keys = KeyDirectory(settings.key_directory.absolute())
    if name is None or role is None:
        _next_pair(keys, as_json=as_json)
        return
    grant = Grant(role, *split_pattern(models, namespace))
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days) if days is not None else None
    made = keys.make(name, grant, Path(file).absolute() if file else None, expires)
    if as_json:
        print_json({"name": name, "role": role, "file": str(made), "keys": str(keys.book_file)})
    else:
        click.echo(f"{made}: key of {name}, {role} of {grant.namespace}/{grant.models} in {keys.book_file}", err=True)
        click.echo(f"connect with: BROADCASTER_KEY={made}", err=True)


def _next_pair(keys: KeyDirectory, *, as_json: bool) -> None:
    public = keys.make_next_server()
    if as_json:
        print_json({"server": public, "keys": str(keys.directory)})
        return
    click.echo(
        f"the broadcaster takes it at its next start; from then on clients need this line in their key files: server = {public}"
    )


def key_directory(settings: Settings) -> Path | None:
    """Where the keys are that clients need over TCP; None where they need none. Makes the first ones, for an address that the
    network reaches. Raises ConfigError when keys are needed and cannot be read."""
    from broadcaster.config import is_loopback
    from broadcaster.security import KeyDirectory

    if settings.insecure:
        return None  # Warned of at every start, where it matters.
    keys = KeyDirectory(settings.key_directory.absolute())
    if is_loopback(settings.host) and not keys.exists:
        return None
    made = keys.ensure()
    if made is not None:
        log.info("keys were made directory=%s first=%s", keys.directory, made)
    elif keys.take_next_server():
        log.warning("the broadcaster has a new pair of keys: clients need its public key directory=%s", keys.directory)
    keys.server_key()
    keys.book()
    return keys.directory


def hint(keys: Path | None) -> str:
    """What a client needs beside the address, to be told at every start."""
    if keys is None:
        return ""
    from broadcaster.security.files import FIRST

    first = keys / f"{FIRST}.key"
    return f" BROADCASTER_KEY={first if first.exists() else keys / 'NAME.key'}"
