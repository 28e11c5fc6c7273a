"""What is read off the service whenever its metrics are: queue, cache, Redis, snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.api.state import Service


class ServiceGauges(Collector):
    """Gauges read off the service when they are asked for, so nothing has to report changes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges."""
        service = self._service
        yield _gauge("ready", "Traffic may come", service.no_traffic_because is None)
        yield _gauge("queue_waiting", "Requests waiting to be computed", service.waiting)
        yield _gauge("queue_computing", "Requests being computed", service.computing)
        yield _gauge("cache_bytes", "Of the cache in memory", service.lru.size)
        yield _gauge("cache_entries", "In the cache in memory", len(service.lru))
        if service.redis is not None:
            yield _gauge("redis_up", "Redis answers", service.redis.up)
            yield _gauge("redis_failures", "Commands Redis did not do", service.redis.failures)
        yield from self._snapshot()

    def _snapshot(self) -> Iterator[GaugeMetricFamily]:
        if self._service.live is None:
            return
        index = self._service.live.index
        snapshot = index.latest
        info = GaugeMetricFamily(
            "fashionbert_snapshot_info",
            "The snapshot that is searched, and the model; always 1",
            labels=["snapshot", "model"],
        )
        # Less the number of the last write (`00000007+12`): each would be a series of its own.
        info.add_metric([snapshot.base.name, snapshot.model_id], 1)
        yield info
        yield _gauge("snapshot_writes", "The last write in it", snapshot.sequence)
        yield _gauge("snapshot_stuck", "A newer one cannot be shown", index.problem is not None)
        yield _gauge("snapshot_products", "Products in it", len(snapshot))
        yield _gauge("snapshot_pictures", "Pictures in it", snapshot.pictures)
        yield _gauge("snapshot_age_seconds", "Since it was built", age_seconds(snapshot.created))


def age_seconds(created: str) -> float:
    """Seconds since a time in ISO 8601."""
    return (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"fashionbert_{name}", text, value=float(value))
