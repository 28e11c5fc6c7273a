from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from model.errors import FashionBertError
from service.redis_link import RedisLink, RedisUnavailableError


async def get(link: RedisLink) -> bytes | None:
    value: bytes | None = await link.run(lambda redis: redis.get("key"))
    return value


async def until_up(link: RedisLink) -> None:
    async with asyncio.timeout(60):
        while not link.up:
            await asyncio.sleep(0.01)


async def refused(link: RedisLink, times: int) -> None:
    for _ in range(times):
        with pytest.raises(RedisUnavailableError):
            await get(link)


def test_it_answers(redis: Any) -> None:
    async def run() -> None:
        link = RedisLink(redis.url, timeout=30)
        await link.run(lambda one: one.set("key", b"value"))
        link.later(lambda one: one.set("other", b"later"))
        assert await get(link) == b"value"
        await link.close()  # which waits for what runs in the background

    asyncio.run(run())
    with redis.client() as client:
        assert client.get("other") == b"later"


def test_a_stall_costs_one_time_out_and_ends_by_itself(redis: Any) -> None:
    async def run() -> None:
        link = RedisLink(redis.url, timeout=0.1, ask_again=0.2)
        redis.send(signal.SIGSTOP)
        await refused(link, 200)
        assert (link.up, link.failures) == (False, 1)
        await asyncio.sleep(0.5)  # asked again meanwhile, in vain
        assert not link.up
        redis.send(signal.SIGCONT)
        await until_up(link)
        await link.close()

    asyncio.run(run())


def test_it_may_go_and_come_back(redis: Any) -> None:
    async def run() -> None:
        link = RedisLink(redis.url, timeout=2, ask_again=0.1)
        assert await get(link) is None
        redis.stop()
        await refused(link, 20)
        assert not link.up
        redis.start()
        await until_up(link)
        assert await get(link) is None
        await link.close()

    asyncio.run(run())


def test_an_answer_that_is_an_error_does_not_end_it(redis: Any) -> None:
    with redis.client() as client:
        client.lpush("key", b"a list")

    async def run() -> None:
        link = RedisLink(redis.url, timeout=30)
        await refused(link, 2)
        assert (link.up, link.failures) == (True, 2)
        await link.close()

    asyncio.run(run())


def test_something_else_on_its_port() -> None:
    async def babble(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        link = RedisLink(f"redis://127.0.0.1:{port}", timeout=2, ask_again=60)
        await refused(link, 3)
        await link.close()
        server.close()
        await server.wait_closed()

    asyncio.run(run())


def test_an_address_that_makes_no_sense() -> None:
    with pytest.raises(FashionBertError, match="FASHIONBERT_REDIS_URL") as caught:
        RedisLink("redis://:secret@host:port/x")
    assert "secret" not in str(caught.value)
