"""`GET /v1/status`: how the service does, for a person to read."""

from __future__ import annotations

import time

from pydantic import BaseModel, Field

from service.api.gauges import age_seconds
from service.api.state import Service


class SnapshotReport(BaseModel):
    """What is searched."""

    name: str
    created: str
    age: str = Field(examples=["2 h 10 min"])
    products: int
    pictures: int
    model: str
    precision: str
    matcher: str = Field(
        description="what scores pairs: compiled, or onnxruntime where the processor, the bundle "
        "or FASHIONBERT_NATIVE_MATCHER rules that out"
    )
    stuck: bool = Field(description="a newer one is there and cannot be shown; the log says why")


class QueueReport(BaseModel):
    """What is being done."""

    in_flight: int = Field(description="requests being answered, this one among them")
    waiting: int = Field(description="to be computed")
    computing: int


class CacheReport(BaseModel):
    """What is kept."""

    entries: int
    bytes: int
    max_bytes: int
    lookups: dict[str, int] = Field(
        description="by cache and where the value was found", examples=[{"answers memory": 12}]
    )


class Quantiles(BaseModel):
    """Milliseconds, over the last so many."""

    p50: float
    p95: float
    p99: float
    of_last: int


class StatusReport(BaseModel):
    """How the service does. Counts are since it was started."""

    status: str = Field(description="ready, or why it is not")
    version: str
    uptime: str = Field(examples=["3 d 4 h"])
    snapshot: SnapshotReport | None = Field(description="null until one is open")
    queue: QueueReport
    requests: dict[str, int] = Field(
        description="by method, route and status", examples=[{"POST /v1/search/text 200": 812}]
    )
    milliseconds: dict[str, Quantiles] = Field(description="by stage of a search, and by route")
    cache: CacheReport
    redis: str = Field(description="`off`, `up` or `down`")
    redis_failures: int
    degraded: dict[str, int] = Field(description="answers that are less than asked, by reason")
    refused: dict[str, int] = Field(description="requests not let in or not computed, by reason")
    rate_limited: dict[str, int] = Field(description="by name of the key")


def report(service: Service) -> StatusReport:
    """The service as it is now."""
    counts = service.metrics.counts()
    redis = service.redis
    return StatusReport(
        status=service.no_traffic_because or "ready",
        version=service.version,
        uptime=_duration(time.time() - service.started),
        snapshot=_snapshot(service),
        queue=QueueReport(
            in_flight=service.metrics.now_in_flight,
            waiting=service.waiting,
            computing=service.computing,
        ),
        requests=counts["request_seconds"],
        milliseconds={
            name: Quantiles.model_validate(one) for name, one in service.metrics.quantiles().items()
        },
        cache=CacheReport(
            entries=len(service.lru),
            bytes=service.lru.size,
            max_bytes=service.lru.max_bytes,
            lookups=counts["cache"],
        ),
        redis="off" if redis is None else "up" if redis.up else "down",
        redis_failures=0 if redis is None else redis.failures,
        degraded=counts["degraded"],
        refused=counts["refused"],
        rate_limited=counts["rate_limited"],
    )


def _snapshot(service: Service) -> SnapshotReport | None:
    if service.live is None:
        return None
    snapshot, index = service.live.index.latest, service.live.index
    return SnapshotReport(
        name=snapshot.name,
        created=snapshot.created,
        age=_duration(age_seconds(snapshot.created)),
        products=len(snapshot),
        pictures=snapshot.pictures,
        model=snapshot.model_id,
        precision=service.live.engine.bundle.manifest.precision,
        matcher="compiled" if service.live.engine.is_native else "onnxruntime",
        stuck=index.problem is not None,
    )


def _duration(seconds: float) -> str:
    """The two largest units: `3 d 4 h`, `12 min 5 s`."""
    rest = max(0, int(seconds))
    parts = []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
