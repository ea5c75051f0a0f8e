"""What happens, as server-sent events: one poller of the core's log for each namespace that somebody listens to.

id: 1763770000.42                                   epoch and offset: what `Last-Event-ID` and `after` resume behind
event: published
data: {"epoch": 1763770000, "offset": 42, ...}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from broadcaster.protocol.errors import BroadcasterError, Busy, EventsGone
from broadcaster.protocol.messages import Event
from broadcaster.web.limits import EVENTS, HEARTBEAT, LISTENERS, POLL, QUEUED
from broadcaster.web.link import Link, answer
from broadcaster.web.shapes import of_event

AWAY = 1.0
"""Seconds before a core that does not answer is asked again."""

Place = tuple[int, int]
"""(epoch, offset)"""
Wanted = Callable[[Event], bool]


@dataclass(slots=True, eq=False)
class Gap:
    """Events are gone: what was known before is to be asked anew, and all goes on behind `place`."""

    place: Place


@dataclass(slots=True, eq=False)
class Listener:
    """One reader. `queue` gets what is new; who does not read it is cut off: its task, which waits for it, ends."""

    queue: asyncio.Queue[Event | Gap | None] = field(default_factory=lambda: asyncio.Queue(QUEUED + 1))
    task: asyncio.Task[object] | None = field(default_factory=asyncio.current_task)
    cut: bool = False

    def tell(self, news: Event | Gap) -> None:
        if not self.cut:
            if self.queue.qsize() >= QUEUED:
                self.cut = True
                if self.task is not None:
                    self.task.cancel()
            else:
                self.queue.put_nowait(news)


class Hub:
    """All listeners."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._feeds: dict[str, _Feed] = {}

    @property
    def listeners(self) -> int:
        return sum(len(feed.listeners) for feed in self._feeds.values())

    def require_room(self) -> None:
        """Raises Busy when there are too many listeners."""
        if self.listeners >= LISTENERS:
            raise Busy(what="the stream of events", retry_after=5)

    async def listen(
        self, namespace: str, after: Place | None, wanted: Wanted, allowed: Callable[[], bool]
    ) -> AsyncIterator[str]:
        """The stream, from its beginning on: pieces of text, the first at once. It ends when its reader is too slow, or is not
        `allowed` to listen any more."""
        self.require_room()
        feed = self._feeds.get(namespace)
        if feed is None:
            feed = self._feeds[namespace] = _Feed(self._link, namespace)
        listener = Listener()
        feed.listeners.add(listener)
        try:
            place = await feed.begin()
            yield f"retry: 1000\n{_told(after or place, 'start', _place(place))}"
            if after is not None and after != place:
                async for news in feed.catch_up(after, place):
                    yield _news(news, wanted)
            while (next_one := await _next(listener)) is not None and allowed():
                yield next_one if isinstance(next_one, str) else _news_of(listener, next_one, wanted)
        finally:
            feed.listeners.discard(listener)
            if not feed.listeners:
                feed.end()
                self._feeds.pop(namespace, None)

    async def close(self) -> None:
        """Ends all streams."""
        for feed in list(self._feeds.values()):
            feed.end()
            for listener in list(feed.listeners):
                listener.cut = True
                with contextlib.suppress(asyncio.QueueFull):
                    listener.queue.put_nowait(None)


class _Feed:
    """The log of one namespace, asked for what is new while somebody listens."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._namespace = namespace
        self._begun: asyncio.Future[Place] | None = None
        self._polling: asyncio.Task[None] | None = None
        self.listeners: set[Listener] = set()
        self.place: Place = (0, 0)
        """What listeners have, or have in their queues."""

    async def begin(self) -> Place:
        """Where what is told to listeners begins. Raises BroadcasterError while the core does not answer."""
        if self._polling is None:
            if self._begun is None:
                self._begun = asyncio.ensure_future(self._now())
            try:
                place = await asyncio.shield(self._begun)
            except BroadcasterError:
                self._begun = None
                raise
            if self._polling is None:
                self.place = place
                self._polling = asyncio.create_task(self._poll())
        return self.place

    def end(self) -> None:
        if self._polling is not None:
            self._polling.cancel()

    async def _now(self) -> Place:
        stats = await answer(self._link.calls().stats())
        return int(stats["epoch"]), int(stats["offset"])

    async def catch_up(self, after: Place, until: Place) -> AsyncIterator[Event | Gap]:
        """What happened between two places; a gap where that is not known any more."""
        calls, (epoch, offset) = self._link.calls(self._namespace), after
        try:
            while offset < until[1] or epoch != until[0]:
                page = await answer(calls.events(epoch, offset, EVENTS))
                for event in page.events:
                    if event.offset <= until[1]:
                        yield event
                if page.next is None:
                    return
                offset = page.next
        except EventsGone:
            yield Gap(until)

    async def _poll(self) -> None:
        calls = self._link.calls(self._namespace)
        while True:
            epoch, offset = self.place
            pause = POLL
            try:
                page = await answer(calls.events(epoch, offset, EVENTS))
            except EventsGone as gone:
                self._tell(Gap((int(gone.current), int(gone.newest))))
            except BroadcasterError:
                pause = AWAY
            else:
                for event in page.events:
                    self._tell(event)
                self.place = (page.epoch, page.offset if page.next is None else page.next)
                pause = POLL if page.next is None else 0.0
            await asyncio.sleep(pause)

    def _tell(self, news: Event | Gap) -> None:
        self.place = news.place if isinstance(news, Gap) else (news.epoch, news.offset)
        for listener in self.listeners:
            listener.tell(news)


async def _next(listener: Listener) -> Event | Gap | str | None:
    """What comes next; a comment when nothing does for a while; None at the end."""
    try:
        async with asyncio.timeout(HEARTBEAT):
            return await listener.queue.get()
    except TimeoutError:
        return ": nothing new\n\n"


def _news_of(listener: Listener, first: Event | Gap, wanted: Wanted) -> str:
    """This, and all that waits behind it: one write instead of many."""
    told = [_news(first, wanted)]
    while not listener.queue.empty():
        news = listener.queue.get_nowait()
        if news is None:
            listener.queue.put_nowait(None)
            break
        told.append(_news(news, wanted))
    return "".join(told)


def _news(news: Event | Gap, wanted: Wanted) -> str:
    if isinstance(news, Gap):
        return _told(news.place, "gap", _place(news.place))
    if not wanted(news):
        return ""
    return _told((news.epoch, news.offset), news.event, json.dumps(of_event(news)))


def _told(place: Place, kind: str, data: str) -> str:
    return f"id: {place[0]}.{place[1]}\nevent: {kind}\ndata: {data}\n\n"


def _place(place: Place) -> str:
    return json.dumps({"epoch": place[0], "offset": place[1]})
