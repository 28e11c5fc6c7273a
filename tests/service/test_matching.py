from __future__ import annotations

import pytest

from index.snapshot import Snapshot
from model.engine import Engine
from model.errors import ImageError, TextError
from service.callers import AbandonedError, Caller, current_caller
from service.errors import QueryError
from service.matching import match_pairs
from service.records import Pair, SearchLimits
from service.search import Searcher


def test_a_pair_scores_what_a_search_gives_it(searcher: Searcher, snapshot: Snapshot) -> None:
    hits = searcher.search_text("red dress", k=8).hits
    singles = [hit for hit in hits if hit.view == 0]
    pairs = [Pair(text=" red dress ", image_item_id=hit.item.id) for hit in singles]
    result = searcher.match(pairs)
    assert result.scores.tolist() == pytest.approx([hit.score for hit in singles], abs=1e-4)
    assert result.probabilities.tolist() == pytest.approx(
        [hit.probability for hit in singles], abs=1e-5
    )


def test_what_is_given_and_what_is_stored_score_alike(
    searcher: Searcher, snapshot: Snapshot
) -> None:
    item, other = snapshot.item(5), snapshot.item(9)
    picture = snapshot.image(snapshot.image_rows(5)[0])[0]
    given, mixed, swapped, again, stored = searcher.match(
        [
            Pair(text=item.text, image=picture),
            Pair(text=item.text, image_item_id=item.id),
            Pair(text_item_id=other.id, image=picture),
            Pair(text=item.text, image=picture),
            Pair(text_item_id=item.id, image_item_id=item.id),
        ]
    ).scores.tolist()
    # The demo's pictures are small, so the snapshot serves them as they were encoded.
    assert given == pytest.approx(stored, abs=1e-4)
    assert mixed == pytest.approx(stored, abs=1e-4)
    assert again == given
    assert swapped != pytest.approx(stored, abs=1e-4)


def test_cut_texts_are_told_apart(searcher: Searcher, snapshot: Snapshot) -> None:
    id = snapshot.ids[0]
    pairs = [
        Pair(text="short", image_item_id=id),
        Pair(text_item_id=id, image_item_id=id),
        Pair(text="striped " * 120, image_item_id=id),
    ]
    assert searcher.match(pairs).truncated.tolist() == [False, False, True]


def test_what_is_wrong_with_a_pair_names_it(searcher: Searcher, snapshot: Snapshot) -> None:
    id = snapshot.ids[0]
    good = Pair(text="red", image_item_id=id)
    with pytest.raises(TextError, match=r"^pair 1: the text is empty"):
        searcher.match([good, Pair(text=" ", image_item_id=id)])
    with pytest.raises(ImageError, match=r"^pair 2: this is not a picture"):
        searcher.match([good, good, Pair(text="red", image=b"?")])
    with pytest.raises(QueryError, match="no item 'nobody'") as caught:
        searcher.match([good, Pair(text_item_id="nobody", image_item_id=id)])
    assert caught.value.field == "pairs.1.text_item_id"
    with pytest.raises(QueryError, match="pair 0 has no image"):
        searcher.match([Pair(text="red")])


def test_the_number_of_pairs_is_limited(engine: Engine, snapshot: Snapshot) -> None:
    limits = SearchLimits(max_pairs=2)
    pair = Pair(text="red", image_item_id=snapshot.ids[0])
    assert len(match_pairs(engine, snapshot, limits, [pair, pair]).scores) == 2
    for pairs in ([], [pair] * 3):
        with pytest.raises(QueryError, match=f"there are {len(pairs)} pairs: send 1 to 2"):
            match_pairs(engine, snapshot, limits, pairs)


def test_pictures_of_a_caller_who_hung_up_are_not_encoded(searcher: Searcher, photo: bytes) -> None:
    token = current_caller.set(Caller(gone=True))
    try:
        with pytest.raises(AbandonedError):
            searcher.match([Pair(text="red", image=photo)])
        with pytest.raises(AbandonedError):
            searcher.match([Pair(text="red", image=b"not even looked at")])
        with pytest.raises(AbandonedError):
            searcher.search_image(photo)
        with pytest.raises(AbandonedError):
            searcher.search_text("red", rerank=False)
    finally:
        current_caller.reset(token)
