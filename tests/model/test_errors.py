from __future__ import annotations

import pytest

from model import errors
from model.errors import FashionBertError, TextError

SUBJECTS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, FashionBertError)
]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_subject_has_a_code_that_a_case_may_narrow(subject: type[FashionBertError]) -> None:
    plain, narrowed = subject("what, where"), subject("what, where", code="some_case")
    assert str(plain) == str(narrowed) == "what, where"
    assert plain.code == subject.code
    assert narrowed.code == "some_case"
    assert subject("again").code == subject.code, "a case's code is its own"


def test_codes_are_snake_case_and_texts_say_which() -> None:
    assert all(subject.code.replace("_", "").isalpha() for subject in SUBJECTS)
    assert all(subject.code == subject.code.lower() for subject in SUBJECTS)
    assert TextError("empty").code == "empty_text"
