from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from service.rate_limit import Buckets, Decision, RateLimiter
from service.redis_link import PREFIX, RedisLink


def test_a_bucket_fills_up_with_time() -> None:
    now = 100.0
    buckets = Buckets(rate=2.0, burst=3, clock=lambda: now)
    assert [buckets.take("a").allowed for _ in range(4)] == [True, True, True, False]
    refused = buckets.take("a")
    assert refused.headers() == {
        "X-RateLimit-Limit": "3",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "2",
        "Retry-After": "1",
    }
    now += refused.retry_after
    assert [buckets.take("a").allowed for _ in range(2)] == [True, False]
    now += 1000  # not beyond the burst
    assert [buckets.take("a").allowed for _ in range(4)] == [True, True, True, False]


def test_strangers_do_not_fill_the_memory() -> None:
    buckets = Buckets(rate=1.0, burst=1, clock=lambda: 0.0)
    for number in range(20_000):
        assert buckets.take(f"address:{number}").allowed
    assert not buckets.take("address:19999").allowed
    assert buckets.take("address:0").allowed  # forgotten by now


@pytest.mark.parametrize("junk", [None, b"text", {"tokens": "many", "at": "nan"}, {"at": "9e99"}])
def test_processes_share_a_bucket_in_redis(redis: Any, junk: Any) -> None:
    """Whatever lies under its key."""
    key = f"{PREFIX}rate:a"
    with redis.client() as client:
        if isinstance(junk, dict):
            client.hset(key, mapping=junk)
        elif junk is not None:
            client.set(key, junk)

    async def run() -> list[bool]:
        links = [RedisLink(redis.url, timeout=30) for _ in range(2)]
        limiters = [RateLimiter(0.001, 6, link) for link in links]
        takes = [limiters[number % 2].take("a") for number in range(10)]
        decisions = await asyncio.gather(*takes)
        assert [link.failures for link in links] == [0, 0]
        for link in links:
            await link.close()
        return sorted(decision.allowed for decision in decisions)

    assert asyncio.run(run()) == [False] * 4 + [True] * 6
    with redis.client() as client:
        assert 0 < client.ttl(key) <= 6001


@pytest.mark.parametrize(
    ("seconds", "left"),
    [(0, None), (2500, 1), (10**6, 4), (-1000, 4)],
    ids=["none yet", "some", "no more than the burst", "of a clock that was put back"],
)
def test_a_shared_bucket_fills_up_with_time(redis: Any, seconds: int, left: int | None) -> None:
    """One that was empty so many seconds ago, at a token in 1,000 s."""
    with redis.client() as client:
        emptied = client.time()[0] - seconds
        client.hset(f"{PREFIX}rate:a", mapping={"tokens": "0", "at": str(emptied)})

    async def take() -> Decision:
        link = RedisLink(redis.url, timeout=30)
        decision = await RateLimiter(0.001, 5, link).take("a")
        await link.close()
        return decision

    decision = asyncio.run(take())
    assert (decision.allowed, decision.remaining) == (left is not None, left or 0)


def test_without_redis_each_process_has_its_own(redis: Any) -> None:
    async def run() -> None:
        link = RedisLink(redis.url, timeout=0.1, ask_again=60)
        limiter = RateLimiter(0.001, 2, link)
        redis.send(signal.SIGSTOP)
        allowed = [(await limiter.take("a")).allowed for _ in range(50)]
        assert allowed == [True, True] + [False] * 48
        assert link.failures == 1  # one time-out, and after that nobody waits
        await link.close()

    asyncio.run(run())
