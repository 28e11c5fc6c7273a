"""For schemathesis: what the OpenAPI document of the service cannot say.

Pictures that are ones; and which refusals of a request that fits the document are right, because
they depend on the catalogue or the settings.
"""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image


def _picture(form: str, colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 32), colour).save(buffer, form)
    return buffer.getvalue()


_PICTURES = {
    f"image/{form.lower()}": [_picture(form, colour) for colour in ("red", "navy")]
    for form in ("JPEG", "PNG", "WEBP")
}
for _type, _files in _PICTURES.items():
    schemathesis.openapi.media_type(_type, st.sampled_from(_files))
_ENCODED = [base64.b64encode(file).decode() for files in _PICTURES.values() for file in files]
schemathesis.openapi.format("byte", st.sampled_from(_ENCODED))

_LIMITS = {"out_of_range", "text_too_long", "too_many_bytes"}  # are settings
_ATTRIBUTES = {"unknown_attribute", "invalid_filter"}
_FILES = {"not_an_image", "unsupported_format", "invalid_base64"}  # of files drawn at random
_CODES = {
    "search_text": _LIMITS | _ATTRIBUTES,
    "search_image": _LIMITS | _ATTRIBUTES | _FILES | {"url_refused"},
    "match": _LIMITS | _FILES,
    # The template may need a field that is not there.
    "put_item": _LIMITS | _FILES | {"empty_text"},
}
_DETAILS = {
    # JSON as text, for a list in a form has a part for each of its items.
    "search_image": ("body.facets: ",),
    "put_item": (
        "needs at least one picture",
        "in this catalogue",
        "send the pictures as files",  # schemathesis draws one for a list, and gives it no name
    ),
}


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Give a product what a new one needs, so that it is there for what follows it."""
    if context.operation.definition.raw["operationId"] != "put_item":
        return body
    if isinstance(body, dict) and "product" not in body and not body.get("images"):
        return {"title": "A hat", **body, "images": _ENCODED[:1]}
    return body


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failed check is one: not if the catalogue or a setting is why, and not if a batch
    has refused one of its operations alone."""
    operation = context.operation.definition.raw["operationId"]
    if type(failure).__name__ == "AcceptedNegativeData" and operation == "write_items":
        return json.loads(response.content)["refused"] == 0
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    problem = json.loads(response.content)
    if problem["code"] in _CODES.get(operation, ()):
        return False
    return not any(known in problem["detail"] for known in _DETAILS.get(operation, ()))
