"""Items' ids in addresses: `{item_id:item}` takes anything, where Starlette's `path` would not take
a line break, and would drop one at the end.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import Depends, Path, Request
from starlette.convertors import PathConvertor, register_url_convertor

from service.api.patterns import STRIPPED
from service.api.problems import ProblemError
from service.products import WriteLimits


class _Anything(PathConvertor):
    regex = r"(?s:.*)"


class _NoImage(PathConvertor):
    regex = r"(?s:.*)(?<!/image)"  # that address is a picture's


register_url_convertor("item", _Anything())
register_url_convertor("written_item", _NoImage())


async def _check_utf8(request: Request) -> None:
    """Refuse an address that is not UTF-8: the server reads its bad bytes as U+FFFD, which would
    make one id of many.

    Raises:
        ProblemError: it is not.
    """
    raw: bytes = request.scope.get("raw_path") or b""  # which ASGI lets a server leave out
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise ProblemError(
            "invalid_request", "the id is not UTF-8: percent-encode its bytes as UTF-8 has them"
        ) from error


#: For every router whose addresses have ids in them.
UTF8_ADDRESS = Depends(_check_utf8)

ItemId = Annotated[str, Path(description="UTF-8, percent-encoded; slashes need not be")]
#: An id that may be deleted: also one that a write may not make.
GoneItemId = Annotated[
    str,
    Path(
        description="UTF-8, percent-encoded; slashes need not be. Without blanks at its ends",
        json_schema_extra={"minLength": 1, "pattern": STRIPPED},
    ),
]
#: An id that a write may make; what is none is refused by `service.products.check_id`.
NewItemId = Annotated[
    str,
    Path(
        description="UTF-8, percent-encoded; slashes need not be. Without blanks at its ends, and "
        "not with `/image` there, which would be the address of a picture",
        json_schema_extra={
            "minLength": 1,
            "maxLength": WriteLimits().max_id_characters,
            "pattern": STRIPPED,
        },
    ),
]
