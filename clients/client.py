"""Connecting: one client per process and broadcaster, with one I/O thread of its own."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from concurrent.futures import Future

from broadcaster.protocol.errors import BroadcasterError, InvalidRequest, NoBroadcaster, RequestTimeout
from broadcaster.protocol.keyfile import Key
from broadcaster.protocol.messages import Welcome
from broadcaster.protocol.names import DEFAULT_NAMESPACE, LATEST, check_name
from clients._address import Address
from clients._calls import Calls
from clients._checks import check_client_name, check_timeout
from clients._driver import futures
from clients._driver.alias_feed import ByAlias
from clients._driver.delivery import Delivery, Kind
from clients._driver.loop import Driver
from clients._driver.newest_feed import NewestFeed
from clients._key import read_key
from clients._process import HERE
from clients._term import Term
from clients.publisher import Publisher
from clients.registry import Registry
from clients.subscriber import Subscriber
from clients.timing import Timed

REGISTRY_TIMEOUT = 30.0
"""Seconds that one request of the registry may take."""
LAST_WORDS = 1.0
"""Seconds that a client which is closed waits for the broadcaster to hear that its terms are given up."""


class Client:
    """A connection to a broadcaster, for use by any thread of this process. A forked child gets ForkError and connects for
    itself.

    When the broadcaster is restarted, all goes on by itself. Made by `connect`; a context manager.
    """

    def __init__(self, driver: Driver, namespace: str) -> None:
        self._driver = driver
        self._close = weakref.finalize(self, driver.close)
        self._namespace = namespace
        self._calls = Calls(driver, namespace, REGISTRY_TIMEOUT)
        self._exclusive: weakref.WeakSet[Publisher] = weakref.WeakSet()
        self.registry = Registry(self._calls)
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

    def publisher(self, model_id: str, *, exclusive: bool = False) -> Publisher:
        """Publishes versions of `model_id`, which is created by the first. Raises InvalidName.

        With `exclusive` it is the only one that may, until it is closed or another exclusive publisher takes over: it takes the
        model's next term, and whoever publishes without it gets Fenced. Raises StoreError and RequestTimeout when the term is not
        to be had.
        """
        publisher = self._publisher(model_id, exclusive=exclusive)
        if exclusive:
            publisher.term()
        return publisher

    def _publisher(self, model_id: str, *, exclusive: bool) -> Publisher:
        """As `publisher`, but does not wait for the term."""
        self._driver.check()
        term = Term(self._calls, check_name("model", model_id)) if exclusive else None
        publisher = Publisher(self._driver, self._namespace, model_id, term)
        publisher.keeps = self
        if exclusive:
            self._exclusive.add(publisher)
        return publisher

    def ping(self) -> Timed:
        """Whether the broadcaster answers, and how long the way is. Raises RequestTimeout."""
        return futures.wait(self._calls.ping(), "ping", self._calls.timeout)

    @contextlib.contextmanager
    def timing(self) -> Iterator[list[Timed]]:
        """While this is entered, every request of this client's registry, and everything that its publishers publish, of whatever
        thread, asks where its time goes. The list gets those that were answered, in that order; errors have their `hops`. Costs
        nothing while nobody has entered it. (Of a draft, and of reads of payloads, nothing is told.)"""
        timings: list[Timed] = []
        before = self._calls.timings
        self._calls.timings = self._driver.timings = timings
        try:
            yield timings
        finally:
            self._calls.timings = self._driver.timings = before

    def subscriber(
        self,
        model_id: str,
        *,
        alias: str | None = None,
        every: bool = False,
        delivery: Kind = "auto",
        verify: bool = False,
    ) -> Subscriber:
        """Follows `model_id`, which need not exist yet. Raises InvalidName.

        With `alias`, follows what that names instead of the newest version: whenever it is moved, also to an older version, that
        one is read, verified and shown. When it is removed, what it named last stays. It need not exist yet. Raises
        InvalidRequest for `every`, and for a `delivery`: what an alias names is read.

        With `every`, what the first call of `every()` iterates over begins now, not with that call.

        `delivery` says how versions come: `shared`, as views of the broadcaster's shared memory, which is possible on its host
        only; `chunks`, over the network into this process's own memory; `auto`, shared where that is possible, else in chunks.
        `stats()` says what it came to. Raises InvalidRequest for `shared` where it is not possible, saying why.

        `verify` has this process compare versions in shared memory with their digests itself, and not rely on the broadcaster
        having done so: see docs/delivery.md for whom that distrusts. What comes over the network is always verified here.
        """
        self._driver.check()
        wanted = Delivery(delivery, verify=verify)
        if alias is not None:
            _check_alias_wants(alias, every=every, delivery=delivery)
            wanted = ByAlias(check_name("alias", alias))
        feed = self._driver.follow(self._namespace, check_name("model", model_id), wanted)
        assert not isinstance(feed, NewestFeed), "that is no way to get versions"
        subscriber = Subscriber(self._driver, feed, every=every)
        subscriber.keeps = self
        return subscriber

    def close(self) -> None:
        """Ends everything that is under way with Closed, at once, and gives the terms of its exclusive publishers up. Snapshots
        stay valid. May be called twice, and in a forked child."""
        if self._driver.pid == HERE.pid:
            for publisher in list(self._exclusive):
                with contextlib.suppress(BroadcasterError):  # It cannot be told: the next exclusive publisher takes over.
                    publisher.close(LAST_WORDS, wait=False)
        self._close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self.address}>"


def _check_alias_wants(alias: str, *, every: bool, delivery: Kind) -> None:
    if alias == LATEST:
        raise InvalidRequest(field="alias", reason=f"{LATEST} means the newest version: follow the model without an alias")
    if every:
        raise InvalidRequest(field="every", reason="an alias names one version after another: wait for each, or iterate")
    if delivery != "auto":
        raise InvalidRequest(field="delivery", reason=f"what an alias names is read: {delivery!r} cannot be had")


class Opening:
    """A client whose broadcaster has not answered yet: what both faces of `connect` begin with."""

    def __init__(
        self,
        url: str | None,
        namespace: str,
        name: str | None,
        timeout: float,
        slot_dir: str | None,
        key: Key | str | os.PathLike[str] | None = None,
    ) -> None:
        self._namespace = check_name("namespace", namespace)
        self._timeout = check_timeout(timeout)
        self._driver = Driver(Address.parse(url), check_client_name(name), slot_dir, read_key(key))
        self.welcome: Future[Welcome] = self._driver.open(self._timeout)

    def finish(self, error: BaseException | None) -> Client:
        """The client, unless `error` says why there is none."""
        if error is None:
            return Client(self._driver, self._namespace)
        self._driver.close()
        if isinstance(error, RequestTimeout):
            if self._driver.refusal is not None:
                raise self._driver.refusal from None
            raise NoBroadcaster(address=self._driver.address.data, timeout=self._timeout) from None
        raise error


def connect(
    url: str | None = None,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    name: str | None = None,
    timeout: float = 5.0,
    slot_dir: str | None = None,
    key: Key | str | os.PathLike[str] | None = None,
) -> Client:
    """A client of the broadcaster at `url`, once that has answered.

    `url` is `tcp://host[:port]` (5552 unless given) or `ipc:///directory/data.sock`; None means the environment's
    BROADCASTER_URL, or `tcp://localhost:5552`. `name` is what this client and its subscribers are called in the broadcaster's
    tables (1 to 128 characters), `host:pid` unless given. `slot_dir` is where this process finds the
    broadcaster's slot directory, when that is not where the broadcaster has it (a volume mounted elsewhere): on one host, weights
    are shared through it.

    `key` is a key file that `broadcaster keygen` made, or the Key itself; None means the file that the environment's
    BROADCASTER_KEY names, if any. It is shown over TCP; ipc needs none.

    Raises NoBroadcaster (a ConnectionError) when none answers within `timeout` seconds, AccessDenied (a PermissionError) when it
    turns this client away and says why, UnsupportedProtocol, InvalidRequest for the `url`, ConfigError (a ValueError) for the
    key file.
    """
    opening = Opening(url, namespace, name, timeout, slot_dir, key)
    try:
        futures.wait(opening.welcome, "hello", timeout)
    except BaseException as error:
        return opening.finish(error)
    return opening.finish(None)
