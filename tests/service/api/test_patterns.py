from __future__ import annotations

import re
import sys

import pytest

from service.api.patterns import NOT_BLANK, STRIPPED


def test_every_blank_is_listed_and_nothing_else() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    assert re.sub(NOT_BLANK, "", everything) == "".join(filter(str.isspace, everything))


@pytest.mark.parametrize("text", ["", " ", "a ", "\u3000a", "a\x1f", "\n", "a\n"])
def test_blank_at_an_end(text: str) -> None:
    assert text != text.strip() or not text
    assert re.fullmatch(STRIPPED, text) is None


@pytest.mark.parametrize("text", ["a", "a b", "a\nb", "\ufeff", "été ✓"])
def test_no_blank_at_an_end(text: str) -> None:
    assert re.search(STRIPPED, text)
