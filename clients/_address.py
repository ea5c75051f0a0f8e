"""Where a broadcaster is: one address from the user, the others from its welcome."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from broadcaster.protocol.errors import InvalidRequest

DEFAULT_URL = "tcp://localhost:5552"
DATA_PORT = 5552

_TCP = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:/\s]+)(?::(?P<port>\d{1,5}))?/?")


@dataclass(frozen=True, slots=True)
class Address:
    """The data channel's address: a host and a port, or the directory of the ipc sockets."""

    host: str = ""
    port: int = 0
    directory: str = ""

    @classmethod
    def parse(cls, url: str | None) -> Address:
        """`tcp://host[:port]` or `ipc:///directory/data.sock`; None means BROADCASTER_URL, or the default. Raises
        InvalidRequest."""
        url = url or os.environ.get("BROADCASTER_URL") or DEFAULT_URL
        if url.startswith("ipc:///") and url.endswith("/data.sock"):
            return cls(directory=url.removeprefix("ipc://").removesuffix("/data.sock"))
        found = _TCP.fullmatch(url)
        port = int(found["port"] or DATA_PORT) if found else 0
        if found is None or not 0 < port < 65536:
            raise InvalidRequest(field="url", reason=f"{url!r} is neither tcp://host:port nor ipc:///directory/data.sock")
        # A broadcaster listens on IPv4 unless told otherwise, and a name with addresses of both kinds is tried on the first only.
        return cls(host="127.0.0.1" if found["host"] == "localhost" else found["host"], port=port)

    @property
    def data(self) -> str:
        """What to connect the data channel to."""
        return f"ipc://{self.directory}/data.sock" if self.directory else f"tcp://{self.host}:{self.port}"

    def of(self, channel: str, ports: Mapping[str, int], host: str | None) -> str:
        """Where `channel` is, from a welcome's ports and the host it named, if any: who came by loopback stays there, whatever
        the others are told. Raises InvalidRequest when it names no such port."""
        if self.directory:
            return f"ipc://{self.directory}/{channel}.sock"
        if not 0 < ports.get(channel, 0) < 65536:
            raise InvalidRequest(
                field="endpoints", reason=f"the broadcaster at {self.data} names no port for the channel {channel}"
            )
        return f"tcp://{self.host if self._is_loopback else host or self.host}:{ports[channel]}"

    @property
    def _is_loopback(self) -> bool:
        return self.host.startswith("127.") or self.host == "[::1]"
