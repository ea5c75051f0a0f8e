"""The broadcaster's three sockets: made by the recipe, bound, named."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import zmq

from broadcaster.protocol.errors import ConfigError, DirectoryUnusable, PortInUse
from broadcaster.protocol.sockets import SERVER
from broadcaster.security import LOCAL, NETWORK, ServerKey

_TYPES = {"upload": zmq.ROUTER, "push": zmq.XPUB, "data": zmq.ROUTER}
_LONGEST_PATH = 107
"""Bytes of a unix socket's path, a limit of the kernel."""
_FREE_AGAIN = 2.0
"""Seconds in which a port that we gave back ourselves is free: it takes a millisecond."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Where to bind: 0 picks a free port. `directory` is where the ipc sockets go."""

    host: str
    upload: int
    push: int
    data: int
    directory: Path


class Channels:
    """The bound sockets. `ports` are the TCP ports, `ipc` says whether the ipc ends are there too. With a `key`, a client needs
    one on TCP (CURVE), and whoever is let in is known by its user id; ipc never needs one."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], binding: Binding, key: ServerKey | None = None) -> None:
        self._key = key
        self._bound: dict[str, str] = {}
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
            self._ask_for_keys(socket, NETWORK)
            socket.bind(address)
        except zmq.ZMQError as wrong:
            if wrong.errno == zmq.EADDRINUSE:
                raise PortInUse(key=f"{name}-port", address=address) from wrong
            raise ConfigError(key="host", reason=f"cannot bind {address}: {wrong.strerror}") from wrong
        self._bound[name] = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.ports[name] = int(self._bound[name].rpartition(":")[2])
        self._ask_for_keys(socket, LOCAL)
        self._bind_ipc(socket, binding.directory / f"{name}.sock")
        return socket

    def _ask_for_keys(self, socket: zmq.Socket[bytes], domain: str) -> None:
        """Sets what the next bind is to ask of those who connect to it: options are read then. Without a domain and its
        enforcement libzmq would let everybody in."""
        if self._key is None:
            return
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)
        if domain == NETWORK:
            socket.setsockopt_string(zmq.CURVE_SECRETKEY, self._key.secret)  # Sets CURVE_PUBLICKEY by itself.
        socket.setsockopt(zmq.CURVE_SERVER, int(domain == NETWORK))

    def cut_connections(self) -> None:
        """Ends every connection over TCP; who still may comes back by itself. It is the only way to end a single one."""
        for name, socket in (("upload", self.upload), ("data", self.data), ("push", self.push)):
            socket.unbind(self._bound[name])
            self._ask_for_keys(socket, NETWORK)
            self._bind_again(socket, name)
            self._ask_for_keys(socket, LOCAL)

    def _bind_again(self, socket: zmq.Socket[bytes], name: str) -> None:
        deadline = time.monotonic() + _FREE_AGAIN
        while True:
            try:
                socket.bind(self._bound[name])
                return
            except zmq.ZMQError as wrong:
                if wrong.errno != zmq.EADDRINUSE or time.monotonic() >= deadline:
                    raise PortInUse(key=f"{name}-port", address=self._bound[name]) from wrong
            time.sleep(0.001)

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
