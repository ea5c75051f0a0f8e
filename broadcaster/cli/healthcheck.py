"""`broadcaster healthcheck`: whether the broadcaster of this container is ready, for HEALTHCHECK and exec probes."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from broadcaster.cli.command import Command, as_json, timeout
from broadcaster.cli.exits import Exit
from broadcaster.cli.output import print_json
from broadcaster.cli.text import one_line
from broadcaster.protocol.errors import ConfigError, NoBroadcaster, RequestTimeout

if TYPE_CHECKING:
    from broadcaster.config import Settings

_ANSWER = 1 << 20
"""Bytes of an answer that are read."""


@click.command(cls=Command)
@click.option("--http-url", metavar="URL", help="Where HTTP is.  [default: as `serve` would have it with these settings]")
@click.option("--config", metavar="FILE", help="TOML file with the settings of `serve`.")
@timeout(4.0, "Give up after so long.")
@as_json
def healthcheck(http_url: str | None, config: str | None, timeout: float, as_json: bool) -> None:
    """Ask the broadcaster on this machine whether it is ready.

    Asks /readyz where the settings in environment and file have HTTP; where that is off, asks the data channel for an answer.
    Ends with 0 when it is ready, with 1 when a check fails, with 3 or 5 when nobody answers.
    """
    from broadcaster.config import load_settings

    settings = load_settings({}, Path(config) if config else None)
    where = http_url or _http(settings)
    found = _ask(where, timeout) if where else _ping(timeout)
    failing = [check for check in found["checks"] if not check["ok"]]
    if as_json:
        print_json(found)
    else:
        for check in failing:
            click.echo(one_line(f"{check['name']}: {check.get('detail', 'failing')}"), err=True)
        click.echo("ready" if found["ready"] else "not ready")
    if not found["ready"]:
        click.get_current_context().exit(Exit.FAILED)


def _http(settings: Settings) -> str | None:
    """Where `serve` listens, as this machine reaches it; None when HTTP is off."""
    if settings.ready_file is not None and settings.ready_file.is_file():
        told = json.loads(settings.ready_file.read_text()).get("http")
        return str(told) if told else None
    if settings.http_port is None:
        return None
    inside = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.http_host, settings.http_host)
    host = f"[{inside}]" if ":" in inside else inside
    return f"{'https' if settings.http_cert else 'http'}://{host}:{settings.http_port}"


def _ask(url: str, seconds: float) -> dict[str, Any]:
    """What /readyz says. Raises NoBroadcaster, RequestTimeout, ConfigError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(key="http-url", reason=f"{url!r} is not http://host:port")
    line = http.client.HTTPConnection(parts.hostname, parts.port, timeout=seconds)
    if parts.scheme == "https":  # The certificate names the outside; who listens on our own port is not in doubt.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        line = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=seconds, context=context)
    try:
        line.request("GET", "/readyz")
        return _understood(url, line.getresponse())
    except TimeoutError as late:
        raise RequestTimeout(what=f"asking {url}", timeout=seconds) from late
    except (OSError, http.client.HTTPException) as wrong:
        raise NoBroadcaster(address=url, timeout=seconds) from wrong
    finally:
        line.close()


def _understood(url: str, answer: http.client.HTTPResponse) -> dict[str, Any]:
    told: Any = None
    if answer.status in (200, 503):
        try:
            told = json.loads(answer.read(_ANSWER))
        except ValueError:
            told = None
    if not isinstance(told, dict) or "ready" not in told:
        raise ConfigError(key="http-url", reason=f"{url}/readyz is not a broadcaster's: it answered with {answer.status}")
    return {"ready": answer.status == 200, "checks": told.get("checks", [])}


def _ping(seconds: float) -> dict[str, Any]:
    from clients import connect

    with connect(timeout=seconds) as client:
        took = client.ping().round_trip
    return {"ready": True, "checks": [{"name": "core", "ok": True, "latency_ms": round(took * 1000, 3)}]}
