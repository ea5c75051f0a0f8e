"""The broadcaster's three sockets: made by the recipe, bound, named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import zmq

from broadcaster.protocol.errors import ConfigError, DirectoryUnusable, PortInUse
from broadcaster.protocol.sockets import SERVER

_TYPES = {"upload": zmq.ROUTER, "push": zmq.XPUB, "data": zmq.ROUTER}
_LONGEST_PATH = 107
"""Bytes of a unix socket's path, a limit of the kernel."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Where to bind: 0 picks a free port. `directory` is where the ipc sockets go."""

    host: str
    upload: int
    push: int
    data: int
    directory: Path


class Channels:
    """The bound sockets. `ports` are the TCP ports, `ipc` says whether the ipc ends are there too."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], binding: Binding) -> None:
        self.ports: dict[str, int] = {}
        self.ipc = True
        self.upload, self.push, self.data = (self._open(context, binding, name) for name in ("upload", "push", "data"))

    def _open(self, context: zmq.Context[zmq.Socket[bytes]], binding: Binding, name: str) -> zmq.Socket[bytes]:
        socket = context.socket(_TYPES[name])
        for option, value in SERVER[name].items():
            socket.setsockopt(getattr(zmq, option), value)
        host = f"[{binding.host}]" if ":" in binding.host else binding.host
        socket.setsockopt(zmq.IPV6, int(":" in binding.host))
        port = getattr(binding, name)
        address = f"tcp://{host}:{port or '*'}"
        try:
            socket.bind(address)
        except zmq.ZMQError as wrong:
            if wrong.errno == zmq.EADDRINUSE:
                raise PortInUse(key=f"{name}-port", address=address) from wrong
            raise ConfigError(key="host", reason=f"cannot bind {address}: {wrong.strerror}") from wrong
        self.ports[name] = int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self._bind_ipc(socket, binding.directory / f"{name}.sock")
        return socket

    def _bind_ipc(self, socket: zmq.Socket[bytes], path: Path) -> None:
        if len(str(path).encode()) > _LONGEST_PATH:
            self.ipc = False
            return
        try:
            socket.bind(f"ipc://{path}")
        except zmq.ZMQError as wrong:
            reason = f"a socket cannot be made there: {wrong.strerror}"
            raise DirectoryUnusable(key="slot-dir", where=str(path.parent), reason=reason) from wrong
        path.chmod(0o600)

    def close(self) -> None:
        for socket in (self.upload, self.push, self.data):
            socket.close()
