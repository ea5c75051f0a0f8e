"""What `serve` tells the Cogment front, and who may reach that."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from broadcaster.protocol.errors import ConfigError, MissingDependency

if TYPE_CHECKING:
    from broadcaster.cogment.options import CogmentOptions
    from broadcaster.config import Settings

log = logging.getLogger("broadcaster.serve")

_LIBRARIES = {"grpc": "grpcio", "grpc_health": "grpcio-health-checking", "grpc_reflection": "grpcio-reflection"}


def cogment_options(settings: Settings, port: int, core: str) -> CogmentOptions:
    """`core` is the address of the core's data channel."""
    from broadcaster import __version__
    from broadcaster.cogment.options import CogmentOptions
    from broadcaster.web.tokens import TokenFile

    return CogmentOptions(
        host=settings.grpc_address,
        port=port,
        core=core,
        version=__version__,
        tokens=None if settings.grpc_open or settings.insecure else TokenFile(settings.token_file.absolute()),
        chunk_size=settings.grpc_chunk_size,
        reflection=settings.grpc_reflection,
        certificate=settings.http_cert,
        key=settings.http_key,
    )


def require_grpc_access(settings: Settings) -> None:
    """Raises MissingDependency without the libraries; ConfigError where gRPC could be reached over the network, needed no token
    and nobody said that it need not. Warns of it where somebody did."""
    from broadcaster.config import is_loopback
    from broadcaster.web.first_token import make_first_token

    for module, library in _LIBRARIES.items():
        if find_spec(module) is None:
            raise MissingDependency(what="--grpc-port", library=library, extra="grpc")
    if settings.http_key is not None and settings.http_cert is None:
        raise ConfigError(key="http-key", reason="there is no --http-cert that it belongs to")
    host = settings.grpc_address
    if settings.grpc_open or settings.insecure:
        reach = "this host's own programs" if is_loopback(host) else "everyone who can reach this host"
        told = "OPEN: nobody needs a token on the gRPC port: %s may read, write and delete all models host=%s port=%s"
        log.warning(told, reach, host, settings.grpc_on)
    elif is_loopback(host) or settings.token_file.exists():
        return
    elif is_loopback(settings.host):
        raise ConfigError(
            key="grpc-host",
            reason=f"{host} can be reached over the network, and {settings.token_file} has no token: make one with "
            "`broadcaster token`, say --grpc-open, or listen on 127.0.0.1",
        )
    else:
        log.info("a token for HTTP and gRPC was made file=%s", make_first_token(settings.token_file.absolute()))
