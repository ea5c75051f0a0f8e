"""The poll loop: one thread reads the sockets, calls the broker, and runs what the workers post back."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from socket import socketpair

import zmq

from broadcaster.broker import Broker, Caller, Key, Rooms, Upload
from broadcaster.protocol.errors import BroadcasterError, InvalidRequest, RemoteProtocolError, UnsupportedProtocol
from broadcaster.protocol.frames import ChunkHeader, decode_header, decode_map, encode
from broadcaster.protocol.limits import PROTOCOL
from broadcaster.protocol.messages import (
    KINDS,
    Abandon,
    Abort,
    Aborted,
    Ack,
    Beacon,
    Begin,
    Commit,
    Event,
    Filled,
    Publish,
    Request,
)
from broadcaster.protocol.names import EVENTS
from broadcaster.security import TRUSTED
from broadcaster.server.answers import Answers
from broadcaster.server.channels import Channels
from broadcaster.server.connections import Connections
from broadcaster.server.door import Door, KeyWatch
from broadcaster.server.manners import Manners
from broadcaster.server.peers import Peer
from broadcaster.server.requests import Requests
from broadcaster.server.subscribers import Subscribers
from broadcaster.server.topics import Topics
from broadcaster.server.transfer import receive, send
from broadcaster.server.wire import inode_of
from broadcaster.slots import Tracker

log = logging.getLogger("broadcaster.server")

_TURN = 64
"""Messages taken from one socket before the others have their turn."""
_SLICE = 0.02
"""Seconds after which they have it anyway: a read may be answered with 4 MiB out of the page cache."""
_TICK = 0.5
"""Seconds between looks at what expires."""
_DELAY = 0.05
"""Seconds that this thread may be late before what it reads is taken to have waited for it."""
_CATCH_UP = 0.25
"""Seconds after that in which what is read may have waited, too: ZeroMQ's own thread was stopped as well, and has to catch up."""
STALLED = 0.05
"""Seconds after which a turn that is under way takes long."""
MANY = 4096
"""Different topics: two for each model that somebody follows with its payloads."""
_LONG = 2.0
"""Seconds over which the longest turn is told, at least."""
_NO_ID = bytes(16)

Frames = Sequence[zmq.Frame]


class Loop:
    """Serves until `stop`. It is the broker's Front: pushes what it is given, and takes posts from other threads."""

    def __init__(self, channels: Channels, door: Door | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._channels = channels
        self._door = door
        self._guard = door.guard if door else None
        self.watch: KeyWatch | None = None
        self.connections: Connections | None = None
        self._clock = clock
        self._posted: deque[Callable[[], None]] = deque()
        self._wake, self._waker = socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._stopping = False
        self._subscribers = Subscribers()
        self._topics = Topics()
        self._manners = Manners()
        self._arriving = self._arriving_from = b""
        """Of which upload a chunk came last, and by the connection with which routing id."""
        self._broker: Broker
        self._requests: Requests
        self._rooms: Rooms
        self._answers: Answers
        self._came = self._looked = clock()
        """When what is read now came, or earlier: budgets of time begin there. And when sockets were looked at last."""
        self._catching_up = 0.0
        """Until when what is read may still be from before that."""
        self._longest, self._longest_before, self._longest_until = 0.0, 0.0, clock() + _LONG
        self.turns = 0
        """How many were begun."""
        self._waiting = True
        """Whether nothing has come for this turn yet."""

    def attach(self, broker: Broker, requests: Requests, answers: Answers) -> None:
        """The broker and this loop know each other: it is made first, and told then."""
        self._broker, self._requests, self._rooms, self._answers = broker, requests, broker.rooms, answers
        if self._guard is not None:
            self._guard.holder = broker.terms.holder

    # --- what the broker wants -------------------------------------------------------------------------------------

    def post(self, done: Callable[[], None]) -> None:
        """Runs `done` on the loop's thread, soon. Safe from any thread and from a signal handler."""
        self._posted.append(done)
        self._wake_up()

    def push_event(self, event: Event, payload: memoryview | None) -> None:
        raw = self._subscribers.events((event.namespace, event.model_id))
        if raw is not None:
            frames: list[bytes | memoryview] = [raw, *encode(event)]
            if payload is not None:
                frames.append(payload)
            send(self._channels.push, frames)

    def push_chunk(self, key: Key, header: ChunkHeader, data: memoryview) -> Tracker | None:
        raw = self._subscribers.chunks(key)
        if raw is None:
            return None
        self._rooms.stats.count("chunks_pushed")
        return send(self._channels.push, [raw, header.pack(), data], track=True)

    def push_abandon(self, key: Key, abandon: Abandon) -> None:
        raw = self._subscribers.chunks(key)
        if raw is not None:
            send(self._channels.push, [raw, *encode(abandon)])

    def connection_gone(self, descriptor: int) -> None:
        """A connection has ended, which had this descriptor. Safe from any thread."""
        if self._topics.holds(descriptor):
            self.post(lambda: self._forget_topics(descriptor))

    def _forget_topics(self, descriptor: int) -> None:
        held = self._topics.gone(descriptor, inode_of(descriptor))
        if self.connections is not None:
            self.connections.left_behind(held)

    @property
    def subscriptions(self) -> int:
        return self._subscribers.count

    @property
    def longest_turn(self) -> float:
        """Seconds that the longest turn of the last 2 to 5 s took: so long did all who asked meanwhile wait."""
        return max(self._longest, self._longest_before)

    @property
    def is_laden(self) -> bool:
        """Whether subscribers that go cost much, for libzmq goes through all topics each time: there are many, or this thread
        does not get on. May be read from any thread."""
        return self._subscribers.different > MANY or (not self._waiting and self._clock() >= self._looked + STALLED)

    # --- the loop --------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ends `run`. Safe from any thread and from a signal handler."""
        self._stopping = True
        self._wake_up()

    @property
    def stopping(self) -> bool:
        """Whether the turn that is under way is the last."""
        return self._stopping

    def run(self) -> None:
        """Serves until `stop`."""
        poller = zmq.Poller()
        channels = self._channels
        turns = ((channels.upload, self._upload), (channels.data, self._data), (channels.push, self._subscription))
        for socket, _ in turns:
            poller.register(socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        if self._door is not None:
            poller.register(self._door.socket, zmq.POLLIN)
        tick = self._came = self._looked = self._clock()  # What came before had nobody to wait for.
        while not self._stopping:
            self.turns += 1
            now = self._clock()
            if now >= tick:
                tick = now + _TICK
                if now >= self._longest_until:
                    self._longest, self._longest_before, self._longest_until = 0.0, self._longest, now + _LONG
                self._broker.tick(now)
                self._manners.tick(now)
                if self.watch is not None and not self.watch.alive:
                    raise RuntimeError("nobody watches the file of keys any more")  # Another life of the core will.
                if self.connections is not None and not self.connections.alive:
                    raise RuntimeError("nobody watches the connections any more")
            self._beacons(now)
            deadlines = (self._rooms.beacons.deadline, self._broker.deadline)
            due = min([tick, *(deadline for deadline in deadlines if deadline is not None)])
            began = self._clock()
            self._waiting = True
            ready = dict(poller.poll(max(0, int((due - began) * 1000) + 1)))
            self._note_delay(began, due)
            self._waiting = False
            if self._door is not None and self._door.socket in ready:
                self._door.answer()
            for socket, turn in turns:
                if socket in ready:
                    self._drain(socket, turn)
            self._broker.settle(self._clock())
            if self._wake.fileno() in ready:
                self._run_posted()

    def close(self) -> None:
        self._wake.close()
        self._waker.close()

    def _wake_up(self) -> None:
        try:
            self._waker.send(b"\0")
        except BlockingIOError:
            pass  # Full of wake-ups that are not read yet: one more changes nothing.

    def _note_delay(self, began: float, due: float) -> None:
        """A poll `began`, was to end by `due`, and has ended: since when may what is read now have waited, for a process that was
        stopped or busy?"""
        now = self._clock()
        came = began if now > max(began, due) + _DELAY else now
        if began - self._looked > self._longest:
            self._longest = began - self._looked
        if began - self._looked > _DELAY:
            came = self._looked
        if now < self._catching_up:
            came = self._came
        elif came < now:
            self._catching_up = now + _CATCH_UP
        self._came, self._looked = came, now

    def _expires(self, given: dict[str, object]) -> float:
        """When the time of this request is over, by its budget."""
        budget = given.get("budget_ms")
        return self._came + budget / 1000 if type(budget) is int else float("inf")

    def _drain(self, socket: zmq.Socket[bytes], turn: Callable[[Frames], None]) -> None:
        ask = socket is not self._channels.push  # Where libzmq looks at all topics when a subscriber goes.
        until = self._clock() + _SLICE
        for _ in range(_TURN):
            frames = receive(socket, ask=ask)
            if frames is None:
                return
            turn(frames)
            if self._clock() >= until:
                return

    def _run_posted(self) -> None:
        self._wake.recv(4096)
        for _ in range(len(self._posted)):
            self._posted.popleft()()

    def _beacons(self, now: float) -> None:
        pace = self._rooms.acks.pace_ms
        for key, interval in self._rooms.beacons.due(now):
            raw = self._subscribers.events(key)
            if raw is not None:
                beacon = Beacon(
                    epoch=self._rooms.log.epoch,
                    offset=self._rooms.log.offset,
                    model_offset=self._rooms.log.model_offset(key),
                    namespace=key[0],
                    model_id=key[1],
                    interval_ms=int(interval * 1000),
                    ack_ms=pace,
                )
                send(self._channels.push, [raw, *encode(beacon)])

    # --- upload channel --------------------------------------------------------------------------------------------

    def _upload(self, frames: Frames) -> None:
        if self._manners.shunned and frames[0].bytes in self._manners.shunned:
            return
        now = self._clock()
        if len(frames) == 4 and len(frames[1]) == 0:
            self._chunk(frames, now)
            return
        if len(frames) > 1 and len(frames[1]) == len(Filled.KIND) and frames[1].bytes == Filled.KIND:
            self._filled(frames, now)
            return
        routing = [frames[0].bytes]
        peer = Peer(self._channels.upload, routing, self._answers, _NO_ID)
        try:
            given = _map_of(frames[1:])
            request_id, upload_id = _id_in(given, "request_id"), _id_in(given, "upload_id")
            expires = self._expires(given)
            peer = Peer(self._channels.upload, routing, self._answers, request_id, upload_id=upload_id, expires=expires)
            if given.get("timing") is True:
                peer.timing = self._answers.timing()
            request = read_request(frames[1:], given)
            if self._guard is not None:
                self._guard.check(user_of(frames), request)
            match request:
                case Publish() as publish:
                    payload = frames[3] if len(frames) > 3 else zmq.Frame(b"")
                    self._broker.publish(publish, payload.buffer, peer, now, partial(self._forward, payload))
                case Begin() as begin:
                    self._broker.begin(begin, peer, now)
                case Commit() as commit:
                    self._broker.commit(commit, peer, now)
                case Abort() as abort:
                    self._broker.abort(abort)
                    peer.reply(Aborted(request_id=abort.request_id, upload_id=abort.upload_id))
                case other:
                    raise InvalidRequest(field="kind", reason=f"{other.KIND.decode()} belongs on the data channel")
        except BroadcasterError as error:
            self._refuse(peer, error, frames[0])
            if isinstance(error, RemoteProtocolError):
                return
        if self._manners.rude:
            self._manners.rude.pop(routing[0], None)

    def _filled(self, frames: Frames, now: float) -> None:
        """Not answered, whatever it is."""
        try:
            filled = Filled.read(_map_of(frames[1:]))
            if self._guard is None or self._guard.owns(user_of(frames), filled.upload_id):
                self._broker.filling.filled(filled, now)
        except RemoteProtocolError:
            self._rooms.stats.count("bad_messages")

    def _chunk(self, frames: Frames, now: float) -> None:
        """Forwarded first, then put into its place: subscribers need not wait for our copy."""
        data, chunks = frames[3], self._broker.chunks
        if frames[0].bytes == self._arriving_from:
            upload = chunks.going_on(self._arriving, frames[2].bytes, len(data))
            if upload is not None and (self._guard is None or self._guard.owns(user_of(frames), self._arriving)):
                self._forward(data, upload, upload.pushed_header)
                chunks.put_next(upload, data.buffer, now)
                return
        self._any_chunk(frames, now)

    def _any_chunk(self, frames: Frames, now: float) -> None:
        """One that may be the first of its connection, come again, be behind a hole, or none at all."""
        data = frames[3]
        try:
            header = decode_header(frames[2].buffer)
            if header.length != len(data):
                raise RemoteProtocolError(reason=f"a chunk of {header.length} bytes came with {len(data)}")
        except RemoteProtocolError:
            self._offended(frames[0])
            return
        if self._guard is not None and not self._guard.owns(user_of(frames), header.transfer):
            self._rooms.stats.count("bad_messages")
            return
        peer = Peer(self._channels.upload, [frames[0].bytes], self._answers, _NO_ID, upload_id=header.transfer)
        upload = self._broker.chunks.wants(header, peer)
        if upload is None:
            self._broker.chunks.dropped(header, now)
            return
        self._arriving, self._arriving_from = header.transfer, frames[0].bytes
        self._forward(data, upload, upload.pushed_header)
        self._broker.chunks.put(upload, header, data.buffer, now)

    def _forward(self, data: zmq.Frame, upload: Upload, header: bytes) -> None:
        """The received frame itself goes on: libzmq counts references, nothing is copied."""
        raw = self._subscribers.chunks(upload.key)
        if raw is not None:
            self._rooms.stats.count("chunks_pushed")
            send(self._channels.push, [raw, header, data])

    # --- data channel ----------------------------------------------------------------------------------------------

    def _data(self, frames: Frames) -> None:
        if self._manners.shunned and frames[0].bytes in self._manners.shunned:
            return
        now = self._clock()
        if len(frames) > 2 and len(frames[2]) == len(Ack.KIND) and frames[2].bytes == Ack.KIND:
            self._ack(frames, now)
            return
        envelope = [frames[0].bytes, b""]
        peer = Peer(self._channels.data, envelope, self._answers, _NO_ID)
        try:
            if len(frames) < 2 or len(frames[1]):
                raise RemoteProtocolError(reason="an empty frame comes first on the data channel")
            given = _map_of(frames[2:])
            request_id, expires = _id_in(given, "request_id"), self._expires(given)
            peer = Peer(self._channels.data, envelope, self._answers, request_id, expires=expires)
            if given.get("timing") is True:
                peer.timing = self._answers.timing()
            self._rooms.stats.count("requests")
            request = read_request(frames[2:], given)
            if self._guard is not None:
                self._guard.check(user_of(frames), request)
            self._requests.answer(request, peer, now)
        except BroadcasterError as error:
            self._refuse(peer, error, frames[0])
            if isinstance(error, RemoteProtocolError):
                return
        if self._manners.rude:
            self._manners.rude.pop(envelope[0], None)

    def _ack(self, frames: Frames, now: float) -> None:
        """Not answered, whatever it is."""
        try:
            ack = Ack.read(_map_of(frames[2:]))
            guard = self._guard
            if guard is None or guard.may_ack(user_of(frames), ack.subscriber, ack.namespace, ack.model_id):
                self._broker.acknowledging.ack(ack, now)
            else:
                self._rooms.stats.count("acks_dropped")
        except RemoteProtocolError:
            self._rooms.stats.count("bad_messages")

    def _refuse(self, peer: Caller, error: BroadcasterError, routing: zmq.Frame) -> None:
        if isinstance(error, RemoteProtocolError):
            self._offended(routing)
        peer.refuse(error)

    def _offended(self, routing: zmq.Frame) -> None:
        """A message came that is none. Whoever sends nothing else is cut."""
        self._rooms.stats.count("bad_messages")
        if self._manners.offended(routing.bytes, self._clock()):
            self._cut(routing, "nothing that it sent was of the protocol")

    def _cut(self, frame: zmq.Frame, why: str) -> None:
        """Ends the connection that a frame came by."""
        descriptor = descriptor_of(frame)
        if self.connections is not None and descriptor is not None:
            address = str(frame.get("Peer-Address"))
            self.connections.cut(descriptor, "" if address.startswith("localhost:") else address, why)

    # --- push channel ----------------------------------------------------------------------------------------------

    def _subscription(self, frames: Frames) -> None:
        """Only whole topics are accepted: the socket is in manual mode, so nothing else is ever sent."""
        raw = frames[0].bytes
        if raw[:1] == b"\1":
            added = self._subscribers.add(raw[1:])  # Also what is refused: its end is told without saying whose it was.
            if not self._has_room(frames, valid=added is not None) or added is None:
                self._rooms.stats.count("subscriptions_refused")
                return
            if self._guard is not None and not self._guard.may_subscribe(user_of(frames), *added[0]):
                self._rooms.stats.count("subscriptions_refused")
                return
            self._channels.push.setsockopt(zmq.SUBSCRIBE, raw[1:])
            if added[1] == EVENTS:
                self._rooms.beacons.subscribed(added[0], self._clock())
        elif raw[:1] == b"\0":
            descriptor = descriptor_of(frames[0])
            if descriptor is not None:  # Else its connection has ended, and libzmq has forgotten it.
                self._topics.remove(descriptor)
                self._channels.push.setsockopt(zmq.UNSUBSCRIBE, raw[1:])
            left = self._subscribers.remove(raw[1:])
            if left is not None:
                self._rooms.beacons.unsubscribed(left)

    def _has_room(self, frames: Frames, *, valid: bool) -> bool:
        """Counts a subscription, valid or not, for libzmq keeps them all; cuts whoever has too many."""
        descriptor = descriptor_of(frames[0])
        if descriptor is not None and self._topics.is_cut(descriptor):
            return False
        inode = None if descriptor is None else inode_of(descriptor)
        if descriptor is None or inode is None:
            return True  # The connection has ended already, and all of it is forgotten soon.
        user = "" if self._guard is None else user_of(frames)
        if self._topics.add(descriptor, inode, "" if user == TRUSTED else user, self._subscribers.different, valid=valid):
            return True
        if self._topics.is_to_be_cut(descriptor):
            self._cut(frames[0], "it has too many subscriptions")
        return False


def descriptor_of(frame: zmq.Frame) -> int | None:
    """The connection that a frame came by; None for what libzmq made up itself."""
    try:
        return int(frame.get("__fd"))
    except zmq.ZMQError:
        return None


def user_of(frames: Frames) -> str:
    """Who sent this, as the door knows them; empty for nobody that it let in, who may do nothing."""
    try:
        return str(frames[0].get("User-Id"))
    except zmq.ZMQError:
        return ""


def _map_of(frames: Frames) -> dict[str, object]:
    if len(frames) < 2:
        raise RemoteProtocolError(reason=f"a control message has a kind and a map, not {len(frames)} frame(s)")
    return decode_map(frames[1].buffer)


def _id_in(given: dict[str, object], name: str) -> bytes:
    """The id to answer with, even to a message that is refused for something else."""
    found = given.get(name)
    return found if isinstance(found, bytes) and len(found) == 16 else _NO_ID


def read_request(frames: Frames, given: dict[str, object]) -> Request:
    """The request in these frames. Raises UnsupportedProtocol before it looks at anything that may differ between versions."""
    theirs = given.get("protocol", PROTOCOL)
    if type(theirs) is not int:  # Said before it is printed: a peer's value may be nested deeper than a repr can go.
        raise RemoteProtocolError(reason="protocol must be an integer")
    if theirs != PROTOCOL:
        raise UnsupportedProtocol(theirs=theirs, ours=PROTOCOL)
    name = frames[0].bytes[:32]
    kind = KINDS.get(name)
    if kind is None or not issubclass(kind, Request):
        raise InvalidRequest(field="kind", reason=f"there is no request {name!r}")
    request: Request = kind.read(given)
    return request
