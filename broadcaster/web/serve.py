"""The life of the web process."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from broadcaster.protocol.errors import ConfigError, PortInUse
from broadcaster.web.app import make_app
from broadcaster.web.link import Link


@dataclass(frozen=True, slots=True)
class WebOptions:
    """Where to listen (port 0: a free one), and where the core is."""

    host: str
    port: int
    core: str


def serve(options: WebOptions, serving: Callable[[str, int], None]) -> int:
    """Serves until SIGTERM; `serving(url, port)` is called when requests are answered. Returns the exit code. Raises PortInUse,
    ConfigError."""
    listening = _listen(options)
    port = listening.getsockname()[1]
    config = uvicorn.Config(make_app(Link(options.core)), log_config=None, access_log=False, server_header=False)
    server = _Server(config, lambda: serving(_url(options.host, port), port))
    server.run(sockets=[listening])
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, serving: Callable[[], None]) -> None:
        super().__init__(config)
        self._serving = serving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._serving()


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


def _url(host: str, port: int) -> str:
    shown = "localhost" if host in ("0.0.0.0", "::") else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
