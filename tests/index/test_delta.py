"""The arrays that writes are added to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from index.delta import GrowingRows, PutRows

SIZE = 4


def put(number: int, views: int) -> Any:
    """Whose vectors are all its number."""
    head = SimpleNamespace(
        text_embedding=np.full(SIZE, number, np.float32),
        image_embeddings=np.full((views, SIZE), number, np.float32),
        image_states=[None] * views,
    )
    return SimpleNamespace(head=head)


def test_what_was_handed_out_stays_as_it_was() -> None:
    rows = GrowingRows(np.int32)
    rows.append(np.arange(3, dtype=np.int32))
    before = rows.all()
    for start in range(3, 3003, 6):
        rows.append(np.arange(start, start + 6, dtype=np.int32))
    assert before.tolist() == [0, 1, 2]
    assert rows.all().tolist() == list(range(3003))


def test_a_put_that_memory_has_no_room_for_is_added_to_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = PutRows(SIZE)
    rows.append(put(0, 2))

    def full(count: int) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(rows.product_of_image, "make_room", full)
        with pytest.raises(MemoryError):
            rows.append(put(1, 3))
    assert rows.append(put(2, 1)) == 1
    assert rows.text_embeddings.all()[:, 0].tolist() == [0, 2]
    assert rows.image_embeddings.all()[:, 0].tolist() == [0, 0, 2]
    assert rows.product_of_image.all().tolist() == [0, 0, 1]
    assert (rows.first_image, rows.views) == ([0, 2, 3], [(0, 0), (0, 1), (1, 0)])
