from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cache import ByteLru, Cache, seal, unseal
from service.metrics import Metrics
from service.redis_link import PREFIX, RedisLink


def test_memory_is_bounded_and_keeps_what_was_used() -> None:
    memory = ByteLru(10_000)
    for number in range(100):
        memory.put(f"key {number}", bytes(1000))
        assert memory.get("key 0") is not None
        assert memory.size <= 10_000
    assert len(memory) == 8
    assert memory.get("key 99") is not None
    assert memory.get("key 50") is None
    memory.put("key 0", bytes(5))
    assert memory.get("key 0") == bytes(5)
    memory.put("key 0", bytes(20_000))  # too large, and what it replaces is gone too
    assert memory.get("key 0") is None
    assert 0 < memory.size <= 10_000


def test_no_memory_at_all() -> None:
    memory = ByteLru(0)
    memory.put("key", b"")
    assert memory.get("key") is None


@given(key=st.text(), value=st.binary(), other=st.text())
def test_a_sealed_value_is_good_under_its_own_key(key: str, value: bytes, other: str) -> None:
    sealed = seal(key, value)
    assert unseal(key, sealed) == value
    if other != key:
        assert unseal(other, sealed) is None


@given(st.one_of(st.none(), st.integers(), st.text(), st.binary()), st.integers(0, 19))
def test_junk_is_nothing(junk: Any, at: int) -> None:
    assert unseal("key", junk) is None
    damaged = bytearray(seal("key", b"value"))
    damaged[at] ^= 0x40
    assert unseal("key", bytes(damaged)) is None


def cache(redis: RedisLink | None, memory: int = 1_000_000) -> tuple[Cache, Metrics]:
    metrics = Metrics("0")
    return Cache("answers", ByteLru(memory), metrics, redis, seconds=100), metrics


def test_processes_share_values_through_redis(redis: Any) -> None:
    async def run() -> None:
        link = RedisLink(redis.url, timeout=30)
        (first, _), (second, metrics) = cache(link), cache(link)
        assert await second.get("key") is None
        first.put("key", b"value")
        first.put("long", bytes(1024 * 1024 + 1))  # would stall it, and is not sent
        await link.close()
        link = RedisLink(redis.url, timeout=30)
        second, metrics = cache(link)
        assert await second.get("key") == b"value"
        assert await second.get("key") == b"value"  # from memory now
        assert metrics.counts()["cache"] == {"answers redis": 1, "answers memory": 1}
        await link.close()

    asyncio.run(run())
    with redis.client() as client:
        (key,) = client.keys()
        assert 0 < client.ttl(key) <= 100


@pytest.mark.parametrize("kind", ["random", "empty", "another's", "list", "damaged"])
def test_junk_in_redis_is_a_miss_and_is_overwritten(kind: str, redis: Any) -> None:
    key = f"{PREFIX}answers:key"
    with redis.client() as client:
        if kind == "list":
            client.lpush(key, "x")
        else:
            good = seal("answers:key", b"value")
            values = {
                "random": os.urandom(1000),
                "empty": b"",
                "another's": seal("answers:other", b"wrong"),
                "damaged": good[:-1] + b"E",
            }
            client.set(key, values[kind])

    async def run() -> None:
        link = RedisLink(redis.url, timeout=30)
        empty, _ = cache(link, memory=0)
        assert await empty.get("key") is None
        empty.put("key", b"right")
        await link.close()
        link = RedisLink(redis.url, timeout=30)
        again, _ = cache(link)
        assert await again.get("key") == b"right"
        assert link.up
        await link.close()

    asyncio.run(run())


def test_a_stalled_redis_is_asked_once(redis: Any) -> None:
    async def run() -> None:
        link = RedisLink(redis.url, timeout=0.1, ask_again=60)
        both, metrics = cache(link)
        redis.send(signal.SIGSTOP)
        for number in range(100):
            assert await both.get(f"key {number}") is None
            both.put(f"key {number}", b"value")
            assert await both.get(f"key {number}") == b"value"
        assert link.failures == 1
        assert metrics.counts()["cache"] == {"answers miss": 100, "answers memory": 100}
        await link.close()

    asyncio.run(run())
