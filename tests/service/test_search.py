from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from index.snapshot import Snapshot
from model.bundle import Bundle
from model.engine import Engine
from model.errors import ImageError, SnapshotError, TextError
from model.preprocess import decode_image
from service.errors import QueryError
from service.search import Recalled, Searcher

QUERIES = ("red dress", "a long navy coat with buttons", "x")


def by_recall(similarities: np.ndarray, products: np.ndarray) -> list[int]:
    """Distinct products in the order of their best similarity."""
    order = products[np.argsort(-similarities, kind="stable")]
    return list(dict.fromkeys(order.tolist()))


@pytest.fixture(scope="module")
def products(snapshot: Snapshot) -> np.ndarray:
    products = np.asarray(snapshot.product_of_image)
    assert len(products) > len(snapshot), "some product must have several pictures"
    return products


@pytest.mark.parametrize("query", QUERIES)
def test_text_search_is_exhaustive_matching_when_everything_is_a_candidate(
    query: str, searcher: Searcher, snapshot: Snapshot, engine: Engine, products: np.ndarray
) -> None:
    encoded = engine.encode_texts([query])
    logits = engine.match(encoded.states, snapshot.image_states(np.arange(len(products))))
    similarities = snapshot.image_embeddings(np.arange(len(products))) @ encoded.embeddings[0]
    best = {p: float(logits[products == p].max()) for p in range(len(snapshot))}

    result = searcher.search_text(query, k=len(snapshot), candidates=len(snapshot))

    assert [hit.rank for hit in result.hits] == list(range(1, len(snapshot) + 1))
    assert {hit.item.id for hit in result.hits} == set(snapshot.ids)
    for hit in result.hits:
        row = snapshot.row_of(hit.item.id)
        views = products == row
        assert hit.score == pytest.approx(best[row], abs=1e-4)
        assert hit.recall_score == pytest.approx(float(similarities[views].max()), abs=1e-5)
        assert hit.view is not None
        assert logits[views][hit.view] == pytest.approx(best[row], abs=1e-4)
        assert hit.item == snapshot.item(row)
        assert hit.probability == pytest.approx(
            float(engine.probability(np.float32([hit.score]))[0]), rel=1e-4
        )
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores, reverse=True)
    places = [snapshot.row_of(hit.item.id) for hit in result.hits]
    expected = by_recall(similarities, products)
    assert [hit.recall_rank for hit in result.hits] == [expected.index(p) + 1 for p in places]
    assert not result.truncated


def test_without_rerank_the_order_is_the_recall(
    searcher: Searcher, snapshot: Snapshot, engine: Engine, products: np.ndarray
) -> None:
    embedding = engine.encode_texts([QUERIES[0]]).embeddings[0]
    similarities = snapshot.image_embeddings(np.arange(len(products))) @ embedding
    result = searcher.search_text(QUERIES[0], k=20, rerank=False)
    expected = [snapshot.ids[row] for row in by_recall(similarities, products)[:20]]
    assert [hit.item.id for hit in result.hits] == expected
    assert [hit.recall_rank for hit in result.hits] == list(range(1, 21))
    assert all(hit.score is None and hit.probability is None for hit in result.hits)
    for hit in result.hits:
        views = similarities[products == snapshot.row_of(hit.item.id)]
        assert hit.view == int(views.argmax())


@pytest.mark.parametrize("direction", ["text", "image"])
def test_beyond_the_candidates_the_recall_goes_on(
    direction: str, searcher: Searcher, snapshot: Snapshot, photo: bytes
) -> None:
    def search(**options: int | bool) -> list[tuple[str, float | None, int]]:
        result = (
            searcher.search_text(QUERIES[0], **options)  # type: ignore[arg-type]
            if direction == "text"
            else searcher.search_image(photo, **options)  # type: ignore[arg-type]
        )
        return [(hit.item.id, hit.score, hit.recall_rank) for hit in result.hits]

    recall = [id for id, _, _ in search(k=30, rerank=False)]
    hits = search(k=30, candidates=10)
    assert {id for id, _, _ in hits[:10]} == set(recall[:10])
    scores = [score for _, score, _ in hits[:10]]
    assert None not in scores
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    assert [id for id, _, _ in hits[10:]] == recall[10:]
    assert all(score is None for _, score, _ in hits[10:])
    # Fewer hits are the first of more, whatever the recall fetched beyond the candidates.
    assert [id for id, _, _ in search(k=4, candidates=10)] == [id for id, _, _ in hits[:4]]
    assert len(search(k=1000, candidates=1)) == len(snapshot)


def test_picture_search_is_exhaustive_matching_of_texts(
    searcher: Searcher, snapshot: Snapshot, engine: Engine, photo: bytes
) -> None:
    encoded = engine.encode_images(decode_image(photo, engine.image_size)[None])
    rows = np.arange(len(snapshot))
    logits = engine.match(snapshot.text_states(rows), encoded.states)
    similarities = snapshot.text_embeddings(rows) @ encoded.embeddings[0]
    result = searcher.search_image(photo, k=len(snapshot), candidates=len(snapshot))
    assert len(result.hits) == len(snapshot)
    order = by_recall(similarities, rows)
    for hit in result.hits:
        row = snapshot.row_of(hit.item.id)
        assert hit.score == pytest.approx(float(logits[row]), abs=1e-4)
        assert hit.recall_score == pytest.approx(float(similarities[row]), abs=1e-5)
        assert hit.recall_rank == order.index(row) + 1
        assert hit.view is None
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]


def test_search_by_item_uses_its_first_stored_picture(
    searcher: Searcher, snapshot: Snapshot, engine: Engine, products: np.ndarray
) -> None:
    row = int(products[np.flatnonzero(np.diff(products) == 0)[0]])
    assert snapshot.item(row).views > 1
    states = snapshot.image_states([snapshot.image_rows(row)[0]])
    logits = engine.match(snapshot.text_states(np.arange(len(snapshot))), states)
    result = searcher.search_item(snapshot.ids[row], k=len(snapshot), candidates=len(snapshot))
    assert {hit.item.id for hit in result.hits} == set(snapshot.ids), "itself is not left out"
    for hit in result.hits:
        expected = float(logits[snapshot.row_of(hit.item.id)])
        assert hit.score == pytest.approx(expected, abs=1e-4)
    assert "encode" not in result.timings


def test_timings_name_the_stages(searcher: Searcher, photo: bytes) -> None:
    text = searcher.search_text("red").timings
    assert list(text) == ["encode", "recall", "gather", "rerank", "total"]
    image = searcher.search_image(photo).timings
    assert list(image) == ["decode", "encode", "recall", "gather", "rerank", "total"]
    assert list(searcher.search_text("red", rerank=False).timings) == ["encode", "recall", "total"]
    for stages in (text, image):
        assert all(spent >= 0 for spent in stages.values())
        assert sum(stages.values()) - stages["total"] <= stages["total"] + 0.01


def test_a_long_query_is_cut_and_says_so(searcher: Searcher) -> None:
    assert searcher.search_text("striped " * 120).truncated


def test_searches_at_the_same_time_do_not_disturb_each_other(
    searcher: Searcher, photo: bytes
) -> None:
    work = [lambda q=query: searcher.search_text(q).hits for query in QUERIES]
    work.append(lambda: searcher.search_image(photo).hits)
    alone = [[hit.item.id for hit in one()] for one in work]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda one: [hit.item.id for hit in one()], work * 5))
    assert together == alone * 5


@pytest.mark.parametrize("k", [0, -1, 1001, 10**6])
def test_k_out_of_range(k: int, searcher: Searcher) -> None:
    with pytest.raises(QueryError, match=rf"^k is {k}: choose 1 to 1,000$") as caught:
        searcher.search_text("red", k=k)
    assert (caught.value.code, caught.value.field) == ("out_of_range", "k")


def test_candidates_out_of_range(searcher: Searcher, photo: bytes) -> None:
    for candidates in (0, 1001):
        with pytest.raises(QueryError, match="candidates is"):
            searcher.search_image(photo, candidates=candidates)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "empty_text"),
        (" \n\t", "empty_text"),
        ("a" * 10_000, "text_too_long"),
        ("red \udcff", "invalid_text"),
    ],
)
def test_queries_that_are_refused(query: str, code: str, searcher: Searcher) -> None:
    with pytest.raises(TextError) as caught:
        searcher.search_text(query)
    assert caught.value.code == code


def test_pictures_that_are_refused(searcher: Searcher) -> None:
    with pytest.raises(ImageError):
        searcher.search_image(b"no picture")


def test_an_unknown_item(searcher: Searcher) -> None:
    with pytest.raises(QueryError, match="no item 'nobody' in snapshot 00000001") as caught:
        searcher.search_item("nobody")
    assert caught.value.code == "unknown_item"


def test_another_models_snapshot_is_refused(snapshot: Snapshot, other_bundle: Bundle) -> None:
    with pytest.raises(SnapshotError) as caught:
        Searcher(Engine(other_bundle, threads=1), snapshot)
    assert snapshot.model_id in str(caught.value)
    assert other_bundle.model_id in str(caught.value)


def test_until_takes_every_row_up_to_the_last_candidates_first() -> None:
    rows = np.arange(6)
    products = np.array([3, 3, 1, 3, 2, 1])
    recalled = Recalled.of(rows, np.linspace(1, 0, 6, dtype=np.float32), products)
    assert [*recalled.first] == [3, 1, 2]
    assert [recalled.until(n) for n in (1, 2, 3, 4)] == [1, 3, 5, 5]
