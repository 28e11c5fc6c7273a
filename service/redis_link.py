"""Redis, which may be slow, gone or full of junk without anyone waiting for it.

A command has a few dozen milliseconds. When one takes longer or the connection fails, the link is
down: every further command fails at once, and a task in the background asks until Redis answers
again. So a stall costs the requests that met it first one time-out each, and no other anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from model.errors import FashionBertError

#: redis-py says that its methods give a value or an awaitable of it; here it is the latter.
Command = Callable[[Redis], Any]

PREFIX = "fashionbert:"  # of every key

_ASK_AGAIN_SECONDS = 1.0
_MOST_CONNECTIONS = 256
_LISTEN_SECONDS = 60.0  # at a stretch

_logger = logging.getLogger("fashionbert.redis")


class RedisUnavailableError(Exception):
    """Redis did not do what it was asked; whoever asked goes on without."""


class RedisLink:
    """A connection to Redis of one event loop, which begins with the first command.

    `up` is whether commands are sent at all; `failures` how many were not done.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout: seconds for a command, with connecting where that is needed.
        ask_again: seconds between two questions whether it is back.

    Raises:
        FashionBertError: the address makes no sense.
    """

    def __init__(
        self, url: str, *, timeout: float = 0.05, ask_again: float = _ASK_AGAIN_SECONDS
    ) -> None:
        try:
            self._redis: Redis = Redis.from_url(
                url,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 0),
                max_connections=_MOST_CONNECTIONS,
            )
        except ValueError as error:  # which may repeat the address, and with it a password
            raise FashionBertError(
                "the Redis address is not valid: correct FASHIONBERT_REDIS_URL", code="settings"
            ) from error
        self.up = True
        self.failures = 0
        self._timeout = timeout
        self._ask_again = ask_again
        self._asking: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()

    async def run(self, command: Command) -> Any:
        """What the command answers; anything may have been put where it looks.

        Raises:
            RedisUnavailableError: it could not be done, or not in time.
        """
        if not self.up:
            raise RedisUnavailableError("Redis is down")
        try:
            async with asyncio.timeout(self._timeout):
                return await command(self._redis)
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            self.failures += 1
            self._go_down(error)
            raise RedisUnavailableError(_name(error)) from error
        except RedisError as error:  # it answered, but not what was hoped for: full, read-only
            self.failures += 1
            raise RedisUnavailableError(_name(error)) from error

    def later(self, command: Command) -> None:
        """Run a command whose answer nobody waits for; not at all when too many are waiting."""
        if not self.up or len(self._background) >= _MOST_CONNECTIONS // 4:
            return
        task = asyncio.create_task(self._run_quietly(command))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def messages(self, channel: str) -> AsyncIterator[bytes]:
        """What others publish on a channel while Redis is there; it never ends by itself.

        It has a connection of its own, which is made again when it is lost: what is published
        meanwhile is missed.
        """
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as listener:
                    await listener.subscribe(channel)
                    while True:
                        message = await listener.get_message(timeout=_LISTEN_SECONDS)
                        if message is not None:
                            yield message["data"]
            except (RedisError, OSError):
                await asyncio.sleep(self._ask_again)

    async def close(self) -> None:
        """Finish what runs in the background, which takes no longer than the time-out, and end."""
        if self._asking is not None:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._asking
        await asyncio.gather(*self._background)
        with contextlib.suppress(RedisError, OSError):
            await self._redis.aclose()

    async def _run_quietly(self, command: Command) -> None:
        with contextlib.suppress(RedisUnavailableError):
            await self.run(command)

    def _go_down(self, error: Exception) -> None:
        if not self.up:
            return
        self.up = False
        _logger.warning("Redis is down, the service goes on without: %s", _name(error))
        self._asking = asyncio.create_task(self._ask_until_it_answers())

    async def _ask_until_it_answers(self) -> None:
        while True:
            await asyncio.sleep(self._ask_again)
            try:
                async with asyncio.timeout(self._timeout):
                    await self._redis.execute_command("PING")  # type: ignore[no-untyped-call]
            except (RedisError, OSError):
                continue
            self.up = True
            _logger.info("Redis is back")
            return


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
