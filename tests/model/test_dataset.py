from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.augmentation import Augmentation
from model.dataset import Batch, TrainingSet
from model.inputs import ImageInputs
from model.preprocess import TextTokenizer
from model.product import Catalogue

SIZE = 16


def training_set(
    catalogue: Catalogue, tokenizer: Path, array: NDArray[np.uint8 | np.float16] | None = None
) -> TrainingSet:
    """A catalogue whose picture number n is a square of the colour n."""
    if array is None:
        views = sum(len(product.images) for product in catalogue.products)
        array = np.broadcast_to(
            np.arange(views, dtype=np.uint8)[:, None, None, None], (views, SIZE, SIZE, 3)
        )
    return TrainingSet(catalogue, ImageInputs(array), tokenizer, 48, "product_type")


@pytest.fixture
def products(learn: Catalogue, tokenizer: Path) -> TrainingSet:
    return training_set(learn, tokenizer)


def balanced(learn: Catalogue, tokenizer: Path) -> TrainingSet:
    """48 products in groups of 8, 16 and 24."""
    sizes = {"a": 8, "b": 16, "c": 24}
    groups = [name for name, size in sizes.items() for _ in range(size)]
    chosen = [
        replace(product, attributes={"product_type": group})
        for product, group in zip(learn.products, groups, strict=False)
    ]
    return training_set(replace(learn, products=chosen), tokenizer)


def test_an_epoch_is_a_pure_function(products: TrainingSet) -> None:
    def order(epoch: int = 0, same_group: float = 0.5, seed: int = 7) -> list[list[int]]:
        rows: list[list[int]] = products.epoch_order(epoch, 10, same_group, seed).tolist()
        return rows

    first = order()
    np.random.seed(99)
    torch.manual_seed(99)
    assert order() == first
    assert order(epoch=1) != first
    assert order(seed=8) != first


@pytest.mark.parametrize("same_group", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("batch_size", [7, 32, 96])
def test_an_epoch_has_each_product_at_most_once(
    products: TrainingSet, batch_size: int, same_group: float
) -> None:
    order = products.epoch_order(3, batch_size, same_group, 0)
    assert order.shape == (96 // batch_size, batch_size)
    assert order.dtype == np.int64
    assert len(np.unique(order)) == order.size
    assert order.min() >= 0
    assert order.max() < 96
    # What is left out one time has its turn another time.
    seen = {
        int(row)
        for epoch in range(20)
        for row in products.epoch_order(epoch, batch_size, same_group, 0).flat
    }
    assert len(seen) == 96


def test_an_epoch_too_small_for_a_batch_is_empty(products: TrainingSet) -> None:
    assert products.epoch_order(0, 97, 0.5, 0).shape == (0, 97)


def test_batches_of_one_group(learn: Catalogue, tokenizer: Path) -> None:
    products = balanced(learn, tokenizer)

    def pure(same_group: float) -> float:
        orders = [products.epoch_order(epoch, 8, same_group, 0) for epoch in range(10)]
        return float(
            np.mean([len(set(products.groups[rows])) == 1 for order in orders for rows in order])
        )

    assert pure(1.0) == 1.0
    assert 0.15 < pure(0.5) < 0.85
    assert pure(0.0) < 0.15


def test_batches_of_one_group_come_in_any_order(learn: Catalogue, tokenizer: Path) -> None:
    products = balanced(learn, tokenizer)
    firsts = {
        int(products.groups[products.epoch_order(epoch, 8, 1.0, 0)[0, 0]]) for epoch in range(30)
    }
    assert firsts == {0, 1, 2}


def rows_of(products: TrainingSet, batch: Batch) -> list[int]:
    """Which products a batch holds: the colour of a picture says which one it is."""
    pictures = batch.images["pixels"][:, 0, 0, 0].numpy()
    return [int(np.searchsorted(products.first_image, p, "right")) - 1 for p in pictures]


def all_batches(
    products: TrainingSet, *, start: int = 0, process: int = 0, processes: int = 1
) -> list[Batch]:
    return list(
        products.batches(
            2,
            batch_size=6,
            same_group=0.5,
            seed=1,
            start=start,
            process=process,
            processes=processes,
        )
    )


def test_a_batch_holds_what_belongs_together(products: TrainingSet, learn: Catalogue) -> None:
    order = products.epoch_order(2, 6, 0.5, 1)
    batches = all_batches(products)
    assert len(batches) == len(order) == 16
    for rows, batch in zip(order, batches, strict=True):
        assert rows_of(products, batch) == rows.tolist()
        texts = [learn.products[row].text for row in rows]
        assert batch.text_numbers.tolist() == products.text_numbers[rows].tolist()
        lengths = batch.attention_mask.sum(1)
        assert batch.input_ids.shape == batch.attention_mask.shape
        assert len(batch.input_ids) == 6
        assert batch.input_ids.shape[1] >= int(lengths.max())
        assert [len(set(texts[:i])) for i in range(7)] == [
            len(set(batch.text_numbers[:i].tolist())) for i in range(7)
        ]
        assert (batch.input_ids[batch.attention_mask == 0] == 0).all()


def test_tokens_are_the_tokenizers(
    products: TrainingSet, learn: Catalogue, tokenizer: Path
) -> None:
    alone = TextTokenizer(tokenizer, 48).encode([learn.products[17].text])
    batch = products.batch(np.array([17, 3]), np.random.default_rng(0))
    length = alone.input_ids.shape[1]
    assert batch.input_ids[0, :length].tolist() == alone.input_ids[0].tolist()
    assert int(batch.attention_mask[0].sum()) == length


def test_batches_have_few_lengths(products: TrainingSet) -> None:
    """Of which none is much more than its longest text, or more than the network reads."""
    widths, longest = set(), set()
    for row in range(len(products.lengths)):
        batch = products.batch(np.array([row]), np.random.default_rng(0))
        width, length = batch.input_ids.shape[1], int(batch.attention_mask.sum())
        assert length <= width < length + 16
        widths.add(width)
        longest.add(length)
    most = int(products.lengths.max())
    assert widths <= {16, 32, 48, most}
    assert len(longest) > len(widths)


def test_a_run_that_goes_on_sees_the_same(products: TrainingSet) -> None:
    whole = all_batches(products)
    rest = all_batches(products, start=5)
    assert len(rest) == len(whole) - 5
    for ours, theirs in zip(rest, whole[5:], strict=True):
        assert torch.equal(ours.input_ids, theirs.input_ids)
        assert torch.equal(ours.images["pixels"], theirs.images["pixels"])


def test_processes_share_an_epoch(products: TrainingSet) -> None:
    parts = [all_batches(products, process=process, processes=2) for process in range(2)]
    order = products.epoch_order(2, 12, 0.5, 1)
    assert len(parts[0]) == len(parts[1]) == len(order) == 8
    for rows, first, second in zip(order, *parts, strict=True):
        assert rows_of(products, first) + rows_of(products, second) == rows.tolist()


def test_processes_draw_each_for_itself(products: TrainingSet) -> None:
    products.title_share = 0.5
    parts = [all_batches(products, process=process, processes=2) for process in range(2)]
    titled = [torch.stack([batch.titled for batch in part]) for part in parts]
    assert not torch.equal(*titled)


def test_views_are_drawn(products: TrainingSet) -> None:
    views = np.diff(products.first_image)
    several = np.flatnonzero(views > 1)[:4]
    assert len(several)
    rng = np.random.default_rng(0)
    seen = [products.batch(several, rng).images["pixels"][:, 0, 0, 0].numpy() for _ in range(40)]
    for column, row in enumerate(several):
        first, last = products.first_image[row : row + 2]
        drawn = Counter(int(pictures[column]) for pictures in seen)
        assert set(drawn) == set(range(first, last))


def test_features_are_not_augmented(learn: Catalogue, tokenizer: Path) -> None:
    views = sum(len(product.images) for product in learn.products)
    array = np.arange(views * 8, dtype=np.float16).reshape(views, 4, 2)
    products = training_set(learn, tokenizer, array)
    batch = products.batch(np.array([0, 5]), np.random.default_rng(0), Augmentation())
    assert batch.images.keys() == {"features"}
    assert batch.images["features"].dtype == torch.float32
    assert batch.images["features"].shape == (2, 4, 2)


def test_a_batch_moves_to_a_device(products: TrainingSet) -> None:
    batch = products.batch(np.array([0, 1]), np.random.default_rng(0), Augmentation())
    moved = batch.to(torch.device("meta"))
    assert {moved.input_ids.device.type, moved.images["pixels"].device.type} == {"meta"}
    assert moved.text_numbers.shape == (2,)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_some_products_are_shown_by_their_title(
    share: float, products: TrainingSet, learn: Catalogue, tokenizer: Path
) -> None:
    shown = TrainingSet(learn, products.inputs, tokenizer, 48, "product_type", title_share=share)
    encoder = TextTokenizer(tokenizer, 48)
    rows = np.arange(64)
    batch = shown.batch(rows, np.random.default_rng(0))
    for row, titled in zip(rows, batch.titled.tolist(), strict=True):
        product = learn.products[row]
        wanted = encoder.encode([product.title if titled else product.text]).input_ids[0]
        length = int(batch.attention_mask[row].sum())
        assert batch.input_ids[row, :length].tolist() == wanted.tolist()
        assert not batch.input_ids[row, length:].any()
    assert batch.titled.sum().item() == pytest.approx(64 * share, abs=12 if share == 0.5 else 0)


def test_a_text_shorter_than_another_products_title_is_padded(
    learn: Catalogue, tokenizer: Path
) -> None:
    """As where a feed's own template leaves the title out."""
    names = [("red", "a red dress with long sleeves and a belt"), ("blue", "coat")]
    chosen = [
        replace(product, text=text, title=title)
        for product, (text, title) in zip(learn.products, names, strict=False)
    ]
    pictures = training_set(learn, tokenizer).inputs
    own = replace(learn, products=chosen)
    shown = TrainingSet(own, pictures, tokenizer, 48, "product_type", title_share=0.5)
    encoder = TextTokenizer(tokenizer, 48)
    seen = set()
    for seed in range(9):
        ids, mask, titled = shown.batch_texts(np.arange(2), np.random.default_rng(seed))
        seen.add(tuple(titled.tolist()))
        for row, name in enumerate(names):
            wanted = encoder.encode([name[int(titled[row])]])
            length = wanted.input_ids.shape[1]
            assert ids[row, :length].tolist() == wanted.input_ids[0].tolist()
            assert mask[row].tolist() == [1] * length + [0] * (mask.shape[1] - length)
    assert (True, False) in seen, "the text beside the longer title"


def test_who_is_nobodys_negative(learn: Catalogue, tokenizer: Path) -> None:
    names = [("a", "t"), ("a", "t"), ("b", "t"), ("c", "u"), ("d", "t")]
    chosen = [
        replace(product, text=text, title=title)
        for product, (text, title) in zip(learn.products, names, strict=False)
    ]
    products = training_set(replace(learn, products=chosen), tokenizer)
    batch = products.batch(np.arange(5), np.random.default_rng(0))
    batch = replace(batch, titled=torch.tensor([False, False, False, True, True]))
    same = batch.same(lambda own: own)
    pairs = {(i, j) for i in range(5) for j in range(5) if i != j and same[i, j]}
    # 0 and 1 have one text; 4 is shown as "t", which is the title of 0, 1 and 2 as well.
    symmetric = {(0, 1), (0, 4), (1, 4), (2, 4)}
    assert pairs == symmetric | {(j, i) for i, j in symmetric}
    assert bool(same.diagonal().all())


def test_what_the_network_reads_alike_is_one_text(learn: Catalogue, tokenizer: Path) -> None:
    long = "a red dress with long sleeves and " * 12
    names = [
        ("A red dress", "Red coat"),
        ("a  RED dress", "red coat"),
        (f"{long} a belt", "blue coat"),
        (f"{long} two pockets", "BLUE  coat"),
        ("a red dress with a belt", "green coat"),
    ]
    chosen = [
        replace(product, text=text, title=title)
        for product, (text, title) in zip(learn.products, names, strict=False)
    ]
    products = training_set(replace(learn, products=chosen), tokenizer)
    rows = np.arange(5)
    batch = products.batch(rows, np.random.default_rng(0))
    alike = (batch.input_ids[:, None] == batch.input_ids[None]).all(-1)
    assert alike.triu(1).nonzero().tolist() == [[0, 1], [2, 3]]
    assert torch.equal(batch.same(lambda own: own), alike)
    # Their titles are alike likewise, and count where one is shown.
    apart = replace(batch, text_numbers=torch.arange(5), titled=torch.arange(5) == 3)
    same = apart.same(lambda own: own)
    assert same.triu(1).nonzero().tolist() == [[2, 3]]
    # Evaluation goes by the letter.
    assert len(set(products.text_numbers.tolist())) == 5


def test_mixed_batches_hold_texts_of_like_length(learn: Catalogue, tokenizer: Path) -> None:
    products = training_set(learn, tokenizer)
    order = products.epoch_order(0, 8, 0.0, 3)
    sorted_padding = sum(
        int(products.lengths[rows].max()) * len(rows) - int(products.lengths[rows].sum())
        for rows in order
    )
    shuffled = np.random.default_rng(0).permutation(order.ravel()).reshape(order.shape)
    random_padding = sum(
        int(products.lengths[rows].max()) * len(rows) - int(products.lengths[rows].sum())
        for rows in shuffled
    )
    assert sorted_padding < random_padding / 2
    assert sorted(order.ravel().tolist()) == sorted(set(order.ravel().tolist()))


@pytest.mark.parametrize("kind", ["pixels", "maps"])
def test_what_names_a_side_is_not_mirrored(kind: str, learn: Catalogue, tokenizer: Path) -> None:
    names = [
        ("a shirt with a pocket on the Left", "shirt"),
        ("a coat", "Coat, right-hand buttons"),
        ("a bright dress, leftover cloth", "upright"),
        ("a dress", "dress"),
    ]
    chosen = [
        replace(product, text=text, title=title, images=product.images[:1])
        for product, (text, title) in zip(learn.products, names, strict=False)
    ]
    # The left half of each picture is dark, the right one light; maps are kept of both sides.
    array: NDArray[np.uint8 | np.float16]
    array = np.zeros((4, 32, 32, 3), np.uint8)
    array[:, :, 16:] = 200
    if kind == "maps":
        array = np.stack([array, array[:, :, ::-1]], axis=1).astype(np.float16)
    products = training_set(replace(learn, products=chosen), tokenizer, array)
    rng = np.random.default_rng(0)
    seen = np.stack(
        [products.batch(np.arange(4), rng, Augmentation()).images[kind].numpy() for _ in range(40)]
    )
    mirrored = seen[:, :, 16, 8, 0] > seen[:, :, 16, 24, 0]
    assert mirrored.any(axis=0).tolist() == [False, False, True, True]
    assert not mirrored.all(axis=0).any()
