"""uvicorn's HTTP/1.1, with time limits where uvicorn itself waits without end.

Without them a caller who opens many connections, and sends a byte on each or reads none of the
answers, could use up all connections that the process may have.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Read from a connection at a time, while all others wait. asyncio would read 256 KiB, and for so
#: much in chunks of one byte h11 takes a second.
_READ_BYTES = 64 * 1024


def impatient_protocol(head_seconds: float, body_seconds: float) -> type[H11Protocol]:
    """A protocol for `uvicorn.Config` that closes connections on which nothing moves.

    Args:
        head_seconds: how long a request's head may take to arrive, from the connection's beginning
            or from the first byte after an answer; until that byte a kept connection has uvicorn's
            own time (`timeout_keep_alive`).
        body_seconds: how long the rest of a body may take whose request is answered already, and
            how long the caller may take to read an answer.
    """

    class Impatient(H11Protocol):
        _arriving: asyncio.TimerHandle | None = None
        _leaving: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
            transport.set_write_buffer_limits(0)  # writing pauses until the caller has all of it
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._leaving = self.loop.call_later(body_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._leaving is not None:
                self._leaving.cancel()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._arriving, self._leaving):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                super().send_400_response(msg)
            else:  # the request has an answer, and cannot have another
                self.transport.close()

        def _should_upgrade(self) -> bool:
            return False  # without uvicorn's warning: Java's client offers HTTP/2 each time

        def _watch(self) -> None:
            theirs, kept = self.conn.their_state, self.timeout_keep_alive_task is not None
            seconds: float | None = None
            if theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE:
                seconds = body_seconds
            elif theirs is h11.IDLE and not kept:
                seconds = head_seconds
            if seconds is None and self._arriving is not None:
                self._arriving.cancel()
                self._arriving = None
            elif seconds is not None and self._arriving is None:
                self._arriving = self.loop.call_later(seconds, self.transport.close)

    return Impatient
