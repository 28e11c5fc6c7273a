"""uvicorn's HTTP/1.1 with a limit to how long a request's head may take to arrive.

uvicorn itself waits without an end for the first request of a connection, and for the rest of a
head that has begun: who opens many connections and sends a byte on each would have all that the
process may open.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def impatient_protocol(seconds: float) -> type[H11Protocol]:
    """A protocol for `uvicorn.Config`: closes a connection whose head is not whole after `seconds`.

    They count from the connection's begin, or from the first byte after an answer; until that byte
    a kept connection has uvicorn's own time (`timeout_keep_alive`).
    """

    class Impatient(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _watch(self) -> None:
            kept = self.timeout_keep_alive_task is not None
            if self.conn.their_state is not h11.IDLE or kept:
                self._stop()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self.transport.close)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Impatient
