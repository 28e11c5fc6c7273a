from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from index.delta_records import Delete, Put
from index.live import LiveSnapshot
from index.live_index import LiveIndex
from index.snapshot import Snapshot

MakePut = Callable[..., Put]


@pytest.fixture
def live(own_root: Path) -> Iterator[LiveIndex]:
    with LiveIndex.open(own_root) as live:
        yield live


def query(snapshot: LiveSnapshot, seed: int = 0) -> NDArray[np.float32]:
    vector = np.random.default_rng(seed).normal(size=snapshot.manifest.sizes.recall_size)
    unit: NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def by_hand(embeddings: NDArray[np.float32], rows: list[int], vector: Any, k: int) -> list[int]:
    scores = embeddings @ vector
    return [rows[at] for at in np.argsort(-scores, kind="stable")[:k]]


def check_against(
    snapshot: LiveSnapshot, base: Snapshot, puts: dict[str, Put], deleted: set[str]
) -> None:
    """That a snapshot reads as the products of a plain dictionary would."""
    wanted = {id for id in base.items.ids if id not in deleted} | set(puts)
    assert len(snapshot) == len(wanted)
    assert {item.id for item in snapshot.items} == wanted
    assert snapshot.rows == len(snapshot.items)
    rows = {id: snapshot.row_of(id) for id in wanted}
    for id in deleted - set(puts):
        with pytest.raises(KeyError):
            snapshot.row_of(id)
    for id, row in rows.items():
        assert snapshot.item(row).id == id
        pictures = snapshot.image_rows(row)
        assert (snapshot.product_of_image[list(pictures)] == row).all()
        if id not in puts:
            assert snapshot.item(row) == base.item(base.row_of(id))
            continue
        put = puts[id]
        assert snapshot.item(row) == put.item
        assert [snapshot.image(picture)[0] for picture in pictures] == list(put.pictures)
        np.testing.assert_array_equal(
            snapshot.image_states(pictures).values, put.image_states.values
        )
        np.testing.assert_array_equal(snapshot.text_states([row]).values, put.text_states.values)
    for seed in range(3):
        vector = query(snapshot, seed)
        for k in (1, 5, len(wanted) + 50):
            texts, similarities = snapshot.search_texts(vector, k)
            embeddings = snapshot.text_embeddings(texts)
            np.testing.assert_allclose(similarities, embeddings @ vector, atol=1e-5)
            assert (np.diff(similarities) <= 0).all()
            everything = snapshot.text_embeddings([*rows.values()])
            best = by_hand(everything, [*rows.values()], vector, k)
            assert sorted(texts) == sorted(best)
            pictures_found, _ = snapshot.search_images(vector, k)
            owned = [each for row in rows.values() for each in snapshot.image_rows(row)]
            best = by_hand(snapshot.image_embeddings(owned), owned, vector, k)
            assert sorted(pictures_found) == sorted(best)


def test_without_writes_it_is_the_snapshot(live: LiveIndex, snapshot: Snapshot) -> None:
    latest = live.latest
    assert latest.name == snapshot.name
    assert len(latest) == latest.rows == len(snapshot)
    assert latest.product_of_image is latest.base.product_of_image
    check_against(latest, snapshot, {}, set())


def test_puts_replacements_and_deletions(
    live: LiveIndex, snapshot: Snapshot, make_put: MakePut
) -> None:
    old = live.latest
    new, second = make_put("new", views=2), make_put("second", colour="red")
    replaced = make_put(snapshot.ids[3], 1)
    latest = live.exchange([new, replaced, Delete(snapshot.ids[0]), Delete("nobody"), second])[1]
    puts = {put.id: put for put in (new, replaced, second)}
    deleted = {snapshot.ids[0]}
    assert latest.name == f"{snapshot.name}+5"
    check_against(latest, snapshot, puts, deleted)
    check_against(old, snapshot, {}, set())  # a search that runs sees what it saw

    again = make_put("new", 2, views=3)
    back = make_put(snapshot.ids[0], 2)
    latest = live.exchange([Delete("second"), again, back, Delete(snapshot.ids[3])])[1]
    check_against(latest, snapshot, {"new": again, snapshot.ids[0]: back}, {snapshot.ids[3]})
    check_against(live.latest, snapshot, {"new": again, back.id: back}, {snapshot.ids[3]})


def test_one_batch_may_write_a_product_twice(
    live: LiveIndex, snapshot: Snapshot, make_put: MakePut
) -> None:
    id = snapshot.ids[7]
    last = make_put("a", 3)
    latest = live.exchange(
        [make_put("a"), Delete("a"), make_put(id), make_put("a", 2), Delete(id), last]
    )[1]
    check_against(latest, snapshot, {"a": last}, {id})


def test_masks_are_of_all_rows(live: LiveIndex, snapshot: Snapshot, make_put: MakePut) -> None:
    gone = live.exchange([make_put("a", views=2), make_put("b")])[1].row_of("b")
    latest = live.exchange([Delete("b"), Delete(snapshot.ids[1])])[1]
    vector = query(latest)
    among = np.zeros(latest.rows, dtype=np.bool_)
    among[[0, 1, 2, latest.row_of("a"), gone]] = True
    assert set(latest.search_texts(vector, 10, among=among)[0]) == {0, 2, latest.row_of("a")}
    pictures = among[latest.product_of_image]
    wanted = {each for row in (0, 2, latest.row_of("a")) for each in latest.image_rows(row)}
    assert set(latest.search_images(vector, 50, among=pictures)[0]) == wanted
    among[:] = False
    assert len(latest.search_texts(vector, 10, among=among)[0]) == 0


def test_states_of_both_sides_are_padded_alike(
    live: LiveIndex, snapshot: Snapshot, make_put: MakePut
) -> None:
    put = make_put("a", 1)
    latest = live.exchange([put])[1]
    rows = [5, latest.row_of("a"), 0]
    states = latest.text_states(rows)
    for place, row in enumerate(rows):
        alone = latest.text_states([row])
        length = int(np.count_nonzero(alone.scales))
        np.testing.assert_array_equal(states.values[place, :length], alone.values[0, :length])
        np.testing.assert_array_equal(states.scales[place, :length], alone.scales[0, :length])
        assert not states.values[place, length:].any()
        assert not states.scales[place, length:].any()
    assert latest.text_states([]).values.shape[0] == 0
    np.testing.assert_array_equal(latest.text_embeddings([rows[1]])[0], put.text_embedding)


def test_every_product_may_be_deleted(
    live: LiveIndex, snapshot: Snapshot, make_put: MakePut
) -> None:
    latest = live.exchange([Delete(id) for id in snapshot.ids])[1]
    assert len(latest) == 0
    assert len(latest.search_images(query(latest), 5)[0]) == 0
    assert len(latest.search_texts(query(latest), 5)[0]) == 0
    put = make_put("a")
    check_against(live.exchange([put])[1], snapshot, {"a": put}, set(snapshot.ids))


def test_picture_rows_end(live: LiveIndex, make_put: MakePut) -> None:
    latest = live.exchange([make_put("a", views=2)])[1]
    for _ in range(2):
        with pytest.raises(IndexError):
            latest.image(len(latest.product_of_image))
        live.exchange([make_put("b")])  # which an earlier version does not have


def test_columns_have_the_rows_that_count(
    live: LiveIndex, snapshot: Snapshot, make_put: MakePut
) -> None:
    name = next(n for n, type in snapshot.items.attribute_types.items() if type == "string")
    values = [item.attributes.get(name) for item in snapshot.items]
    common = max(set(values), key=values.count)
    gone = values.index(common)
    latest = live.exchange(
        [
            Delete(snapshot.ids[gone]),
            make_put("a", **{name: common, "price": 7, "new": True}),
            make_put("b", **{name: "never seen", "price": 8.5}),
            make_put("c", **{name: common}),
            Delete("c"),
        ]
    )[1]
    column = latest.items.column(name)
    assert column is not None
    part = column.parts["string"]
    wanted = {row for row, value in enumerate(values) if value == common} - {gone}
    assert set(np.flatnonzero(part.any_of([common]))) == wanted | {latest.row_of("a")}
    assert set(np.flatnonzero(part.any_of(["never seen"]))) == {latest.row_of("b")}
    top, distinct = part.top(None, 100)
    assert dict(top)[common] == len(wanted) + 1
    assert distinct == len(set(values) - {None}) + 1
    assert part.present.sum() == len(latest)
    price = latest.items.column("price")
    assert price is not None
    assert price.type == "double"
    below = price.parts["number"].compare("lte", 8)
    assert {latest.row_of("a")} == {row for row in np.flatnonzero(below) if row >= len(snapshot)}
    new = latest.items.column("new")
    assert new is not None
    assert set(np.flatnonzero(new.present)) == {latest.row_of("a")}
    assert latest.items.column("none") is None
    types = latest.items.attribute_types
    assert (types["price"], types["new"]) == ("double", "bool")


def test_rows_of_replaced_puts_are_given_up(
    live: LiveIndex, snapshot: Snapshot, make_put: MakePut
) -> None:
    put = make_put("a", 0)
    for seed in range(80):
        put = make_put("a", seed)
        live.exchange([put])
    assert live.latest.rows < len(snapshot) + 40
    check_against(live.latest, snapshot, {"a": put}, set())
