"""Items by the id that a caller gives."""

from __future__ import annotations

from index.live import AnySnapshot
from service.errors import QueryError

_SHOWN = 80  # characters of an id that a message repeats


def row_of(snapshot: AnySnapshot, item_id: str, field: str = "id") -> int:
    """The row of a product; `field` is the request's field that names it.

    Raises:
        QueryError: there is no such item, with the code `unknown_item`.
    """
    try:
        return snapshot.row_of(item_id)
    except KeyError:
        shown = item_id if len(item_id) <= _SHOWN else item_id[: _SHOWN - 1] + "…"
        raise QueryError(
            f"there is no item {shown!r} in snapshot {snapshot.name}",
            field=field,
            code="unknown_item",
        ) from None


def first_image_row(snapshot: AnySnapshot, item_id: str, field: str = "id") -> int:
    """The row of a product's first picture.

    Raises:
        QueryError: as `row_of`.
    """
    return snapshot.image_rows(row_of(snapshot, item_id, field))[0]
