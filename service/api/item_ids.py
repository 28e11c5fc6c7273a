"""Items' ids in addresses: `{item_id:item}` takes anything, where Starlette's `path` would not take
a line break, and would drop one at the end.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from starlette.convertors import PathConvertor, register_url_convertor

from service.api.patterns import STRIPPED
from service.products import WriteLimits


class _Anything(PathConvertor):
    regex = r"(?s:.*)"


register_url_convertor("item", _Anything())

ItemId = Annotated[str, Path(description="percent-encoded; slashes need not be")]
#: An id that a write may make; what is none is refused by `service.products.check_id`.
NewItemId = Annotated[
    str,
    Path(
        description="percent-encoded; slashes need not be. Without blanks at its ends",
        json_schema_extra={
            "minLength": 1,
            "maxLength": WriteLimits().max_id_characters,
            "pattern": STRIPPED,
        },
    ),
]
