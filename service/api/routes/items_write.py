"""`PUT` and `DELETE /v1/items/{id}`, `POST /v1/items:batch`: the catalogue changes while it is
served.

What these routes answer with 200 or 201 is durable, and found by every process that serves the same
folder within two seconds. A put replaces the whole product; only the pictures may be left as they
are, by not sending any. Deleting what is not there is no error, so that every write may be sent
again when its answer was lost.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from model.errors import FashionBertError
from service.api.bodies import aside, content_type, validated_json
from service.api.forms import read_form
from service.api.item_ids import UTF8_ADDRESS, GoneItemId, NewItemId
from service.api.json_size import BATCH_VALUES, PRODUCT_VALUES, check_values
from service.api.problems import ProblemError, responses
from service.api.state import ReadyService, ReadyWriter
from service.api.write_schemas import (
    BatchResponse,
    DeleteOperation,
    Operation,
    OperationResult,
    ProductIn,
    ProductWithImages,
    PutOperation,
    Refusal,
    WriteResponse,
    as_operation,
)
from service.errors import QueryError
from service.products import ProductFields, WriteLimits
from service.writes import Removal, Written

router = APIRouter(prefix="/v1", tags=["items"], dependencies=[UTF8_ADDRESS])

_STORING = (
    "write_failed",
    "write_busy",
    "out_of_memory",
    "not_ready",
)  # a deletion is never too many
_PUTTING = (*_STORING, "delta_full")
_BODY = ("bad_request", "malformed_json", "unsupported_media_type", "slow_body", "too_many_bytes")
_PRODUCT = (
    "invalid_request",
    "empty_text",
    "invalid_text",
    "text_too_long",
    "invalid_base64",
    "not_an_image",
    "truncated",
    "too_many_pixels",
    "unsupported_format",
)
_LINES = ("application/x-ndjson", "application/jsonl", "application/json-lines")
_LINE = re.compile(rb"\S[^\r\n]*")  # that is not blank
#: Or why it cannot be read, and its id where that can be.
_Operation = ProductFields | Removal | tuple[str | None, Refusal]
#: What pydantic says in words of its own.
_TOLD = {
    "union_tag_invalid": "`op` is neither `put` nor `delete`",
    "union_tag_not_found": "an operation has an `op`: `put` or `delete`",
    "model_attributes_type": "an operation is an object",
}
_OPERATION: TypeAdapter[PutOperation | DeleteOperation] = TypeAdapter(Operation)

#: The bodies for OpenAPI, which FastAPI cannot tell: the routes read them themselves.
_PRODUCT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ProductWithImages.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["product"],
                    "properties": {
                        "product": {
                            **ProductIn.model_json_schema(),
                            "description": "the fields of the JSON body, less images, as JSON",
                        },
                        "image": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "the pictures, JPEG, PNG or WebP files, in order; "
                            "without any the product keeps those that it has",
                        },
                    },
                    "additionalProperties": False,
                },
                "encoding": {
                    "product": {"contentType": "application/json"},
                    "image": {"contentType": "image/jpeg, image/png, image/webp"},
                },
            },
        },
    }
}
_BATCH_SCHEMA = {
    "type": "array",
    "minItems": 1,
    "maxItems": WriteLimits().max_operations,
    "items": {"oneOf": [PutOperation.model_json_schema(), DeleteOperation.model_json_schema()]},
}
_BATCH_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _BATCH_SCHEMA},
            "application/x-ndjson": {
                "schema": {
                    "type": "string",
                    "minLength": 1,
                    "pattern": r"[^\t-\r ]",
                    "description": "one operation a line",
                }
            },
        },
    }
}


def _links(*operations: str) -> dict[str, Any]:
    """For OpenAPI: what else may be done with the item that a request was about."""
    return {
        name: {"operationId": name, "parameters": {"item_id": "$request.path.item_id"}}
        for name in operations
    }


async def _product(request: Request) -> tuple[ProductIn, tuple[bytes, ...] | None]:
    """The body of a put, by its content type: the fields and the pictures."""
    kind = content_type(request)
    body = await request.body()
    if kind == "application/json":
        return await aside(len(body), partial(_json_product, body))
    if kind != "multipart/form-data":
        raise ProblemError(
            "unsupported_media_type",
            f"the body is {kind or 'of no type'}: send application/json or multipart/form-data",
        )
    return await aside(len(body), partial(_form_product, body, request.headers["content-type"]))


def _form_product(data: bytes, content_type: str) -> tuple[ProductIn, tuple[bytes, ...] | None]:
    products, images = [], []
    for part in read_form(data, content_type, max_files=64):
        if part.name == "product":
            products.append(part.data)
        elif part.name != "image":
            raise _invalid(part.name, "send a field `product` and files `image`")
        elif part.is_file:
            images.append(part.data)
        else:
            raise _invalid("image", "send the pictures as files")
    if len(products) != 1:
        raise _invalid("product", "send the product's fields as JSON, once")
    fields = validated_json(ProductIn, products[0], PRODUCT_VALUES, "product")
    return fields, tuple(images) or None


def _json_product(data: bytes) -> tuple[ProductIn, tuple[bytes, ...] | None]:
    product = validated_json(ProductWithImages, data, PRODUCT_VALUES)
    return product, product.pictures()


def _invalid(field: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": "missing", "loc": ("body", field), "msg": message}])


@router.put(
    "/items/{item_id:written_item}",
    openapi_extra=_PRODUCT_BODY,
    responses={
        200: {"links": _links("get_item", "get_item_image", "delete_item")},
        201: {
            "model": WriteResponse,
            "description": "the product is new",
            "links": _links("get_item", "get_item_image", "delete_item"),
        },
        **responses(*_BODY, *_PRODUCT, *_PUTTING),
    },
)
async def put_item(
    item_id: NewItemId,
    product: Annotated[tuple[ProductIn, tuple[bytes, ...] | None], Depends(_product)],
    service: ReadyService,
    writer: ReadyWriter,
    response: Response,
) -> WriteResponse:
    """Add a product, or replace the one with this id."""
    fields, pictures = product
    written = await service.store(partial(writer.put, fields.fields(item_id, pictures)))
    if written.outcome == "created":
        response.status_code = 201
    return WriteResponse.of(written)


@router.delete(
    "/items/{item_id:written_item}",
    responses={
        200: {"links": _links("put_item")},
        **responses("invalid_request", *_STORING),
    },
)
async def delete_item(
    item_id: GoneItemId, service: ReadyService, writer: ReadyWriter
) -> WriteResponse:
    """Remove a product. One that is not there is no error: its outcome is `absent`."""
    return WriteResponse.of(await service.store(partial(writer.delete, item_id)))


async def _operations(request: Request) -> list[_Operation]:
    """The body of a batch: operations, and for those that cannot be read why."""
    kind = content_type(request)
    body = await request.body()
    if kind in _LINES:
        return await aside(len(body), partial(_operations_of_lines, body))
    if kind != "application/json":
        raise ProblemError(
            "unsupported_media_type",
            f"the body is {kind or 'of no type'}: send application/json or application/x-ndjson",
        )
    return await aside(len(body), partial(_operations_of_json, body))


def _operations_of_lines(body: bytes) -> list[_Operation]:
    # One more than are taken, however many there are.
    found = islice(_LINE.finditer(body.removeprefix(BOM_UTF8)), WriteLimits().max_operations + 1)
    lines = [line.group() for line in found]
    _check_number(lines)
    for line in lines:
        check_values(line, PRODUCT_VALUES)
    return [_operation(number, line) for number, line in enumerate(lines)]


def _operations_of_json(body: bytes) -> list[_Operation]:
    check_values(body, BATCH_VALUES)
    try:
        values = from_json(body.removeprefix(BOM_UTF8))
    except ValueError as error:
        raise ProblemError("malformed_json", f"the body is not JSON: {error}") from error
    if not isinstance(values, list):
        raise RequestValidationError(
            [{"type": "list_type", "loc": ("body",), "msg": "send an array of operations"}]
        )
    _check_number(values)
    return [_operation(number, value) for number, value in enumerate(values)]


def _check_number(values: list[Any]) -> None:
    """Refuse too many before each is read: those that cannot be never come to the writer."""
    most = WriteLimits().max_operations
    if len(values) > most:
        raise QueryError(
            f"there are more than {most} operations: send 1 to {most}", field="operations"
        )


def _operation(number: int, data: bytes | Any) -> _Operation:
    id = None
    try:
        value = from_json(data) if isinstance(data, bytes) else data
        if isinstance(value, dict) and isinstance(value.get("id"), str):
            id = value["id"]
        return as_operation(_OPERATION.validate_python(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in (number, *first["loc"][1:]))
        told = _TOLD.get(first["type"], first["msg"])
        return id, Refusal(code="invalid_request", detail=f"{where}: {told}")
    except FashionBertError as error:
        return id, Refusal(code=error.code, detail=str(error))
    except ValueError as error:
        return id, Refusal(code="malformed_json", detail=f"{number}: no JSON ({error})")


@router.post(
    "/items:batch",
    openapi_extra=_BATCH_BODY,
    responses=responses(*_BODY, "invalid_request", "out_of_range", *_PUTTING),
)
async def write_items(
    operations: Annotated[list[_Operation], Depends(_operations)],
    service: ReadyService,
    writer: ReadyWriter,
) -> BatchResponse:
    """Put and delete many products: those that can be taken become visible together.

    The answer has a result for each, in order; look at `refused` before taking it for done.
    """
    taken = [each for each in operations if not isinstance(each, tuple)]
    outcomes: Iterator[Written | FashionBertError] = iter(())
    if taken or not operations:
        outcomes = iter(await service.store(partial(writer.batch, taken)))
    results, version = [], writer.index.latest.name
    for each in operations:
        if isinstance(each, tuple):
            id, refusal = each
            results.append(OperationResult(id=id, outcome="refused", error=refusal))
            continue
        outcome = next(outcomes)
        if isinstance(outcome, FashionBertError):
            refusal = Refusal(code=outcome.code, detail=str(outcome))
            results.append(OperationResult(id=each.id, outcome="refused", error=refusal))
        else:
            version = outcome.version  # which all that were taken share
            results.append(
                OperationResult(
                    id=outcome.id, outcome=outcome.outcome, truncated=outcome.truncated, error=None
                )
            )
    return BatchResponse(
        results=results,
        refused=sum(result.outcome == "refused" for result in results),
        snapshot=version,
    )
