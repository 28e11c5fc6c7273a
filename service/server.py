"""uvicorn, stopping in two steps: first nobody new is sent here, then what is here finishes."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.connections import impatient_protocol
from service.proxies import behind_proxies
from service.settings import Settings
from service.targets import OriginForm

_KEEP_ALIVE_SECONDS = 75  # longer than the 60 s of common load balancers, which then close first

_logger = logging.getLogger("fashionbert.server")


class DrainingServer(uvicorn.Server):
    """A server that on SIGTERM waits `seconds` before it closes its port.

    In that time it still answers everything, while `on_drain` has made /readyz say 503, so that a
    load balancer sends its requests elsewhere before the port is gone. A second signal, or SIGINT,
    cuts it short.
    """

    def __init__(
        self, config: uvicorn.Config, seconds: float, on_drain: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._seconds = seconds
        self._on_drain = on_drain
        self._draining = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so: uvicorn itself does not for a socket it was given."""
        await super().startup(sockets)
        if self.started:
            _logger.info("listening")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self._on_drain()
        if sig != signal.SIGTERM or self._draining or not self.started:
            super().handle_exit(sig, frame)
            return
        self._draining = True
        _logger.info("asked to end: not ready from now on, closing in %g s", self._seconds)
        end = threading.Timer(self._seconds, super().handle_exit, (sig, frame))
        end.daemon = True
        end.start()


def make_server(app: FastAPI, settings: Settings) -> DrainingServer:
    """The server for an app of `create_app`."""

    def drain() -> None:
        app.state.service.draining = True

    config = uvicorn.Config(
        behind_proxies(OriginForm(app), settings.trusted_proxies),
        log_config=None,  # `service.logs.configure` has done that
        access_log=False,  # the app writes its own
        server_header=False,
        http=impatient_protocol(settings.head_seconds, settings.body_seconds),
        proxy_headers=False,  # `behind_proxies` reads them
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    return DrainingServer(config, settings.drain_seconds, drain)
