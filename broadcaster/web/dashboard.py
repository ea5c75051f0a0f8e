"""What the dashboard needs beside the API."""

from __future__ import annotations

from typing import Any

from broadcaster.protocol.errors import Closed
from broadcaster.web.asked import Asked


async def address(asked: Asked) -> dict[str, Any]:
    """Where clients connect: the port of the data channel, and the host that the broadcaster was told to name (null: none, so
    whatever name a browser knows it by will do). Raises Closed while the core does not answer."""
    welcome = asked.house.link.client._client._driver.welcome
    if welcome is None:
        raise Closed(what="the core")
    return {"host": welcome.host, "data_port": welcome.endpoints["data"]}


async def disk(asked: Asked) -> dict[str, Any]:
    """The room on the disk of the archive; null while it does not answer. `ok` is false, too, when there is hardly any left."""
    check = await asked.house.disk.check()
    free, size = asked.house.disk.room or (None, None)
    return {"ok": check.ok, "free_bytes": free, "size_bytes": size}
