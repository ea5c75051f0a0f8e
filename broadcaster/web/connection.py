"""One connection: uvicorn's, with an end to everything that a client may take its time for."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from broadcaster.web.limits import CONNECTIONS, HEAD_SECONDS, STALL


class Connection(H11Protocol):
    """Closed when a request is not there in time, when its client takes nothing of the answer for too long, and at once where
    there are too many."""

    _late: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
            return
        self._late = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._late is None and self._idle:  # The first bytes of another request.
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        super().data_received(data)
        if self._late is not None and self.cycle is not None and not self.cycle.more_body:
            self._late.cancel()
            self._late = None

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALL, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_stalled()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self._cancel_stalled()
        super().connection_lost(exc)

    def _cancel_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
