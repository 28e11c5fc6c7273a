"""How many values a JSON text has, counted before it is read: `[[],[],…]` of a megabyte becomes
thirty in Python, and a fault of each value as much again in the answer."""

from __future__ import annotations

import numpy as np

from service.api.problems import ProblemError
from service.products import WriteLimits

_LIMITS = WriteLimits()

#: Of a search: room for the longest filter (`index.filter_parser`) and all other fields.
SEARCH_VALUES = 4_096
#: Of a product: room for all attributes with all their values.
PRODUCT_VALUES = _LIMITS.max_attributes * (_LIMITS.max_values + 1) + 1_024
#: Of a batch in JSON; where each operation is a line, it may have as many as a product.
BATCH_VALUES = 1_000_000


def match_values(max_pairs: int) -> int:
    """Of a match: room for pairs with every field, null or not, and for some too many of them,
    which are counted where other limits are checked."""
    return 1_024 + 8 * max_pairs


def count_values(text: bytes) -> int:
    """At least as many as a JSON text in UTF-8 has, less one: its commas and opening brackets
    outside of strings. What is no JSON has no more before the place where a parser gives up."""
    # A pair of backslashes is one in a string; of those that are left, one hides a quote.
    plain = np.frombuffer(text.replace(rb"\\", b"").replace(rb"\"", b""), dtype=np.uint8)
    inside = np.bitwise_xor.accumulate(plain == ord('"'))
    counted = (plain == ord(",")) | (plain == ord("[")) | (plain == ord("{"))
    return int(np.count_nonzero(counted & ~inside))


def check_values(text: bytes, most: int) -> None:
    """Refuse JSON of more than `most` values.

    Raises:
        ProblemError: it has more.
    """
    # Quickly, whatever stands in strings, for nearly all texts.
    if len(text) <= most or sum(map(text.count, (b",", b"[", b"{"))) <= most:
        return
    if count_values(text) > most:
        raise ProblemError(
            "invalid_request", f"the JSON has more than the {most:,} values that are taken"
        )
