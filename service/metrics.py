"""What the service tells of itself in numbers: Prometheus metrics, and a summary for people."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PAIRS = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_RECENT = 1000  # observations a quantile is taken over
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class Metrics:
    """The metrics of one app, in a registry of its own."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._recent: dict[str, deque[float]] = {}
        self._requests = self._histogram(
            "request_seconds", "Answering a request", ["method", "route", "status"], _SECONDS
        )
        self._in_flight = self._gauge("requests_in_flight", "Requests being answered", [])
        self.now_in_flight = 0
        self._stages = self._histogram(
            "stage_seconds", "A stage of a search or match", ["stage"], _SECONDS
        )
        self._pairs = self._histogram(
            "rerank_pairs", "Pairs the reranker read for one request", [], _PAIRS
        )
        self._queue_wait = self._histogram(
            "queue_seconds", "Waiting before being computed", [], _SECONDS
        )
        self._cache = self._counter("cache", "Look-ups in a cache", ["cache", "result"])
        self._refused = self._counter("refused", "Requests not let in or not computed", ["reason"])
        self._rate_limited = self._counter("rate_limited", "Requests over their limit", ["key"])
        self._degraded = self._counter("degraded", "Answers that are less than asked", ["reason"])
        build = self._gauge("build_info", "What is running; always 1", ["version", "python"])
        build.labels(version, platform.python_version()).set(1)

    def begin(self) -> None:
        """A request has come."""
        self.now_in_flight += 1
        self._in_flight.set(self.now_in_flight)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request that had come was answered; `route` is a template, never an address."""
        self.now_in_flight -= 1
        self._in_flight.set(self.now_in_flight)
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).observe(seconds)
        self._remember(f"{method} {route}", 1000 * seconds)

    def stages(self, timings: Mapping[str, float]) -> None:
        """Milliseconds by stage, as a search gives them."""
        for stage, milliseconds in timings.items():
            self._stages.labels(stage).observe(milliseconds / 1000)
            self._remember(stage, milliseconds)

    def pairs(self, pairs: int) -> None:
        """The reranker scored so many pairs for one request."""
        self._pairs.observe(pairs)

    def waited(self, seconds: float) -> None:
        """A request waited so long for its turn."""
        self._queue_wait.observe(seconds)

    def cache(self, cache: str, result: str) -> None:
        """A look-up in `cache`: its result is `memory`, `redis` or `miss`."""
        self._cache.labels(cache, result).inc()

    def refused(self, reason: str) -> None:
        """A request was refused, with this code."""
        self._refused.labels(reason).inc()

    def rate_limited(self, key: str) -> None:
        """A request was over its limit; `key` is the name of a key or `anonymous`."""
        self._rate_limited.labels(key).inc()

    def degraded(self, reason: str) -> None:
        """An answer was less than asked."""
        self._degraded.labels(reason).inc()

    def collect_from(self, collector: Collector) -> None:
        """Ask this too whenever the metrics are read."""
        self.registry.register(collector)

    def text(self) -> bytes:
        """Everything, in Prometheus's text format (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)

    def counts(self) -> dict[str, dict[str, int]]:
        """Of each counter and histogram the counts by its labels' values, joined with blanks."""
        counts: dict[str, dict[str, int]] = {}
        for family in self.registry.collect():
            name = family.name.removeprefix("fashionbert_")
            counts[name] = {
                " ".join(sample.labels.values()): int(sample.value)
                for sample in family.samples
                if sample.name.endswith(("_total", "_count"))
            }
        return counts

    def quantiles(self) -> dict[str, dict[str, float]]:
        """p50, p95 and p99 in milliseconds, and how many they are of, of each stage and route."""
        summary = {}
        for name, values in sorted(self._recent.items()):
            recent = np.array(tuple(values))
            p50, p95, p99 = np.quantile(recent, (0.5, 0.95, 0.99)).round(2).tolist()
            summary[name] = {"p50": p50, "p95": p95, "p99": p99, "of_last": len(recent)}
        return summary

    def _remember(self, name: str, milliseconds: float) -> None:
        self._recent.setdefault(name, deque(maxlen=_RECENT)).append(milliseconds)

    def _histogram(self, name: str, text: str, labels: list[str], buckets: Any) -> Histogram:
        return Histogram(
            f"fashionbert_{name}", text, labels, buckets=buckets, registry=self.registry
        )

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"fashionbert_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(f"fashionbert_{name}", text, labels, registry=self.registry)
