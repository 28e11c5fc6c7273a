from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.json_size import check_values, count_values
from service.api.problems import ProblemError

TEXTS = st.text(alphabet='ab\\",[{}]:é\n')
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
)


def values(value: Any) -> int:
    """How many values one is, with those in it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(values, inner))


def empty(value: Any) -> int:
    """How many objects and lists in it have nothing in them."""
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return sum(map(empty, inner)) + (not value)


@given(VALUES, st.booleans())
def test_the_count_is_of_values_and_not_of_what_stands_in_strings(value: Any, ascii: bool) -> None:
    """Between brackets there is one more than there are commas, or nothing."""
    text = json.dumps(value, ensure_ascii=ascii).encode()
    assert count_values(text) == values(value) - 1 + empty(value)


def test_the_limit() -> None:
    check_values(b"[%s]" % b",".join([b"1"] * 100), 100)
    check_values(b'["%s"]' % (b"," * 10_000), 100)
    for text in (b"[%s]" % b",".join([b"1"] * 101), b'["\\\\"%s]' % (b",1" * 100), b"[" * 101):
        with pytest.raises(ProblemError, match="more than the 100 values"):
            check_values(text, 100)
