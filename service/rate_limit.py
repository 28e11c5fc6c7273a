"""Token buckets: so many requests a second in the long run, and a burst on top.

With Redis all processes share a caller's bucket; without, or while it is down, each has its own.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from service.redis_link import PREFIX, RedisLink, RedisUnavailableError

_MOST_BUCKETS = 10_000

#: Takes a token, in one step and by Redis's own clock. A key that holds something else counts as no
#: bucket. KEYS: the bucket. ARGV: rate, burst. Answers the tokens there were before.
_SCRIPT = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local stored = redis.pcall('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at
if stored.err then
  redis.call('DEL', KEYS[1])
else
  tokens, at = tonumber(stored[1] or ''), tonumber(stored[2] or '')
end
if not (tokens and at and tokens >= 0 and at <= now) then
  tokens, at = burst, now
end
tokens = math.min(burst, tokens + (now - at) * rate)
local left = tokens
if left >= 1 then left = left - 1 end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', left), 'at',
  string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(1000 * burst / rate) + 1000)
return string.format('%.6f', tokens)
"""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request may go on, and what the caller is told.

    `limit` is the burst, `remaining` what is left of it, `retry_after` seconds until there is a
    token (0 when there is one), `reset` seconds until the bucket is full.
    """

    allowed: bool
    limit: int
    remaining: int
    retry_after: float
    reset: float

    @classmethod
    def of(cls, tokens: float, rate: float, burst: int) -> Decision:
        """From the tokens that there were when the request came."""
        allowed = tokens >= 1
        left = tokens - 1 if allowed else tokens
        wait = 0.0 if allowed else (1 - tokens) / rate
        return cls(allowed, burst, int(left), wait, (burst - left) / rate)

    def headers(self) -> dict[str, str]:
        """`X-RateLimit-*`, and `Retry-After` with a refusal; whole seconds, rounded up."""
        headers = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(math.ceil(self.reset)),
        }
        if not self.allowed:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return headers


class Buckets:
    """The buckets of this process, of the callers seen last."""

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> Decision:
        """Take a token if there is one."""
        now = self._clock()
        tokens, at = self._buckets.pop(caller, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        decision = Decision.of(tokens, self._rate, self._burst)
        self._buckets[caller] = (tokens - 1 if decision.allowed else tokens, now)
        if len(self._buckets) > _MOST_BUCKETS:
            self._buckets.popitem(last=False)
        return decision


class RateLimiter:
    """Limits each caller to `rate` requests a second and bursts of `burst`."""

    def __init__(self, rate: float, burst: int, redis: RedisLink | None = None) -> None:
        self._rate = rate
        self._burst = burst
        self._redis = redis
        self._buckets = Buckets(rate, burst)

    async def take(self, caller: str) -> Decision:
        """Take a token from the caller's bucket if there is one."""
        if self._redis is not None:
            key = f"{PREFIX}rate:{caller}"
            try:
                answer = await self._redis.run(
                    lambda redis: redis.eval(_SCRIPT, 1, key, self._rate, self._burst)
                )
                return Decision.of(float(answer), self._rate, self._burst)
            except (RedisUnavailableError, ValueError):
                pass
        return self._buckets.take(caller)
