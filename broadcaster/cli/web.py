"""What `serve` tells the web process, and who may reach that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broadcaster.protocol.errors import ConfigError

if TYPE_CHECKING:
    from broadcaster.config import Settings
    from broadcaster.web.options import WebOptions

log = logging.getLogger("broadcaster.serve")


def web_options(settings: Settings, port: int, core: str) -> WebOptions:
    """`core` is the address of the core's data channel."""
    from broadcaster.web.options import WebOptions

    named = (settings.http_allowed_host or "").split(",")
    return WebOptions(
        host=settings.http_host,
        port=port,
        core=core,
        archive_dir=settings.archive_dir.absolute(),
        hosts=tuple(name.strip() for name in (*named, settings.advertise or "", settings.http_host) if name.strip()),
        tokens=settings.token_file.absolute(),
        certificate=settings.http_cert,
        key=settings.http_key,
    )


def require_http_access(settings: Settings) -> None:
    """Raises ConfigError where HTTP could be reached over the network and needed no token. With `insecure`, warns of it. Where
    all is to be reached over the network the first token is made, as the first key is."""
    from broadcaster.config import is_loopback
    from broadcaster.web.first_token import make_first_token

    if settings.http_key is not None and settings.http_cert is None:
        raise ConfigError(key="http-key", reason="there is no --http-cert that it belongs to")
    if is_loopback(settings.http_host) or settings.token_file.exists():
        return
    if not settings.insecure and not is_loopback(settings.host):
        log.info("a token for HTTP was made file=%s", make_first_token(settings.token_file.absolute()))
        return
    if not settings.insecure:
        raise ConfigError(
            key="http-host",
            reason=f"{settings.http_host} can be reached over the network, and {settings.token_file} has no token: make one "
            "with `broadcaster token`, say --insecure, or listen on 127.0.0.1",
        )
    log.warning("INSECURE: everyone who can reach this host may read all models over HTTP host=%s", settings.http_host)
