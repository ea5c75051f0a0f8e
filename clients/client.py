"""Connecting: one client per process and broadcaster, with one I/O thread of its own."""

from __future__ import annotations

import weakref
from concurrent.futures import Future

from broadcaster.protocol.errors import NoBroadcaster, RequestTimeout
from broadcaster.protocol.messages import Welcome
from broadcaster.protocol.names import DEFAULT_NAMESPACE, check_name
from clients._address import Address
from clients._calls import Calls
from clients._checks import check_timeout
from clients._driver import futures
from clients._driver.delivery import Delivery, Kind
from clients._driver.loop import Driver
from clients.publisher import Publisher
from clients.registry import Registry
from clients.subscriber import Subscriber

REGISTRY_TIMEOUT = 30.0
"""Seconds that one request of the registry may take."""


class Client:
    """A connection to a broadcaster, for use by any thread of this process. A forked child gets ForkError and connects for
    itself.

    When the broadcaster is restarted, all goes on by itself. Made by `connect`; a context manager.
    """

    def __init__(self, driver: Driver, namespace: str) -> None:
        self._driver = driver
        self._close = weakref.finalize(self, driver.close)
        self._namespace = namespace
        self.registry = Registry(Calls(driver, namespace, REGISTRY_TIMEOUT))
        """Models and versions: look up, read, name, mark, archive, delete."""

    @property
    def address(self) -> str:
        """The address of the data channel."""
        return self._driver.address.data

    @property
    def server_version(self) -> str:
        """The version of the broadcaster's software, as it said last."""
        welcome = self._driver.welcome
        return "" if welcome is None else welcome.server_version

    def publisher(self, model_id: str) -> Publisher:
        """Publishes versions of `model_id`, which is created by the first. Raises InvalidName."""
        self._driver.check()
        publisher = Publisher(self._driver, self._namespace, model_id)
        publisher.keeps = self
        return publisher

    def subscriber(self, model_id: str, *, every: bool = False, delivery: Kind = "auto", verify: bool = False) -> Subscriber:
        """Follows `model_id`, which need not exist yet. Raises InvalidName.

        With `every`, what the first call of `every()` iterates over begins now, not with that call.

        `delivery` says how versions come: `shared`, as views of the broadcaster's shared memory, which is possible on its host
        only; `chunks`, over the network into this process's own memory; `auto`, shared where that is possible, else in chunks.
        `stats()` says what it came to. Raises InvalidRequest for `shared` where it is not possible, saying why.

        `verify` has this process compare versions in shared memory with their digests itself, and not rely on the broadcaster
        having done so: see docs/delivery.md for whom that distrusts. What comes over the network is always verified here.
        """
        self._driver.check()
        feed = self._driver.follow(self._namespace, check_name("model", model_id), Delivery(delivery, verify=verify))
        subscriber = Subscriber(self._driver, feed, every=every)
        subscriber.keeps = self
        return subscriber

    def close(self) -> None:
        """Ends everything that is under way with Closed, at once. Snapshots stay valid. May be called twice, and in a forked
        child."""
        self._close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self.address}>"


class Opening:
    """A client whose broadcaster has not answered yet: what both faces of `connect` begin with."""

    def __init__(self, url: str | None, namespace: str, name: str | None, timeout: float, slot_dir: str | None) -> None:
        self._namespace = check_name("namespace", namespace)
        self._timeout = check_timeout(timeout)
        self._driver = Driver(Address.parse(url), name, slot_dir)
        self.welcome: Future[Welcome] = self._driver.open(self._timeout)

    def finish(self, error: BaseException | None) -> Client:
        """The client, unless `error` says why there is none."""
        if error is None:
            return Client(self._driver, self._namespace)
        self._driver.close()
        if isinstance(error, RequestTimeout):
            raise NoBroadcaster(address=self._driver.address.data, timeout=self._timeout) from None
        raise error


def connect(
    url: str | None = None,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    name: str | None = None,
    timeout: float = 5.0,
    slot_dir: str | None = None,
) -> Client:
    """A client of the broadcaster at `url`, once that has answered.

    `url` is `tcp://host[:port]` (5552 unless given) or `ipc:///directory/data.sock`; None means the environment's
    BROADCASTER_URL, or `tcp://localhost:5552`. `name` is what the broadcaster calls this client. `slot_dir` is where this process
    finds the broadcaster's slot directory, when that is not where the broadcaster has it (a volume mounted elsewhere): on one
    host, weights are shared through it.

    Raises NoBroadcaster (a ConnectionError) when none answers within `timeout` seconds, UnsupportedProtocol, InvalidRequest for
    the `url`.
    """
    opening = Opening(url, namespace, name, timeout, slot_dir)
    try:
        futures.wait(opening.welcome, "hello", timeout)
    except BaseException as error:
        return opening.finish(error)
    return opening.finish(None)
