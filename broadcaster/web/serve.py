"""The life of the web process."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable

import uvicorn

from broadcaster.protocol.errors import ConfigError, PortInUse
from broadcaster.web.app import make_app
from broadcaster.web.connection import Connection
from broadcaster.web.limits import HEAD, KEEP_ALIVE
from broadcaster.web.options import WebOptions
from broadcaster.web.tokens import read_tokens


def serve(options: WebOptions, serving: Callable[[str, int], None], ending: Callable[[], None]) -> int:
    """Serves until SIGTERM; `serving(url, port)` is called when requests are answered, `ending` on a thread when no more are: the
    signal kills behind that. Returns the exit code. Raises PortInUse, ConfigError."""
    if options.tokens is not None and options.tokens.exists():
        read_tokens(options.tokens)  # What is wrong with it is said at the start; later it lets nobody in.
    config = _config(options)
    listening = _listen(options)
    port = listening.getsockname()[1]
    scheme = "http" if options.certificate is None else "https"
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # It says what clients did wrong, at length.
    server = _Server(config, lambda: serving(_url(scheme, options.host, port), port), ending)
    server.run(sockets=[listening])
    return 0 if server.started else 1


def _config(options: WebOptions) -> uvicorn.Config:
    config = uvicorn.Config(
        make_app(options),
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=1,
        backlog=1024,
    )
    config.load()
    if options.certificate is not None:
        config.ssl = _tls(options)
    return config


def _tls(options: WebOptions) -> ssl.SSLContext:
    """TLS 1.2 or newer. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    assert options.certificate is not None
    try:
        context.load_cert_chain(options.certificate, options.key, password="")  # Encrypted: an error, and no question.
    except (OSError, ssl.SSLError) as wrong:
        raise ConfigError(key="http-cert", reason=f"{options.certificate} and its key cannot be used: {wrong}") from None
    return context


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, serving: Callable[[], None], ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._serving = serving
        self._ending = ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._serving()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.gather(super().shutdown(sockets), asyncio.to_thread(self._ending))


def _listen(options: WebOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    address = f"{options.host}:{options.port}"
    try:
        listening.bind((options.host, options.port))
    except OSError as wrong:
        listening.close()
        if wrong.errno == errno.EADDRINUSE:
            raise PortInUse(key="http-port", address=address) from wrong
        raise ConfigError(key="http-host", reason=f"cannot bind {address}: {wrong.strerror}") from wrong
    return listening


def _url(scheme: str, host: str, port: int) -> str:
    shown = "localhost" if host in ("0.0.0.0", "::") else host
    return f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"
