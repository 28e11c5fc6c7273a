"""`GET /v1/index`, `GET /healthz`, `GET /readyz`."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.problems import responses
from service.api.schemas import IndexResponse, Status
from service.api.state import ReadySearcher, ReadyService

router = APIRouter(tags=["status"])


@router.get("/v1/index", responses=responses("not_ready"))
async def get_index(service: ReadyService, searcher: ReadySearcher) -> IndexResponse:
    """What is being searched, with which model, and within which limits."""
    snapshot, model, settings = searcher.snapshot, searcher.engine.bundle.manifest, service.settings
    return IndexResponse(
        snapshot=snapshot.name,
        created=snapshot.created,
        products=len(snapshot),
        pictures=len(snapshot.product_of_image),
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


@router.get("/healthz")
async def get_health() -> Status:
    """The process lives."""
    return Status(status="ok")


@router.get("/readyz", responses=responses("not_ready"))
async def get_readiness(service: ReadyService) -> Status:
    """A real search has gone through: traffic may come."""
    return Status(status="ready")
