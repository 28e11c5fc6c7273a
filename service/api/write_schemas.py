"""What the routes that change the catalogue take and give."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from model.product import Attribute
from service.api.patterns import NOT_BLANK
from service.api.schemas import Base64, decode_base64
from service.api.strict import Strict
from service.products import ProductFields, WriteLimits
from service.writes import Removal, Written


def _attribute(value: object) -> Attribute | None:
    """An attribute's value; one check in place of a union, which would tell of each alternative."""
    if value is None or isinstance(value, str | int | float):  # true and false are ints
        return value
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise PydanticCustomError(
        "attribute", "an attribute is a string, a number, true or false, a list of strings, or null"
    )


def _few_attributes(attributes: object) -> object:
    """Refuse very many at once: each of them could be an error."""
    most = WriteLimits().max_attributes
    if isinstance(attributes, dict) and len(attributes) > most:
        raise PydanticCustomError(
            "too_many_attributes", "a product has at most {most} attributes", {"most": most}
        )
    return attributes


_SCALARS = ("boolean", "integer", "number", "string", "null")
AttributeIn = Annotated[
    Attribute | None,
    PlainValidator(_attribute),
    WithJsonSchema(
        {
            "anyOf": [
                *({"type": kind} for kind in _SCALARS),
                {
                    "type": "array",
                    "items": {"type": "string"},
                    "maxItems": WriteLimits().max_values,
                },
            ]
        }
    ),
]


class ProductIn(Strict):
    """A product's fields, less its id and its pictures."""

    title: str | None = Field(None, description="by default the text")
    description: str | None = Field(
        None, description="for the template only: it is not kept as a field"
    )
    text: str | None = Field(
        None,
        description="what the model reads of it; by default the catalogue's template makes it of "
        "title, description and attributes",
    )
    attributes: Annotated[dict[str, AttributeIn], BeforeValidator(_few_attributes)] = Field(
        default_factory=dict,
        json_schema_extra={
            "propertyNames": {
                "minLength": 1,
                "maxLength": WriteLimits().max_id_characters,
                "pattern": NOT_BLANK,
            },
            "maxProperties": WriteLimits().max_attributes,
        },
        description="strings, numbers, booleans or lists of strings, of the types the catalogue "
        "has; null and empty ones are left out",
    )

    def fields(self, id: str, pictures: tuple[bytes, ...] | None) -> ProductFields:
        """As the writer takes it."""
        return ProductFields(
            id=id,
            title=self.title,
            description=self.description,
            text=self.text,
            attributes=self.attributes,
            pictures=pictures,
        )


_EXAMPLE: dict[str, Any] = {
    "title": "Black midi dress",
    "description": "A dress with long sleeves.",
    "attributes": {"colour": "black", "price": 59.0, "sizes": ["S", "M"]},
    "images": [  # a PNG of 8 pixels a side
        "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mNcIKLBgA0wMeAAg1MCALGoAOwZn4BV"
        "AAAAAElFTkSuQmCC"
    ],
}
_Images = Annotated[
    list[Base64],
    Field(max_length=WriteLimits().max_pictures, json_schema_extra={"minItems": 1}),
]


class ProductWithImages(ProductIn):
    """A product's fields and its pictures."""

    images: _Images | None = Field(
        None,
        description="its pictures, JPEG, PNG or WebP in base64, in order; without this field the "
        "product keeps those that it has",
    )

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    def pictures(self) -> tuple[bytes, ...] | None:
        """The pictures' bytes.

        Raises:
            QueryError: one is not base64.
        """
        if self.images is None:
            return None
        return tuple(
            decode_base64(data, f"images.{number}") for number, data in enumerate(self.images)
        )


class PutOperation(ProductWithImages):
    """Add a product, or replace the one with its id."""

    op: Literal["put"]
    id: str

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"op": "put", "id": "new-1", **_EXAMPLE}]}
    )


class DeleteOperation(Strict):
    """Remove a product."""

    op: Literal["delete"]
    id: str

    model_config = ConfigDict(json_schema_extra={"examples": [{"op": "delete", "id": "new-1"}]})


Operation = Annotated[PutOperation | DeleteOperation, Field(discriminator="op")]


def as_operation(body: PutOperation | DeleteOperation) -> ProductFields | Removal:
    """An operation of a batch as the writer takes it.

    Raises:
        QueryError: a picture is not base64.
    """
    if isinstance(body, DeleteOperation):
        return Removal(body.id)
    return body.fields(body.id, body.pictures())


class WriteResponse(BaseModel):
    """A write that is durable."""

    id: str
    outcome: Literal["created", "replaced", "deleted", "absent"] = Field(
        description="`absent`: there was nothing to delete"
    )
    snapshot: str = Field(
        description="the first version that has it: searches that name this one or a later have "
        "seen it",
        examples=["00000007+12"],
    )
    truncated: bool = Field(description="the text is longer than the model reads, and was cut")

    @classmethod
    def of(cls, written: Written) -> WriteResponse:
        """From the writer's."""
        return cls(
            id=written.id,
            outcome=written.outcome,
            snapshot=written.version,
            truncated=written.truncated,
        )


class Refusal(BaseModel):
    """Why an operation was not taken."""

    code: str = Field(description="as of problem details")
    detail: str


class OperationResult(BaseModel):
    """What became of one operation, in the order of the request."""

    id: str | None = Field(description="null where the operation has none that can be read")
    outcome: Literal["created", "replaced", "deleted", "absent", "refused"]
    truncated: bool = False
    error: Refusal | None = Field(None, description="of one that was refused")


class BatchResponse(BaseModel):
    """What became of a batch: the operations that were taken are durable."""

    results: list[OperationResult]
    refused: int = Field(description="how many operations were not taken")
    snapshot: str = Field(
        description="the first version that has the others; the newest one where there are none",
        examples=["00000007+12"],
    )
