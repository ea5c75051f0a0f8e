"""Who is connected: libzmq tells of each connection's begin and end, and whoever is one too many, or does what nobody does who is
let in, is cut off. On a thread of its own, which sleeps while nobody comes or goes."""

from __future__ import annotations

import heapq
import itertools
import logging
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import zmq

from broadcaster.server.memory import GROWTH, Growth, give_back, private
from broadcaster.server.wire import Line, line_of
from broadcaster.stats import Stats

log = logging.getLogger("broadcaster.server")

SHARE = 0.75
"""Part of all connections that may come from one address."""
BURST = 4096
"""New connections at once, over TCP; whoever is turned away comes again within half a second."""
RATE = 1000.0
"""New connections a second, after that."""
SHUNNED = 5.0
"""Seconds in which hardly anybody gets in from an address of which a connection was cut."""
HARDLY = 10.0
"""New connections a second from there."""
FLEETING = 2.0
"""Seconds: whoever leaves sooner, and showed no key where one is needed, came for nothing; or subscribed for nothing: libzmq goes
through all topics each time a subscriber leaves."""
FLEETING_BURST = 40
"""So many of them at once, from one address."""
FLEETING_RATE = 8.0
"""So many a second, after that. More subscribers are nobody's harm while there are few topics."""
STRANGER = 4096
"""Bytes that somebody may have sent whose handshake is not over: one takes less than 1,000."""
LOOK = 0.25
"""Seconds between two looks at the memory, and at most between two at somebody who came lately."""
SOON = 0.01
"""Seconds until the first look at somebody; each next one takes twice as long to come."""

_UNPROVEN = 250
"""Bytes that somebody has of us before we know its key: a greeting and a welcome are 234."""
_LONG_AGO = float("-inf"), False
_A_FEW = 8
"""Of those who come, go or are looked at, so many in a row: 15 to 60 us each."""
_BREATH = 0.0005
"""Seconds after which the next few are. Whoever waits for the interpreter has it meanwhile."""
_QUIET = 1.0
"""Seconds in which nobody comes or goes, after which what a crowd left behind is given back."""
_CROWD = 256
"""Connections that have to have ended for that."""
_STILL = 1 << 20
"""Bytes by which memory changes between two looks while not much is going on: else it is used, and not given back."""
_LITTER = 15.0
"""Seconds for which that goes on: what they sent is read by and by."""
_SAY_AGAIN = 1.0
_EVENT = struct.Struct("=Hi")
_ACCEPTED, _ENDED, _OVER = int(zmq.EVENT_ACCEPTED), int(zmq.EVENT_DISCONNECTED), int(zmq.EVENT_MONITOR_STOPPED)
_CLOSED = int(zmq.EVENT_CLOSED)
_WATCHED = _ACCEPTED | _ENDED | _CLOSED | _OVER
_POLLIN = int(zmq.POLLIN)


class Connections:
    """The connections of all channels, at most `most` of them over TCP. `gone(descriptor)` is called on this thread for each that
    has ended. With `proven`, those who came by TCP are strangers until a handshake has shown who they are."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        sockets: Mapping[str, zmq.Socket[bytes]],
        stats: Stats,
        *,
        most: int,
        proven: bool,
        gone: Callable[[int], None],
        laden: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = most
        self._stats = stats
        self._proven = proven
        self._gone = gone
        self._laden = laden
        self._clock = clock
        self._known: dict[int, Line] = {}
        """By descriptor."""
        self._addresses: Counter[str] = Counter()
        self._over_tcp = 0
        self._strangers: list[tuple[float, int, float, Line]] = []
        """Those who have not shown a key yet, where that is needed: when the next look at one is due, and its delay. A heap."""
        self._unproven: set[int] = set()
        """Their descriptors."""
        self._turn = itertools.count()
        self._pace = _Pace(clock())
        self._came: dict[int, tuple[float, bool]] = {}
        """By descriptor, when those came who had better stay for a while, and whether to the push port."""
        self._fleeting: dict[str, _Pace] = {}
        """By address, those who soon left it again."""
        self._shunned: dict[str, tuple[float, _Pace]] = {}
        """By address, until when, and how fast it may come meanwhile."""
        self._left = 0
        """Connections that have ended since memory was given back."""
        self._litter_until, self._given_back = 0.0, 0.0
        self._private, self._still = 0, True
        """The memory at the last look, and whether it had hardly changed since the one before."""
        self._looked, self._heard, self._said = 0.0, 0.0, -_SAY_AGAIN
        self._verify = False
        self._marks: dict[Line, int] = {}
        """What each had sent when memory began to grow."""
        self._growth = Growth()
        self._sockets = list(sockets.values())
        self._monitors = {_monitor(context, name, socket): name for name, socket in sockets.items()}
        self._thread = threading.Thread(target=self._run, name="connections", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """On the thread that has the sockets."""
        for socket in self._sockets:
            socket.monitor(None, 0)  # Its last word is that it ends, which ends the thread.
        self._thread.join()
        for monitor in self._monitors:
            monitor.close(linger=0)

    @property
    def count(self) -> int:
        """Over TCP and ipc."""
        return len(self._known)

    @property
    def alive(self) -> bool:
        """Whether somebody counts. libzmq's words pile up otherwise."""
        return self._thread.is_alive()

    def left_behind(self, subscriptions: int) -> None:
        """So many that libzmq kept have gone. Safe from any thread."""
        self._left += subscriptions // 16

    def excuse(self) -> None:
        """Those that are here will end, and not because they want to. Safe from any thread."""
        self._came.clear()

    def cut(self, descriptor: int, address: str, why: str) -> None:
        """Ends the connection that had this descriptor and came from there, for it did what nobody may; it may have gone by now.
        Safe from any thread."""
        line = line_of(descriptor)
        self._cut(line if line is not None and line.address == address else Line(descriptor, 0, address), why)

    # --- its thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        poller, open_ones = zmq.Poller(), len(self._monitors)
        for monitor in self._monitors:
            poller.register(monitor, zmq.POLLIN)
        while open_ones:
            told = 0
            for monitor, _ in poller.poll(self._patience()):
                events, ended = self._read(monitor)
                told, open_ones = max(told, events), open_ones - ended
            if told == _A_FEW:
                time.sleep(_BREATH)
            now = self._clock()
            self._look_at_strangers(now)
            if now >= self._looked + LOOK:
                self._looked = now
                self._look(now)

    def _patience(self) -> int | None:
        """Milliseconds until there is something to do, whatever comes; None: for ever."""
        if self._strangers:
            return max(1, int((min(self._strangers[0][0], self._looked + LOOK) - self._clock()) * 1000))
        return int(LOOK * 1000) if self._known or self._left or self._verify or self._clock() < self._litter_until else None

    def _read(self, monitor: zmq.Socket[bytes]) -> tuple[int, int]:
        """Takes a few of what has come. How many, and how many sockets said their last word: 1 or none."""
        for number in range(_A_FEW):
            if not int(monitor.getsockopt(zmq.EVENTS)) & _POLLIN:
                return number, 0
            event, value = _EVENT.unpack(monitor.recv_multipart()[0])
            self._heard = self._clock()
            if event == _ACCEPTED:
                self._accepted(value, self._monitors[monitor])
            elif event == _ENDED:
                self._ended(value)
            elif event == _CLOSED:
                self._verify = True  # Those who came by that address go without a word.
            elif event == _OVER:
                return number + 1, 1
        return _A_FEW, 0

    def _accepted(self, descriptor: int, channel: str) -> None:
        if descriptor in self._known:  # One that went without a word.
            self._ended(descriptor)
        line = line_of(descriptor)
        if line is None:
            return
        why = self._no_room(line, self._clock()) if line.address else ""
        if why:
            self._stats.count("connections_refused")
            line.cut()
            self._say("a connection was refused: %s", why, line)
            return
        self._known[descriptor] = line
        if line.address:
            if channel == "push" or self._proven:
                self._came[descriptor] = self._clock(), channel == "push"
            self._over_tcp += 1
            self._addresses[line.address] += 1
            if self._proven:
                self._unproven.add(descriptor)
                self._meet(line, self._clock(), SOON)

    def _ended(self, descriptor: int) -> None:
        self._left += 1
        self._gone(descriptor)
        line, (came, subscribed) = self._known.pop(descriptor, None), self._came.pop(descriptor, _LONG_AGO)
        stranger = descriptor in self._unproven
        self._unproven.discard(descriptor)
        if line is not None and line.address:
            if (stranger or subscribed) and (now := self._clock()) < came + FLEETING:
                self._fled(line, now, stranger=stranger)
            self._over_tcp -= 1
            self._addresses[line.address] -= 1
            if not self._addresses[line.address]:
                del self._addresses[line.address]

    def _fled(self, line: Line, now: float, *, stranger: bool) -> None:
        """Somebody left as soon as he had come, without having shown a key, or a subscriber. Where many do, and it costs much,
        hardly anybody gets in from there for a while."""
        pace = self._fleeting.setdefault(line.address, _Pace(now))
        if not pace.allows(now, FLEETING_RATE, FLEETING_BURST) and (stranger or self._laden()):
            self._shun(line.address, now)
            self._say("hardly anybody gets in: %s", "those who come from there leave at once", line)

    def _no_room(self, line: Line, now: float) -> str:
        """Why there is none for one more; empty when there is."""
        if self._over_tcp >= self.most:
            return f"there are {self.most} already"
        if self._addresses[line.address] >= max(1, int(self.most * SHARE)):
            return "there are too many from this address already"
        shunned = self._shunned.get(line.address)
        if shunned is not None and now < shunned[0] and not shunned[1].allows(now, HARDLY, HARDLY):
            return "others from this address were cut, or left as soon as they had come"
        return "" if self._pace.allows(now, RATE, BURST) else f"more than {RATE:.0f} new ones a second"

    def _cut(self, line: Line, why: str) -> None:
        self._stats.count("connections_cut")
        self._left += _CROWD
        line.cut()
        if line.address:
            self._shun(line.address, self._clock())
        self._say("a connection was cut: %s", why, line)

    def _shun(self, address: str, now: float) -> None:
        _, pace = self._shunned.get(address, (0.0, None))
        self._shunned[address] = now + SHUNNED, pace or _Pace(now, 0.0)

    # --- a look around -----------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        if self._verify:
            self._verify = False
            for line in [line for line in self._known.values() if not line.there]:
                self._ended(line.descriptor)
        self._look_at_memory(now)
        for address in [address for address, (until, _) in list(self._shunned.items()) if until <= now]:
            del self._shunned[address]
        for address in [address for address, pace in self._fleeting.items() if pace.is_full(now, FLEETING_RATE, FLEETING_BURST)]:
            del self._fleeting[address]
        self._give_back(now)

    def _give_back(self, now: float) -> None:
        """What a crowd left behind, again and again while the last of it is still being read."""
        if self._left >= _CROWD:
            self._left, self._litter_until = 0, now + _LITTER
        if self._still and now < self._litter_until and now >= max(self._heard, self._given_back) + _QUIET:
            self._given_back = now
            give_back()

    def _meet(self, stranger: Line, now: float, delay: float) -> None:
        heapq.heappush(self._strangers, (now + delay, next(self._turn), delay, stranger))

    def _look_at_strangers(self, now: float) -> None:
        """Whoever has not shown a key and sends more than a handshake takes fills memory on purpose. Of a crowd, a few at a time:
        whoever waits for the interpreter meanwhile is not to wait long."""
        for _ in range(_A_FEW):
            if not self._strangers or self._strangers[0][0] > now:
                return
            _, _, delay, line = heapq.heappop(self._strangers)
            acked, received = line.traffic() or (_UNPROVEN + 1, 0)
            if acked > _UNPROVEN:
                if line.there:
                    self._unproven.discard(line.descriptor)
                continue  # It has shown its key, or has gone.
            if received > STRANGER:
                self._cut(line, "it sent more than a handshake takes, without a key")
            else:
                self._meet(line, now, min(2 * delay, LOOK))

    def _look_at_memory(self, now: float) -> None:
        """ZeroMQ keeps what it receives until a message is whole and read, however much that is. When memory grows too fast, the
        connection that sends most is at fault: it is cut, and comes again if it means well."""
        before, self._private = self._private, private()
        self._still = abs(self._private - before) < _STILL
        grown = self._growth.grown(now, self._private)
        if grown >= GROWTH // 6 and now >= self._litter_until:
            self._left += _CROWD
        if grown < GROWTH // 4:
            self._marks = {}
            return
        sent = {line: found[1] for line in list(self._known.values()) if (found := line.traffic()) is not None}
        if grown >= GROWTH and self._marks:
            line, bytes_ = max(((line, count - self._marks.get(line, 0)) for line, count in sent.items()), key=lambda one: one[1])
            if bytes_ >= GROWTH // 16:
                self._cut(line, "it sent more than is read, and memory grew too fast")
            self._growth.forget()
        self._marks = sent

    def _say(self, sentence: str, why: str, line: Line) -> None:
        """Once a second: whoever floods us is not to fill the log as well."""
        now = self._clock()
        if now >= self._said + _SAY_AGAIN:
            self._said = now
            log.warning(f"{sentence} address=%s connections=%d", why, line.address or "ipc", len(self._known))


class _Pace:
    """So many a second, and `burst` at once."""

    def __init__(self, now: float, left: float = float("inf")) -> None:
        self._left, self._at = left, now

    def is_full(self, now: float, rate: float, burst: float) -> bool:
        """Whether as many are left as there ever are: it might as well be a new one."""
        return self._left + (now - self._at) * rate >= burst

    def allows(self, now: float, rate: float, burst: float) -> bool:
        self._left = min(burst, self._left + (now - self._at) * rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _monitor(context: zmq.Context[zmq.Socket[bytes]], name: str, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """What libzmq tells of a socket's connections. Its queue has no end: a full one would stop all of libzmq."""
    address = f"inproc://connections-{name}"
    socket.monitor(address, _WATCHED)
    monitor = context.socket(zmq.PAIR)
    monitor.setsockopt(zmq.RCVHWM, 0)
    monitor.connect(address)
    return monitor
