"""Bytes that were computed before: in memory, and in Redis where there is one.

Redis is not trusted to be there, to be quick or to hold what was put: each value carries a format
and a checksum over itself and its key, and what does not agree counts as absent. Keys say what a
value depends on, so nothing is ever invalidated.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Any

from service.metrics import Metrics
from service.redis_link import PREFIX, RedisLink, RedisUnavailableError

_FORMAT = b"fb1\0"
_CHECKSUM_BYTES = 16
_ENTRY_BYTES = 200  # what an entry takes beside its key and value, about
_MOST_REDIS_BYTES = 1024 * 1024  # of a value that is sent to Redis: longer ones would stall it


class ByteLru:
    """Values by key, those used last; all together at most `max_bytes`. Safe in several threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._values: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def size(self) -> int:
        """Bytes that all entries take."""
        return self._size

    def get(self, key: str) -> bytes | None:
        """The value, which counts as used."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: str, value: bytes) -> None:
        """Keep a value, at the cost of those unused for longest."""
        size = _entry_size(key, value)
        with self._lock:
            old = self._values.pop(key, None)
            if old is not None:
                self._size -= _entry_size(key, old)
            if size > self.max_bytes:
                return
            self._values[key] = value
            self._size += size
            while self._size > self.max_bytes:
                self._size -= _entry_size(*self._values.popitem(last=False))


def _entry_size(key: str, value: bytes) -> int:
    return len(key) + len(value) + _ENTRY_BYTES


def seal(key: str, value: bytes) -> bytes:
    """The value as Redis gets it."""
    return _FORMAT + _checksum(key, value) + value


def unseal(key: str, sealed: Any) -> bytes | None:
    """The value, if that is what was put under this key."""
    start = len(_FORMAT) + _CHECKSUM_BYTES
    if not isinstance(sealed, bytes) or sealed[: len(_FORMAT)] != _FORMAT:
        return None
    value = sealed[start:]
    return value if sealed[len(_FORMAT) : start] == _checksum(key, value) else None


def _checksum(key: str, value: bytes) -> bytes:
    hashed = hashlib.blake2b(digest_size=_CHECKSUM_BYTES)
    hashed.update(len(key).to_bytes(8, "big") + key.encode() + value)
    return hashed.digest()


class Cache:
    """A cache of one kind of value in memory, with Redis behind it.

    Args:
        name: of the kind, in metrics and keys.
        memory: where values are kept; kinds may share one.
        metrics: count the look-ups.
        redis: shared with other processes.
        seconds: how long Redis keeps a value.
    """

    def __init__(
        self,
        name: str,
        memory: ByteLru,
        metrics: Metrics,
        redis: RedisLink | None = None,
        seconds: int = 3600,
    ) -> None:
        self._name = name
        self._memory = memory
        self._metrics = metrics
        self._redis = redis
        self._seconds = seconds

    async def get(self, key: str) -> bytes | None:
        """A value from memory or Redis, None where neither has it."""
        key = self._full(key)
        value = self._memory.get(key)
        if value is not None:
            self._metrics.cache(self._name, "memory")
            return value
        value = await self._from_redis(key)
        if value is None:
            self._metrics.cache(self._name, "miss")
            return None
        self._metrics.cache(self._name, "redis")
        self._memory.put(key, value)
        return value

    def put(self, key: str, value: bytes) -> None:
        """Keep a value in memory, and send it to Redis without waiting for that."""
        key = self._full(key)
        self._memory.put(key, value)
        if self._redis is not None and len(value) <= _MOST_REDIS_BYTES:
            sealed = seal(key, value)
            self._redis.later(lambda redis: redis.set(PREFIX + key, sealed, ex=self._seconds))

    def _full(self, key: str) -> str:
        return f"{self._name}:{key}"

    async def _from_redis(self, key: str) -> bytes | None:
        if self._redis is None:
            return None
        try:
            sealed = await self._redis.run(lambda redis: redis.get(PREFIX + key))
        except RedisUnavailableError:
            return None
        return unseal(key, sealed)
