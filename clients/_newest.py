"""Which version of a model is the newest, told each time that it changes: for fronts that pass on what is known of versions."""

from __future__ import annotations

import contextlib
import weakref
from concurrent.futures import Future

from broadcaster.protocol.errors import Closed, LocalProtocolError, TransportError
from broadcaster.protocol.names import check_name
from broadcaster.protocol.version import ModelInfo
from clients._driver.acking import Mark
from clients._driver.loop import Driver
from clients._driver.newest_feed import Heard, InfoOnly, NewestFeed


class NewestVersion:
    """Follows one model until it is deleted; a model that is made again is another one. It receives no payload and acks nothing.
    Those of one model in one client share what is heard."""

    def __init__(self, driver: Driver, model: ModelInfo) -> None:
        """`model` is as it was just now. Raises InvalidName, and what ended the client."""
        self._driver = driver
        model_id = check_name("model", model.model_id)
        feed = driver.follow(model.namespace, model_id, InfoOnly(model.creation_timestamp))
        assert isinstance(feed, NewestFeed)
        self._feed = feed
        self._leave = weakref.finalize(self, driver.leave, feed, Mark(driver.name))
        self._leave.atexit = False

    def newer(self, than: int) -> Future[Heard]:
        """Of the newest version, once there is one with a number above `than` (0: any). Ends in UnknownModel when there is no
        such model, or it was deleted since this began; AccessDenied; Closed."""
        self._driver.check()
        return self._feed.newer(than, id(self))

    def close(self) -> None:
        """Who waits gets Closed. May be called twice."""
        closed = Closed(what=f"the newest version of {self._feed.model_id}")
        with contextlib.suppress(TransportError, LocalProtocolError):
            self._driver.post(lambda now: self._feed.dismiss(id(self), [], closed))
        self._leave()
