"""What `serve` tells the web process, who may reach that, and its life."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping
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
        tokens=None if settings.insecure else settings.token_file.absolute(),
        certificate=settings.http_cert,
        key=settings.http_key,
    )


def require_http_access(settings: Settings) -> None:
    """Raises ConfigError where HTTP could be reached over the network and needed no token. With `insecure` it needs none, which
    is warned of. Where all is to be reached over the network the first token is made, as the first key is."""
    from broadcaster.config import is_loopback
    from broadcaster.web.first_token import make_first_token

    if settings.http_key is not None and settings.http_cert is None:
        raise ConfigError(key="http-key", reason="there is no --http-cert that it belongs to")
    if settings.insecure:
        log.warning(
            "INSECURE: HTTP asks for no token: everyone who can reach this host may read all models host=%s", settings.http_host
        )
        return
    if is_loopback(settings.http_host) or settings.token_file.exists():
        return
    if is_loopback(settings.host):
        raise ConfigError(
            key="http-host",
            reason=f"{settings.http_host} can be reached over the network, and {settings.token_file} has no token: make one "
            "with `broadcaster token`, say --insecure, or listen on 127.0.0.1",
        )
    log.info("a token for HTTP was made file=%s", make_first_token(settings.token_file.absolute()))


Serving = Callable[[Mapping[str, str], Mapping[str, int]], None]


def run_fronts(settings: Settings, core: str, ports: Mapping[str, int], serving: Serving) -> int:
    """Runs HTTP and gRPC, whichever are on, until SIGTERM; `serving(endpoints, ports)` is called once they all answer. `ports`
    are those of an earlier life. Returns the exit code. Raises PortInUse, ConfigError, NoBroadcaster."""
    endpoints, used = dict[str, str](), dict[str, int]()
    if settings.grpc_on is None:
        return _pages(settings, core, ports, lambda url, port: serving({"http": url}, {"http": port}), _nothing)
    from broadcaster.cli.cogment import cogment_options
    from broadcaster.cogment.serve import Server

    options = cogment_options(settings, ports.get("grpc", settings.grpc_on), core)
    grpc = Server(options)
    used["grpc"] = grpc.start()
    endpoints["grpc"] = address_of(options.host, used["grpc"])
    try:
        if settings.http_port is None:
            return _until_signalled(lambda: serving(endpoints, used))

        def both(url: str, port: int) -> None:
            serving({"http": url} | endpoints, {"http": port} | used)

        return _pages(settings, core, ports, both, grpc.stop)
    finally:
        grpc.stop()


def _pages(
    settings: Settings, core: str, ports: Mapping[str, int], serving: Callable[[str, int], None], ending: Callable[[], None]
) -> int:
    from broadcaster.web.serve import serve

    return serve(web_options(settings, ports.get("http", settings.http_port or 0), core), serving, ending)


def _nothing() -> None:
    """Nothing else has to end."""


def _until_signalled(begin: Callable[[], None]) -> int:
    """Runs `begin`, then waits for a signal that ends the process."""
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)  # It is the wake-up that counts.
    begin()
    os.read(wake, 1)
    return 0


def address_of(host: str, port: int) -> str:
    """What a gRPC client on this host is given."""
    shown = "localhost" if host in ("0.0.0.0", "::") else host
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"
