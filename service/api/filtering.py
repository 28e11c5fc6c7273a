"""Filters and facets as requests and answers have them."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema
from pydantic_core import from_json

from index.facets import Facet
from model.product import Scalar
from service.api.json_size import SEARCH_VALUES, check_values
from service.api.strict import AS_INTEGER
from service.errors import QueryError
from service.records import DEFAULT_FACET_VALUES, SearchLimits, Selection

_MAX_LEVELS = 64  # of JSON; a filter that is within its own limits has fewer

_FILTERS = (
    "which products may be found, by their attributes: all of them must hold. A value, a list of "
    "values of which any will do, bounds `gt`, `gte`, `lt`, `lte`, `exists`, and `not`; filters "
    "are combined by `and`, `or` and `not`. Of an attribute of type `strings`, any of a product's "
    "values will do. A product without the attribute matches no value, and "
    "so every `not`. `attributes.and` is an attribute named `and`. `GET /v1/index` lists the "
    "attributes and their types"
)
_FACETS = (
    "attributes whose values are counted, over all products that the filters leave, whatever the "
    "query"
)
_FILTER_EXAMPLES: list[dict[str, Any]] = [
    {"colour": ["black", "navy"], "price": {"lte": 50}},
    {"or": [{"brand": "Acme"}, {"price": {"lt": 20}}], "not": {"season": {"exists": True}}},
    {"colour": {"not": "black"}},
]
_FACET_EXAMPLES = [["colour", "price"]]


def _walkable(filters: object) -> object:
    """Refuse JSON so deep that what walks through it could not follow, and names in it that are no
    Unicode: pydantic cannot write them, nor has an item such an attribute.
    """
    level = [filters]
    for _ in range(_MAX_LEVELS):
        for outer in level:
            if isinstance(outer, dict):
                _check_names(outer)
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return filters
    raise QueryError(
        f"the filter is nested more than {_MAX_LEVELS} deep", field="filters", code="invalid_filter"
    )


def _check_names(filters: dict[str, object]) -> None:
    for name in filters:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise QueryError(
                f"the filter's name {name!a:.80} is no valid Unicode: send it as UTF-8",
                field="filters",
                code="invalid_filter",
            ) from error


def _few(facets: object) -> object:
    """Refuse facets of which there are too many before each is looked at, as a search does after
    (`service.selection`)."""
    most = SearchLimits().max_facets
    if isinstance(facets, list) and len(facets) > most:
        raise QueryError(
            f"there are {len(facets):,} facets: ask for at most {most}", field="facets"
        )
    return facets


def _decoded(value: object) -> object:
    """The field of a form as JSON."""
    if not isinstance(value, str):
        return value
    check_values(value.encode("utf-8", "surrogatepass"), SEARCH_VALUES)
    try:
        return from_json(value)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error


def _json_text(schema: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema(
        {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    )


Filters = Annotated[
    dict[str, Any] | None,
    BeforeValidator(_walkable),
    Field(description=_FILTERS, examples=_FILTER_EXAMPLES),
]
Facets = Annotated[
    list[str],
    BeforeValidator(_few),
    Field(
        description=_FACETS,
        examples=_FACET_EXAMPLES,
        json_schema_extra={"maxItems": SearchLimits().max_facets},
    ),
]
MaxFacetValues = Annotated[
    int,
    Field(
        description="most values that a facet lists; at most 100",
        json_schema_extra={"minimum": 1},
    ),
    AS_INTEGER,
]


class Selecting(BaseModel):
    """What a search request says of filters and facets."""

    filters: Filters = None
    facets: Facets = []
    max_facet_values: MaxFacetValues = DEFAULT_FACET_VALUES

    def selection(self) -> Selection:
        """As the searcher takes it."""
        return Selection(self.filters, tuple(self.facets), self.max_facet_values)


class SelectingByForm(Selecting):
    """The same as fields of a form: JSON as text."""

    filters: Annotated[
        Filters,
        BeforeValidator(_decoded),
        Field(
            description=f"{_FILTERS}. A part that is JSON",
            examples=_FILTER_EXAMPLES,
        ),
        WithJsonSchema({"type": "object"}),
    ] = None
    facets: Annotated[
        Facets,
        BeforeValidator(_decoded),
        Field(
            description=f"{_FACETS}. JSON as text",
            examples=[json.dumps(one) for one in _FACET_EXAMPLES],
        ),
        _json_text(
            {
                "type": "array",
                "items": {"type": "string"},
                "maxItems": SearchLimits().max_facets,
            }
        ),
    ] = []


class FacetValue(BaseModel):
    """A value and how many products have it."""

    value: Scalar
    count: int


class FacetBucket(BaseModel):
    """Products with a number of at least `low` and below `high`; in the last bucket at most."""

    low: float
    high: float
    count: int


class FacetSpread(BaseModel):
    """How numbers are spread: up to ten buckets of one width."""

    min: int | float
    max: int | float
    histogram: list[FacetBucket]


class FacetOut(BaseModel):
    """One attribute, counted over all products that the filters leave."""

    type: str = Field(examples=["string"])
    missing: int = Field(description="products without the attribute")
    distinct: int = Field(description="different values")
    values: list[FacetValue] = Field(description="the most frequent ones, most frequent first")
    spread: FacetSpread | None = Field(description="of numbers; null where there are none")

    @classmethod
    def of(cls, facet: Facet) -> FacetOut:
        """From the index's facet."""
        spread = facet.spread
        return cls(
            type=facet.type,
            missing=facet.missing,
            distinct=facet.distinct,
            values=[FacetValue(value=value, count=count) for value, count in facet.values],
            spread=None
            if spread is None
            else FacetSpread(
                min=spread.smallest,
                max=spread.largest,
                histogram=[
                    FacetBucket(low=one.low, high=one.high, count=one.count)
                    for one in spread.histogram
                ],
            ),
        )
