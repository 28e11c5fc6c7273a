"""`GET /v1/index`, `GET /v1/status`, `GET /metrics`, `GET /healthz`, `GET /readyz`.

They take HEAD too, which some load balancers probe with; the server leaves the body out.
"""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.api.problems import ProblemError, responses
from service.api.report import StatusReport, report
from service.api.schemas import IndexResponse, Status
from service.api.state import AnyService, ReadySearcher, ReadyService
from service.metrics import CONTENT_TYPE

router = APIRouter(tags=["status"])


@router.head("/v1/index", include_in_schema=False)
@router.get("/v1/index", responses=responses("not_ready"))
async def get_index(service: ReadyService, searcher: ReadySearcher) -> IndexResponse:
    """What is being searched, with which model, and within which limits."""
    snapshot, model, settings = searcher.snapshot, searcher.engine.bundle.manifest, service.settings
    return IndexResponse(
        snapshot=snapshot.name,
        created=snapshot.created,
        products=len(snapshot),
        pictures=snapshot.pictures,
        text_template=snapshot.manifest.text_template,
        recall=dict(snapshot.manifest.recall),
        attributes=dict(snapshot.items.attribute_types),
        model=searcher.engine.model_id,
        precision=model.precision,
        image_size=model.image_size,
        max_text_tokens=model.max_text_tokens,
        max_k=settings.max_k,
        max_candidates=settings.max_candidates,
        candidates=settings.candidates,
        max_pairs=settings.max_pairs,
        max_query_characters=settings.max_query_characters,
        max_upload_bytes=settings.max_upload_bytes,
    )


@router.head("/v1/status", include_in_schema=False)
@router.get("/v1/status", responses=responses())
async def get_status(service: AnyService) -> StatusReport:
    """How the service does, for a person to read; the numbers for machines are at /metrics."""
    return report(service)


@router.head("/metrics", include_in_schema=False)
@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus's text format",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **responses(),
    },
)
async def get_metrics(service: AnyService) -> Response:
    """Prometheus metrics."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def get_health() -> Status:
    """The process lives."""
    return Status(status="ok")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=responses("not_ready"))
async def get_readiness(service: AnyService) -> Status:
    """A real search has gone through, and nobody asked the process to end: traffic may come."""
    if (why := service.no_traffic_because) is not None:
        raise ProblemError("not_ready", why)
    return Status(status="ready")
