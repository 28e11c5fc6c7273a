"""What the REST interface takes and gives."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from index.items import Item
from model.product import Attribute
from service.api.filtering import FacetOut, Selecting, SelectingByForm
from service.api.patterns import NOT_BLANK
from service.api.strict import AS_BOOLEAN, AS_INTEGER, AS_NUMBER, Strict
from service.errors import QueryError
from service.records import DEFAULT_K, Hit

# The upper ends are settings and are checked in one place for HTTP and shell: `Searcher`. The
# lower end stands here for whoever reads the OpenAPI document.
_FROM_ONE: dict[str, Any] = {"minimum": 1}
_NOT_BLANK: dict[str, Any] = {"minLength": 1, "pattern": NOT_BLANK}
_NOT_EMPTY: dict[str, Any] = {"minItems": 1}

K = Annotated[
    int, Field(description="how many hits", json_schema_extra=_FROM_ONE), AS_INTEGER
]  # a default cannot stand in an alias
Candidates = Annotated[
    int | None,
    Field(
        description="how many products the recall hands to the reranker; a `k` above it is filled "
        "up in recall order. By default what the service is set to (64)",
        json_schema_extra=_FROM_ONE,
    ),
    AS_INTEGER,
]
Rerank = Annotated[bool, Field(description="false gives the order of the recall"), AS_BOOLEAN]
Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64", "format": "byte"})]
BudgetMs = Annotated[
    float | None,
    Field(
        description="milliseconds for the search: the best of the recall are reranked first, and "
        "when the time is up the rest follows in recall order; `reranked` of the answer says how "
        "many were. Null is as long as the service allows",
        gt=0,
        allow_inf_nan=False,
    ),
    AS_NUMBER,
]
WantTimings = Annotated[bool, Field(description="add the milliseconds of each stage"), AS_BOOLEAN]


def _one_of(*names: str) -> dict[str, Any]:
    """Of fields that may be left out or null, exactly one is a string."""
    return {
        "oneOf": [{"required": [name], "properties": {name: {"type": "string"}}} for name in names]
    }


class TextSearch(Strict, Selecting):
    """A search by text."""

    query: str = Field(
        description="what to look for; at most 1,000 characters unless set else",
        json_schema_extra=_NOT_BLANK,
    )
    k: K = DEFAULT_K
    candidates: Candidates = None
    rerank: Rerank = True
    budget_ms: BudgetMs = None
    timings: WantTimings = False

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "black midi dress with long sleeves", "k": 3, "timings": True},
                {
                    "query": "summer dress",
                    "filters": {"colour": ["black", "navy"], "price": {"lte": 50}},
                    "facets": ["product_type"],
                },
            ]
        }
    )


class ImageSearch(Strict, Selecting):
    """A search by picture, as JSON."""

    image: Base64 | None = Field(
        None, description="a JPEG, PNG or WebP in base64; a data: URL is taken too"
    )
    item_id: str | None = Field(None, description="search with the first picture of this item")
    image_url: str | None = Field(
        None,
        description="https address of a picture on one of the hosts that the service may fetch "
        "from; by default there are none",
        max_length=2000,
    )
    k: K = DEFAULT_K
    candidates: Candidates = None
    rerank: Rerank = True
    budget_ms: BudgetMs = None
    timings: WantTimings = False

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"item_id": "demo-02401", "k": 3, "timings": True}],
            **_one_of("image", "item_id", "image_url"),
        }
    )

    @model_validator(mode="after")
    def _one_picture(self) -> Self:
        given = [one for one in (self.image, self.item_id, self.image_url) if one is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of image, item_id and image_url")
        return self


def _without_null(schema: dict[str, Any]) -> None:
    """A field of a form is left out where one of JSON may be null."""
    for field in schema["properties"].values():
        kinds = [kind for kind in field.pop("anyOf", ()) if kind != {"type": "null"}]
        for kind in kinds:
            field.update(kind)
        if field.get("default", ...) is None:
            del field["default"]


class ImageUpload(Strict, SelectingByForm):
    """A search by picture, as a form: the fields beside the file `image`."""

    k: K = DEFAULT_K
    candidates: Candidates = None
    rerank: Rerank = True
    budget_ms: BudgetMs = None
    timings: WantTimings = False

    model_config = ConfigDict(json_schema_extra=_without_null)


class MatchPair(Strict):
    """A text and a picture, each given itself or as an item's."""

    text: str | None = Field(None, json_schema_extra=_NOT_BLANK)
    text_item_id: str | None = None
    image: Base64 | None = Field(None, description="in base64, as in a search")
    image_item_id: str | None = Field(None, description="the first picture of this item")

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [_one_of("text", "text_item_id"), _one_of("image", "image_item_id")]
        }
    )

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if (self.text is None) == (self.text_item_id is None):
            raise ValueError("give exactly one of text and text_item_id")
        if (self.image is None) == (self.image_item_id is None):
            raise ValueError("give exactly one of image and image_item_id")
        return self


class MatchRequest(Strict):
    """Pairs to score."""

    pairs: list[MatchPair] = Field(
        description="at most 256 unless set else", json_schema_extra=_NOT_EMPTY
    )
    timings: WantTimings = False

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "pairs": [
                        {"text": "red striped t-shirt", "image_item_id": "demo-02401"},
                        {"text_item_id": "demo-02401", "image_item_id": "demo-02402"},
                    ]
                }
            ]
        }
    )


class ItemOut(BaseModel):
    """A product as the snapshot has it."""

    id: str
    title: str
    text: str = Field(description="what the model reads of it")
    attributes: dict[str, Attribute] = Field(
        description="the feed's other columns; those of type `strings` are lists"
    )
    views: int = Field(description="how many pictures it has: view 0 to views - 1")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "000017",
                    "title": "Black midi dress",
                    "text": "Black midi dress. A dress with long sleeves.",
                    "attributes": {"colour": "black", "price": 59.0, "sizes": ["S", "M"]},
                    "views": 2,
                }
            ]
        }
    )

    @classmethod
    def of(cls, item: Item) -> ItemOut:
        """From the snapshot's item."""
        return cls(
            id=item.id,
            title=item.title,
            text=item.text,
            attributes=item.attributes,
            views=item.views,
        )


class HitOut(BaseModel):
    """One product found."""

    rank: int = Field(description="from 1")
    id: str
    score: float | None = Field(
        description="the raw match logit, by which hits are ordered; null where the matcher did "
        "not look: with rerank=false, beyond the candidates, and where the time was up or it failed"
    )
    probability: float | None = Field(description="the score calibrated; null where that is")
    recall_score: float = Field(description="cosine of the recall embeddings")
    recall_rank: int = Field(description="place in the recall, from 1")
    view: int | None = Field(
        description="which of the product's pictures matched best; null in a search by picture"
    )
    item: ItemOut

    @classmethod
    def of(cls, hit: Hit) -> HitOut:
        """From the searcher's hit."""
        return cls(
            rank=hit.rank,
            id=hit.item.id,
            score=hit.score,
            probability=hit.probability,
            recall_score=hit.recall_score,
            recall_rank=hit.recall_rank,
            view=hit.view,
            item=ItemOut.of(hit.item),
        )


Timings = Annotated[
    dict[str, float] | None,
    Field(
        description="milliseconds of filter, facets, decode, encode, recall, gather, rerank (those "
        "that happened) and total, when asked for; of cache and total where the answer was there "
        "already",
        examples=[{"encode": 4.1, "recall": 0.3, "gather": 0.9, "rerank": 310.2, "total": 316.0}],
    ),
]


class Degraded(BaseModel):
    """Why an answer is less than was asked for."""

    reason: str = Field(
        description="`reranker_failed`, where the hits are in recall order, or "
        "`reranker_over_budget`, where those are that the service left the reranker no time for",
        examples=["reranker_over_budget"],
    )


class SearchResponse(BaseModel):
    """The answer to a search."""

    hits: list[HitOut]
    matching: int = Field(description="how many products the filters leave")
    candidates: int = Field(0, description="how many of them the recall handed to the reranker")
    reranked: int = Field(
        0, description="how many of those the matcher scored: fewer where the time was up"
    )
    facets: dict[str, FacetOut] | None = Field(
        None, description="by the names that were asked for; null when none were"
    )
    truncated: bool = Field(description="the query was longer than the model reads, and was cut")
    model: str = Field(examples=["fb-0123456789abcdef"])
    snapshot: str = Field(examples=["00000007"])
    degraded: Degraded | None = Field(None, description="null when the answer is all it should be")
    timings: Timings = None


class PairScore(BaseModel):
    """The score of one pair, in the order of the request."""

    score: float = Field(description="the raw match logit", examples=[2.31])
    probability: float = Field(description="the score calibrated", examples=[0.91])
    truncated: bool = Field(description="the text was longer than the model reads, and was cut")


class MatchResponse(BaseModel):
    """The answer to a match request."""

    scores: list[PairScore]
    model: str = Field(examples=["fb-0123456789abcdef"])
    snapshot: str = Field(examples=["00000007"])
    timings: Timings = None


class IndexResponse(BaseModel):
    """What is being searched, and with what."""

    snapshot: str = Field(examples=["00000007"])
    created: str = Field(examples=["2026-11-20T23:10:00+00:00"])
    products: int
    pictures: int
    text_template: str | None = Field(
        description="what the products' texts were made of", examples=["{title}. {description}"]
    )
    recall: dict[str, str] = Field(examples=[{"image": "exact", "text": "exact"}])
    attributes: dict[str, str] = Field(
        description="the items' attributes and their types: `string`, `int64`, `double`, `bool`, "
        "`strings` where a product may have several, `mixed`",
        examples=[{"colour": "string", "price": "double", "sizes": "strings"}],
    )
    model: str = Field(examples=["fb-0123456789abcdef"])
    precision: str = Field(examples=["int8"])
    image_size: int = Field(description="side of the square the model sees, in pixels")
    max_text_tokens: int = Field(description="longest text the model reads")
    max_k: int
    max_candidates: int
    candidates: int = Field(description="candidates of a search that does not say")
    max_pairs: int
    max_query_characters: int
    max_upload_bytes: int


class Status(BaseModel):
    """How the process does."""

    status: str = Field(examples=["ok"])


def decode_base64(data: str, field: str) -> bytes:
    """The bytes of a base64 string or of a base64 `data:` URL.

    Raises:
        QueryError: it is neither, with the code `invalid_base64`.
    """
    if data.startswith("data:"):
        data = data.partition(",")[2]
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise QueryError(
            f"{field} is not base64: send the picture's bytes in base64, without blanks",
            field=field,
            code="invalid_base64",
        ) from error
