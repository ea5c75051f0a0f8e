"""The I/O thread: one poll loop that owns every socket of a client and turns all of its conversations.

Users' threads hand it commands and get futures; it ends each of them by its deadline. Nothing else touches a socket.
"""

from __future__ import annotations

import logging
import math
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import zmq

from broadcaster.protocol import names
from broadcaster.protocol.errors import (
    AccessDenied,
    BroadcasterError,
    Closed,
    ForkError,
    InvalidRequest,
    LocalProtocolError,
    UnsupportedProtocol,
)
from broadcaster.protocol.frames import Buffer, Chunk
from broadcaster.protocol.keyfile import Key
from broadcaster.protocol.limits import CHUNK, PROTOCOL, READ, RETRY
from broadcaster.protocol.messages import Hello, Message, Welcome
from clients._address import Address
from clients._driver import futures
from clients._driver.acking import Mark
from clients._driver.alias_feed import AnyFeed, make_feed
from clients._driver.asking import Ask
from clients._driver.channel import Channel
from clients._driver.conversations import Conversations
from clients._driver.delivery import Delivery
from clients._driver.lane import Lane
from clients._driver.owner import Reader
from clients._driver.refusal import Handshakes
from clients._driver.renewing import Renewable, Watch
from clients._driver.uploading import Upload
from clients._driver.wakeup import Wakeup
from clients._process import HERE
from clients.slots.directory import SlotDirectory, SlotsUnusable
from clients.slots.grants import Grants
from clients.slots.leases import Leases
from clients.timing import Timed

log = logging.getLogger("clients")

Command = Callable[[float], None]

LAST_WORDS = 0.1
"""Seconds that a client which is closed has to tell that it gives its uploads up."""
FOLLOW_TIMEOUT = 5.0
"""Seconds for the I/O thread to begin following; it takes microseconds."""


class Driver:
    """Connects to one broadcaster. `name` is told to it; `parse` errors of the address are the caller's. `key` is shown to it
    over TCP."""

    def __init__(self, address: Address, name: str, slot_dir: str | None = None, key: Key | None = None) -> None:
        self.address = address
        self.name = name
        """What the broadcaster calls this client."""
        self.pid = HERE.pid
        self.ended: BroadcasterError | None = None
        """Why nothing works any more: closed, or a bug in here."""
        self.welcome: Welcome | None = None
        self.slots: SlotDirectory | None = None
        """Where the broadcaster's slots are, when it is on this host and they can be used."""
        self.no_slots = "the broadcaster has not answered yet"
        """Why not, when they cannot."""
        self.timings: list[Timed] | None = None
        """Who wants to know where the time of publications goes."""
        self.grants = Grants()
        """The slots that this client was granted, mapped."""
        self._leases: Leases | None = None
        self._slot_dir = slot_dir
        self._key = key
        self.refusal: AccessDenied | None = None
        """Why the broadcaster turned us away when it was asked last."""
        self._open_again = math.inf
        """When the data channel is opened again, after that."""
        self._commands: deque[Command] = deque()
        self._wakeup = Wakeup()
        self._closing = False
        self._sleeps_until = math.inf
        """When the thread looks again if nothing happens; infinity while it makes up its mind."""
        self._look_at = math.inf
        """The nearest deadline, as it was when they were looked at last: others may have moved away since."""
        self._nap = select.poll()
        """Waits for users' commands alone."""
        self._all = Conversations()
        self._channels: dict[str, Channel] = {}
        self.lane = Lane(lambda: self._address_of("upload"), lambda address: Channel(self._context, "lane", address, key))
        """For small publications."""
        self._watch = Watch()
        self._greeting = False
        self._greeted = 0.0
        self._thread = threading.Thread(target=self._run, name=f"clients {address.data}", daemon=True)

    # --- users' threads --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises ForkError in a forked child, and what ended this client when it has ended."""
        if self.pid != HERE.pid:
            raise ForkError(what="client", parent=self.pid)
        if self.ended is not None:
            raise self._end_error()

    def _end_error(self) -> BroadcasterError:
        ended = self.ended
        assert ended is not None
        error = type(ended)(**ended.facts)
        error.__cause__ = ended.__cause__
        return error

    def post(self, command: Command) -> None:
        """Has `command(now)` run on the I/O thread. Raises what `check` raises."""
        self.check()
        self._commands.append(command)
        if self.ended is not None:
            raise self._end_error()
        self._wakeup.signal()

    @property
    def strange(self) -> int:
        """Messages that were dropped because they broke the rules."""
        return self._all.strange

    def look_by(self, when: float) -> None:
        """Something is to be looked at by then (monotonic): the thread is woken only if it would sleep for longer."""
        if when < self._sleeps_until:
            self._all.moved = True
            self._wakeup.signal()

    def open(self, timeout: float) -> Future[Welcome]:
        """Starts the thread; the future gets the broadcaster's welcome."""
        deadline = time.monotonic() + timeout
        hello = Ask(self._hello, Welcome, lambda welcome: self._welcomed(welcome), self.send_data, deadline, timeout)
        self._commands.append(lambda now: self.add(hello))
        self._thread.start()
        return hello.future

    def follow(self, namespace: str, model_id: str, delivery: Delivery) -> AnyFeed:
        """The feed of a model, made when nobody follows it in this way yet. Each call wants a `leave`. Raises InvalidRequest when
        only slots are wanted and there are none, and what `check` raises."""
        future: Future[AnyFeed] = futures.new()

        def command(now: float) -> None:
            try:
                futures.fulfil(future, self._join(namespace, model_id, delivery))
            except BroadcasterError as error:
                futures.fail(future, error)

        self.post(command)
        return futures.wait(future, f"following {model_id}", FOLLOW_TIMEOUT)

    def leave(self, feed: AnyFeed, mark: Mark) -> None:
        """One subscriber less; the last one ends the feed. May be called from a finalizer, on any thread, and after the end."""
        if self.pid == HERE.pid and self.ended is None:
            self._commands.append(lambda now: self._part(feed, mark))
            self._wakeup.signal()

    def close(self) -> None:
        """Ends everything that is under way with Closed, and the thread. May be called twice, and in a forked child."""
        if self.pid != HERE.pid or self._closing:
            return
        self._closing = True
        self._wakeup.asleep = True  # Whatever it does: it is to look.
        self._wakeup.signal()
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join()

    # --- what conversations call, on the I/O thread ------------------------------------------------------------------

    def add(self, owner: Reader) -> None:
        """Begins a conversation on the data channel."""
        self._all.add(owner)

    def add_upload(self, upload: Upload) -> None:
        """Takes an upload in; it is started apart from that."""
        self._all.add_upload(upload)
        self._channel("upload")

    def watch(self, one: Renewable, now: float) -> None:
        """It is told when the broadcaster was started again, for as long as it lives."""
        self._watch.add(one, now)
        self._all.owners[self._watch.key] = self._watch

    def start_upload(self, upload: Upload, now: float) -> None:
        self._all.turn(upload, lambda: upload.start(now))

    def fail_upload(self, upload: Upload, error: BroadcasterError) -> None:
        self._all.turn(upload, lambda: upload.fail(error))

    def _join(self, namespace: str, model_id: str, delivery: Delivery) -> AnyFeed:
        """Subscribes to a model, then asks for its newest version: in this order nothing falls between."""
        if delivery.wanted == "shared" and self.leases is None:
            raise InvalidRequest(field="delivery", reason=f"'shared' cannot be had: {self.no_slots}")
        there = self._all.feeds.get(names.topic(namespace, model_id, b""), [])
        feed = next((feed for feed in there if feed.delivery.same(delivery)), None)
        if feed is None:
            feed = make_feed(namespace, model_id, delivery, self, self.send_data)
            for topic in feed.topics:
                self.subscribe(topic, wanted=True)
            self._all.join(feed)
        feed.users += 1
        return feed

    def _part(self, feed: AnyFeed, mark: Mark) -> None:
        feed.acking.leave(mark)
        feed.users -= 1
        if feed.users or not self._all.part(feed):
            return
        for topic in feed.topics:
            self.subscribe(topic, wanted=False)
        feed.fail(Closed(what=f"the subscriber of {feed.model_id}"))
        self._all.forget(feed)
        if not self._all.feeds:
            self._leases = None  # Nobody reads slots now: their mappings go.

    def subscribe(self, topic: bytes, *, wanted: bool) -> None:
        """Subscribes to a topic, or takes one subscription to it back: several feeds may each have theirs."""
        self._channel("push").socket.setsockopt(zmq.SUBSCRIBE if wanted else zmq.UNSUBSCRIBE, topic)

    @property
    def leases(self) -> Leases | None:
        """What the slots can be read with, when they can: others in another life of the broadcaster."""
        if self.slots is None:
            self._leases = None
        elif self._leases is None or self._leases.directory is not self.slots:
            self._leases = Leases(self.slots)
        return self._leases

    @property
    def chunks_per_read(self) -> int:
        """Chunks that one read may ask for, as the broadcaster says. May be read from any thread."""
        limits = {} if self.welcome is None else self.welcome.limits
        return max(1, min(limits.get("read", CHUNK), READ) // CHUNK)

    def send_data(self, message: Message | Chunk, payload: Buffer | zmq.Frame | None = None) -> None:
        assert isinstance(message, Message)
        self._channels["data"].send(message, payload)

    def send_upload(self, message: Message | Chunk, payload: Buffer | zmq.Frame | None = None) -> None:
        """A chunk's `payload` is the frame over its bytes."""
        if isinstance(message, Chunk):
            self._channels["upload"].send_chunk(message.header, message.data if payload is None else payload)
        else:
            self._channels["upload"].send(message, payload)

    def epoch_seen(self, epoch: int, now: float) -> None:
        """Something came from life `epoch` of the broadcaster: if it is another, its ports may be others too."""
        if self.welcome is not None and epoch != self.welcome.epoch:
            self._greet(now)

    def slots_refused(self, now: float) -> None:
        """No slot was granted: perhaps the broadcaster is another one by now, and its slots lie elsewhere."""
        self._greet(now)

    # --- the greeting ------------------------------------------------------------------------------------------------

    def _hello(self, request_id: bytes) -> Hello:
        return Hello(request_id=request_id, client_name=self.name)

    def _greet(self, now: float) -> None:
        """Asks where everything is, unless that was asked just now."""
        if self._greeting or now < self._greeted + RETRY or self.welcome is None:
            return
        self._greeting, self._greeted = True, now
        hello = Ask(self._hello, Welcome, lambda welcome: self._welcomed(welcome), self.send_data, now + 10 * RETRY, 10 * RETRY)
        hello.future.add_done_callback(self._greeted_again)
        self.add(hello)

    def _greeted_again(self, future: Future[Welcome]) -> None:
        self._greeting = False
        error = future.exception()
        if error is not None and self.ended is None:
            log.info("no welcome address=%s code=%s", self.address.data, getattr(error, "code", "?"))

    def _welcomed(self, welcome: Welcome) -> Welcome:
        if welcome.protocol != PROTOCOL:
            raise UnsupportedProtocol(theirs=welcome.protocol, ours=PROTOCOL)
        before, self.welcome = self.welcome, welcome
        self._look_for_slots(welcome)
        for feed in self._all.followers:
            feed.decide()
        self._greeted = now = time.monotonic()
        for name in [name for name in self._channels if name != "data"]:
            if self.refusal is not None or self._channels[name].address != self._address_of(name):
                self._reconnect(name)
        self.refusal = None
        if before is not None and before.epoch != welcome.epoch:
            log.info("restarted address=%s epoch=%d", self.address.data, welcome.epoch)
            for feed in self._all.followers:
                self._all.turn(feed, lambda feed=feed: feed.start(now))  # type: ignore[misc]
            self._watch.another_life(now)
        return welcome

    def _look_for_slots(self, welcome: Welcome) -> None:
        """Whether the broadcaster is on this host, and its slots can be used here."""
        # The ipc sockets lie in the slot directory, wherever that is mounted here; and who named it meant it.
        named = self._slot_dir or self.address.directory
        path, token = named or welcome.slot_dir, welcome.host_token
        if self.slots is not None and token == self.slots.token:
            return
        self.grants.sweep(None)
        self.slots = None  # Closed with its last user: a learner may be about to write to one of its slots.
        if path is None or token is None:
            self.no_slots = "the broadcaster offers no slots"
            return
        try:
            self.slots = SlotDirectory(path, token, trusted=bool(named))
        except SlotsUnusable as error:
            self.no_slots = str(error)

    def _address_of(self, name: str) -> str:
        if name == "data":
            return self.address.data
        assert self.welcome is not None, "the data channel is asked first"
        return self.address.of(name, self.welcome.endpoints, self.welcome.host)

    @property
    def _handshakes(self) -> Handshakes | None:
        return self._channels["data"].handshakes if "data" in self._channels else None

    def _turned_away(self, handshakes: Handshakes, now: float) -> None:
        """A handshake failed. Whoever waits is told if that was about keys; who follows a model waits on, for a key may come."""
        denied, over = handshakes.read()
        if over:
            self._open_again = now + RETRY  # libzmq does not try again by itself.
        self.refusal = denied or self.refusal
        if denied is None or not over:
            return
        if self.welcome is not None:
            log.warning("turned away address=%s reason=%s", self.address.data, denied.facts["reason"])
        for owner in list(self._all.owners.values()):
            if owner is not self._watch and owner not in self._all.followers:
                self._all.turn(owner, lambda owner=owner: owner.fail(AccessDenied(**denied.facts)))  # type: ignore[misc]

    def _open_data_again(self) -> None:
        self._open_again = math.inf
        self._close_channel("data")
        self._channel("data")
        self._greeted = 0.0
        self._greet(time.monotonic())  # Its answer opens the other channels again.

    def _reconnect(self, name: str) -> None:
        self._close_channel(name)
        channel = self._channel(name)
        log.info("reconnected channel=%s address=%s", name, channel.address)
        if name == "push":
            for feed in self._all.followers:
                for topic in feed.topics:
                    channel.socket.setsockopt(zmq.SUBSCRIBE, topic)

    def _channel(self, name: str) -> Channel:
        found = self._channels.get(name)
        if found is None:
            found = self._channels[name] = Channel(self._context, name, self._address_of(name), self._key)
            self._poller.register(found.socket, zmq.POLLIN)
            if found.handshakes is not None:
                self._poller.register(found.handshakes.socket, zmq.POLLIN)
        return found

    def _close_channel(self, name: str) -> None:
        channel = self._channels.pop(name)
        self._poller.unregister(channel.socket)
        if channel.handshakes is not None:
            self._poller.unregister(channel.handshakes.socket)
        channel.close()

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        # Freed at once: glibc then keeps freed blocks of up to this size, as after any free of one, instead of giving them back
        # to the kernel, so that a received chunk (1 MiB, made by libzmq) does not fault 256 fresh pages each time.
        bytes(31 << 20)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        ended: BroadcasterError = Closed(what="the client")
        try:
            self._poller.register(self._wakeup.fd, zmq.POLLIN)
            self._nap.register(self._wakeup.fd, select.POLLIN)
            self._channel("data")
            while not self._closing:
                self._turn()
        except BaseException as bug:
            log.exception("the I/O thread ended address=%s", self.address.data)
            ended = LocalProtocolError(reason=f"the client's I/O thread ended: {type(bug).__name__}: {bug}")
            ended.__cause__ = bug
        finally:
            self._end(ended)

    def _turn(self) -> None:
        self._sleeps_until = math.inf
        self._wakeup.asleep = True
        timeout = 0 if self._commands or self._closing else self._milliseconds()
        if timeout != 0 and (nap := self._all.nap(time.monotonic())):
            self._nap.poll(max(0.0, min(nap, self._look_at - time.monotonic())) * 1000)
        ready = {fd for fd, _ in self._poller.poll(timeout)}
        self._wakeup.asleep = False
        if self._wakeup.fd in ready:
            self._wakeup.clear()
        for channel in list(self._channels.values()):
            if channel.socket in ready and not channel.socket.closed:  # One before it may have told that it lies elsewhere.
                self._all.receive(channel)
        now = time.monotonic()
        if self._handshakes is not None and self._handshakes.socket in ready:
            self._turned_away(self._handshakes, now)
        if now >= self._open_again:
            self._open_data_again()
        for _ in range(len(self._commands)):
            self._all.moved = True
            self._commands.popleft()(now)
        if now >= self._look_at:
            self._expire(now)

    def _milliseconds(self) -> int | None:
        """How long to sleep when nothing comes."""
        if self._all.moved:
            self._all.moved = False
            deadlines = [deadline for owner in self._all.owners.values() if (deadline := owner.deadline) is not None]
            self._look_at = min(deadlines, default=math.inf)
        self._sleeps_until = min(self._look_at, self._open_again)
        if self._sleeps_until == math.inf:
            return None
        return max(0, int((self._sleeps_until - time.monotonic()) * 1000) + 1)

    def _expire(self, now: float) -> None:
        self._all.moved = True
        late = [owner for owner in self._all.owners.values() if (deadline := owner.deadline) is not None and now >= deadline]
        silent = [self._all.turn(owner, lambda owner=owner: owner.expire(now)) for owner in late]  # type: ignore[misc]
        if any(silent):
            self._greet(now)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _end(self, ended: BroadcasterError) -> None:
        self.ended = ended
        while self._commands:  # Those that came before `ended` was seen: what they begin ends below.
            command = self._commands.popleft()
            try:
                command(time.monotonic())
            except Exception as error:
                log.debug("a command came too late code=%s", getattr(error, "code", type(error).__name__))
        linger = LAST_WORDS if self._all.uploads else 0.0
        while self._all.owners:
            _, owner = self._all.owners.popitem()
            self._all.forget(owner)
            try:
                owner.fail(self._end_error())
            except Exception:
                log.exception("a conversation did not end well address=%s", self.address.data)
        for name in list(self._channels):
            self._channels.pop(name).close(linger if name == "upload" else 0.0)
        self.lane.close()
        self._context.term()
