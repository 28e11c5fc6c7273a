"""Writes, told to the other processes of a folder over Redis: they look at once, not in a while.

Nothing depends on it. The log in the folder is what counts, and every process looks at that twice a
second anyway; a message only says that now is the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import anyio.to_thread

from index.live_index import LiveIndex
from service.redis_link import PREFIX, RedisLink

CHANNEL = f"{PREFIX}changes"

_logger = logging.getLogger("fashionbert.redis")


class ChangeFeed:
    """Tells others the versions that this process has written, and looks when others tell.

    To be made, closed, and used (but for `announce`) in the event loop of the link.
    """

    def __init__(self, link: RedisLink, index: LiveIndex) -> None:
        self._link = link
        self._index = index
        self._loop = asyncio.get_running_loop()
        self._following = asyncio.create_task(self._follow())

    def announce(self, version: str) -> None:
        """Tell that a version is there. From any thread; it neither waits nor fails."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the service
            self._loop.call_soon_threadsafe(
                self._link.later, lambda redis: redis.publish(CHANNEL, version)
            )

    async def close(self) -> None:
        """End the listening."""
        self._following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._following

    async def _follow(self) -> None:
        async for version in self._link.messages(CHANNEL):
            if version == self._index.latest.name.encode():
                continue  # our own, or seen already
            try:
                await anyio.to_thread.run_sync(self._index.catch_up)
            except Exception:  # the task must not end: nobody would notice
                _logger.exception("the snapshots' folder cannot be followed")
