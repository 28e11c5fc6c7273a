"""`POST /v1/match`."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.api.bodies import describe_json, json_body
from service.api.json_size import match_values
from service.api.problems import responses
from service.api.schemas import MatchRequest, MatchResponse, PairScore, decode_base64
from service.api.state import ready
from service.records import MatchResult, Pair

router = APIRouter(prefix="/v1", tags=["search"])


@router.post(
    "/match",
    openapi_extra=describe_json(MatchRequest),
    responses=responses(
        "bad_request",
        "malformed_json",
        "empty_text",
        "invalid_text",
        "invalid_base64",
        "not_an_image",
        "truncated",
        "unknown_item",
        "slow_body",
        "too_many_bytes",
        "too_many_pixels",
        "unsupported_format",
        "unsupported_media_type",
        "invalid_request",
        "out_of_range",
        "text_too_long",
        "out_of_memory",
        "not_ready",
    ),
)
async def match(request: Request) -> MatchResponse:
    """Score pairs of a text and a picture."""
    service, searcher = await ready(request)
    body = await json_body(request, MatchRequest, match_values(service.settings.max_pairs))

    def work() -> MatchResult:
        return searcher.match(
            [
                Pair(
                    text=pair.text,
                    text_item_id=pair.text_item_id,
                    image=None
                    if pair.image is None
                    else decode_base64(pair.image, f"pairs.{number}.image"),
                    image_item_id=pair.image_item_id,
                )
                for number, pair in enumerate(body.pairs)
            ]
        )

    result = await service.match(work)
    return MatchResponse(
        scores=[
            PairScore(score=score, probability=probability, truncated=truncated)
            for score, probability, truncated in zip(
                result.scores.tolist(),
                result.probabilities.tolist(),
                result.truncated.tolist(),
                strict=True,
            )
        ],
        model=searcher.engine.model_id,
        snapshot=searcher.snapshot.name,
        timings=result.timings if body.timings else None,
    )
