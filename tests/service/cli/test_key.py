from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from service.security import Keys

Shell = Callable[..., Any]


@pytest.mark.parametrize("scope", ["search", "admin"])
def test_new_prints_a_key_and_its_line(scope: str, shell: Shell) -> None:
    ran = shell("key", "new", "--name", "shop", "--scope", scope)
    assert ran.code == 0
    secret, line = ran.out.splitlines()
    key = Keys(line).find(secret)
    assert key is not None
    assert (key.name, key.scope) == ("shop", scope)
    assert secret not in ran.err


def test_a_name_that_cannot_be(shell: Shell) -> None:
    ran = shell("key", "new", "--name", "a b")
    assert ran.code == 2
    assert ran.err.startswith("error: the key: a name is")
