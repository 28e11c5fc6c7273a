from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.tasks import (
    NO_TOKEN,
    contrastive_loss,
    distillation_loss,
    draw_negatives,
    gather,
    match_loss,
    mlm_loss,
    mpm_loss,
)


def unit(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator), dim=1)


def same_texts(numbers: list[int]) -> Tensor:
    values = torch.tensor(numbers)
    return values[:, None] == values[None, :]


def info_nce(
    texts: NDArray[np.float64], images: NDArray[np.float64], scale: float, same: NDArray[np.bool_]
) -> float:
    """The loss by hand: every product against those with another text, both ways."""
    similarity = scale * texts @ images.T
    total = 0.0
    for logits in (similarity, similarity.T):
        for row in range(len(logits)):
            others = [c for c in range(len(logits)) if c == row or not same[row, c]]
            total -= logits[row, row] - math.log(sum(math.exp(logits[row, c]) for c in others))
    return total / 2 / len(similarity)


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3, 4], [0, 1, 0, 2, 1]])
def test_contrastive_loss_by_hand(numbers: list[int]) -> None:
    texts, images, same = unit(5, 1), unit(5, 2), same_texts(numbers)
    loss = contrastive_loss(texts, images, torch.tensor(9.0), same)
    wanted = info_nce(texts.double().numpy(), images.double().numpy(), 9.0, same.numpy())
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_logits_of_contrast_are_not_rounded_under_autocast() -> None:
    texts, images = unit(6, 1), unit(6, 2)
    scale, same = torch.tensor(60.0), same_texts(list(range(6)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = contrastive_loss(texts, images, scale, same)
    assert float(mixed) == float(contrastive_loss(texts, images, scale, same))


def test_the_same_text_is_never_a_negative() -> None:
    texts, images = unit(4, 1), unit(4, 2)
    images[2] = texts[0]  # the strongest rival of row 0, unless it has the same text
    scale = torch.tensor(50.0)
    same, apart = same_texts([0, 1, 0, 2]), torch.eye(4, dtype=torch.bool)
    told, untold = (float(contrastive_loss(texts, images, scale, mask)) for mask in (same, apart))
    assert untold > told + 1
    # Where all have one text there is nothing to tell apart, and nothing to learn.
    images.requires_grad_()
    nothing = contrastive_loss(texts, images, scale, torch.ones(4, 4, dtype=torch.bool))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert images.grad is not None
    assert not images.grad.any()


def test_one_process_is_all_of_them() -> None:
    values = unit(3, 1)
    assert gather(values) is values


def draws(
    similarity: Tensor, same: Tensor, hardness: float, count: int = 1, repeats: int = 1500
) -> tuple[Tensor, Tensor]:
    """How often each column was drawn for each row, as pictures and as texts."""
    size = len(same)
    images, texts = torch.zeros(size, size), torch.zeros(size, size)
    generator = torch.Generator().manual_seed(0)
    for _ in range(repeats):
        drawn = draw_negatives(similarity, same, hardness, count, generator)
        for found, counted in ((drawn.images, images), (drawn.texts, texts)):
            assert found.shape == (size, count)
            counted.scatter_add_(1, found, torch.ones(size, count))
    return images / repeats, texts / repeats


@pytest.mark.parametrize("hardness", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_same_text_is_never_drawn(hardness: float, count: int) -> None:
    same = same_texts([0, 0, 1, 0, 0])  # four rows have one row to draw from only
    similarity = torch.where(same, 30.0, 0.0)
    for found in draws(similarity, same, hardness, count, repeats=30):
        assert float(found[same].sum()) == 0
        torch.testing.assert_close(found.sum(1), torch.full((5,), float(count)))


@pytest.mark.parametrize("hardness", [0.0, 1.0])
def test_no_negative_is_drawn_twice_where_there_are_enough(hardness: float) -> None:
    similarity = 5 * torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    same = torch.eye(4, dtype=torch.bool)
    for found in draws(similarity, same, hardness, count=3, repeats=20):
        assert torch.equal(found, (~same).float()), "all three others, each time"


def test_easy_negatives_are_uniform() -> None:
    same = same_texts([0, 1, 2, 3, 0])
    similarity = 20 * torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    for found in draws(similarity, same, 0.0):
        wanted = (~same).float() / (~same).sum(1, keepdim=True)
        torch.testing.assert_close(found, wanted, atol=0.05, rtol=0)


@pytest.mark.parametrize("hardness", [0.5, 1.0])
def test_hard_negatives_are_the_similar(hardness: float) -> None:
    same = torch.eye(4, dtype=torch.bool)
    similarity = torch.tensor(
        [[9.0, 2, 1, 0], [0, 9.0, 3, 0], [1, 1, 9.0, 1], [0, 0, 4, 9.0]]
    )  # texts by images
    images, texts = draws(similarity, same, hardness)
    for found, scores in ((images, similarity), (texts, similarity.T)):
        hard = scores.masked_fill(same, -torch.inf).softmax(1)
        wanted = hardness * hard + (1 - hardness) * (~same) / 3
        torch.testing.assert_close(found, wanted, atol=0.05, rtol=0)


def test_rows_without_a_negative_are_flagged() -> None:
    generator = torch.Generator().manual_seed(0)
    alone = draw_negatives(torch.zeros(3, 3), same_texts([0, 0, 0]), 1.0, 2, generator)
    assert alone.usable.tolist() == [False, False, False]
    assert alone.images.shape == alone.texts.shape == (3, 2)
    mixed = draw_negatives(torch.zeros(3, 3), same_texts([0, 0, 1]), 1.0, 2, generator)
    assert mixed.usable.tolist() == [True, True, True]
    pair = draw_negatives(torch.zeros(2, 2), torch.eye(2, dtype=torch.bool), 0.5, 4, generator)
    assert pair.images.tolist() == [[1] * 4, [0] * 4]


def test_the_generator_decides() -> None:
    similarity = torch.randn(8, 8)
    same = torch.eye(8, dtype=torch.bool)
    first, again, other = (
        draw_negatives(similarity, same, 0.5, 3, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.texts, again.texts)
    assert not torch.equal(first.images, other.images)


def test_a_diverged_network_gets_as_far_as_its_loss() -> None:
    similarity = torch.full((3, 3), torch.nan)
    drawn = draw_negatives(
        similarity, torch.eye(3, dtype=torch.bool), 0.5, 1, torch.Generator().manual_seed(0)
    )
    assert drawn.usable.all()


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_match_loss_by_hand() -> None:
    positive, images, texts = [2.0, -1.0, 0.5], [0.5, 1.0, 9.0], [-3.0, 0.0, 9.0]
    usable = torch.tensor([True, True, False])
    found = match_loss(
        torch.tensor(positive), torch.tensor(images)[:, None], torch.tensor(texts)[:, None], usable
    )
    wanted = 0.0
    for p, i, t in list(zip(positive, images, texts, strict=True))[:2]:
        alignment = softplus(-p) + (softplus(i) + softplus(t)) / 2
        rank = softplus(i - p) + softplus(t - p)
        wanted += (alignment + rank) / 2
    assert float(found.loss) == pytest.approx(wanted / 2, rel=1e-6)
    # Of the positives one is right, of the negatives one of four: -3, since 0 is on no side.
    assert float(found.accuracy) == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert not found.accuracy.requires_grad


def test_match_loss_with_several_negatives_and_with_none() -> None:
    positive = torch.tensor([1.0])
    images, texts = torch.tensor([[0.0, 2.0]]), torch.tensor([[-1.0, -2.0]])
    found = match_loss(positive, images, texts, torch.tensor([True]))
    alignment = softplus(-1) + sum(softplus(v) for v in (0, 2, -1, -2)) / 4
    rank = math.log(math.e + 1 + math.e**2) - 1 + math.log(math.e + math.e**-1 + math.e**-2) - 1
    assert float(found.loss) == pytest.approx((alignment + rank) / 2, rel=1e-6)
    # The paper's: the mean of positives and as many negatives, and nothing else.
    plain = match_loss(positive, images, texts, torch.tensor([True]), ranked=False)
    assert float(plain.loss) == pytest.approx(alignment / 2, rel=1e-6)
    positive.requires_grad_()
    nothing = match_loss(positive, images, texts, torch.tensor([False]))
    nothing.loss.backward()
    assert float(nothing.loss.detach()) == 0
    assert positive.grad is not None
    assert float(positive.grad) == 0


def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    exponents = np.exp(values - values.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return shares


def test_distillation_loss_by_hand() -> None:
    rng = np.random.default_rng(2)
    ours, taught = rng.normal(size=(2, 2, 3, 4)) * 3  # two kinds of list, three of each
    usable = torch.tensor([True, False, True])
    divergences = []
    for mine, theirs in zip(ours, taught, strict=True):
        p, q = softmax(theirs), softmax(mine)
        divergences.append((p * (np.log(p) - np.log(q))).sum(axis=1))
    wanted = np.mean(divergences, axis=0)[[0, 2]].mean()
    found = distillation_loss(list(torch.from_numpy(ours)), list(torch.from_numpy(taught)), usable)
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    # Two candidates that the teacher holds for equal, of which the student is sure by 3 to 1.
    sure, undecided = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    one = distillation_loss([sure], [undecided], torch.tensor([True]))
    assert float(one) == pytest.approx(math.log(2) - math.log(3) / 2, rel=1e-6)


def test_who_ranks_as_the_teacher_has_nothing_to_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    taught = torch.randn(2, 5, 4, generator=generator).requires_grad_()
    moved = (taught.detach() + torch.randn(2, 5, 1, generator=generator)).requires_grad_()
    usable = torch.ones(5, dtype=torch.bool)
    loss = distillation_loss(moved.unbind(), taught.unbind(), usable)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert moved.grad is not None
    assert float(moved.grad.abs().max()) < 1e-6
    assert taught.grad is None


def test_lists_without_a_negative_teach_nothing() -> None:
    ours = torch.tensor([[1.0, 5.0], [2.0, 0.0]], requires_grad=True)
    taught = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    distillation_loss([ours], [taught], torch.tensor([False, True])).backward()  # type: ignore[no-untyped-call]
    assert ours.grad is not None
    assert not ours.grad[0].any()
    assert ours.grad[1].all()
    ours.grad = None
    nothing = distillation_loss([ours], [taught], torch.tensor([False, False]))
    nothing.backward()  # type: ignore[no-untyped-call]
    assert float(nothing.detach()) == 0
    assert not ours.grad.any()


def test_mlm_loss_by_hand() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 9)) * 3
    tokens = [0, 8, 3, 3]
    wanted = -np.log(softmax(logits)[np.arange(4), tokens]).mean()
    found = mlm_loss(torch.from_numpy(logits), torch.tensor(tokens))
    assert float(found) == pytest.approx(wanted, rel=1e-9)
    more = np.concatenate([logits, [logits[0], logits[2]]])
    made_up = mlm_loss(torch.from_numpy(more), torch.tensor([*tokens, NO_TOKEN, NO_TOKEN]))
    assert float(made_up) == pytest.approx(wanted, rel=1e-9)


def test_mlm_loss_of_nothing_hidden() -> None:
    weight = torch.ones(3, 9, requires_grad=True)
    loss = mlm_loss(torch.zeros(0, 3) @ weight, torch.zeros(0, dtype=torch.int64))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    # A gradient of 0, not none: the other processes of a run wait for it.
    assert weight.grad is not None
    assert not weight.grad.any()


def test_mpm_loss_by_hand() -> None:
    rng = np.random.default_rng(1)
    features, predictions = rng.normal(size=(2, 5, 7)).astype(np.float32) * 2
    p, q = softmax(features.astype(np.float64)), softmax(predictions.astype(np.float64))
    wanted = (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
    other_way = (q * (np.log(q) - np.log(p))).sum(axis=1).mean()
    target = torch.from_numpy(features).requires_grad_()
    predicted = torch.from_numpy(predictions).requires_grad_()
    found = mpm_loss(predicted, target)
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-5)
    assert abs(wanted - other_way) > 0.01
    found.backward()  # type: ignore[no-untyped-call]
    assert target.grad is None
    assert predicted.grad is not None
    assert torch.allclose(predicted.grad, torch.from_numpy(q - p).float() / 5, atol=1e-6)
    assert float(mpm_loss(target, target).detach()) == pytest.approx(0, abs=1e-6)
