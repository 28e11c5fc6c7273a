"""Token-to-patch alignment: the head, its loss, and its place in the served logit."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from model.config import FashionBertConfig
from model.errors import TrainingError
from model.heads import AlignmentHead
from model.network import FashionBertModel
from model.tasks import alignment_loss


@pytest.fixture
def head(small: FashionBertConfig) -> AlignmentHead:
    config = copy.deepcopy(small)
    config.alignment_size = 6
    torch.manual_seed(0)
    return AlignmentHead(config)


def states(head: AlignmentHead, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, head.text.in_features, generator=generator)


@torch.inference_mode()
def test_alignment_by_hand(head: AlignmentHead) -> None:
    tokens, patches = states(head, 1, 3)[0], states(head, 1, 4)[0]
    expected = total = 0.0
    for token in tokens:
        weight = math.exp(float(head.salience(token)))
        best = max(
            float(torch.cosine_similarity(head.text(token), head.image(patch), dim=0))
            for patch in patches
        )
        expected += weight * best
        total += weight
    found = head(tokens[None], torch.ones(1, 3), patches[None])
    assert found.item() == pytest.approx(expected / total, abs=1e-5)


@torch.inference_mode()
def test_padding_has_no_part(head: AlignmentHead) -> None:
    texts, pictures = states(head, 2, 5), states(head, 2, 7)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    changed = texts.clone()
    changed[0, 3:] = 100
    torch.testing.assert_close(head(changed, mask, pictures), head(texts, mask, pictures))
    alone = head(texts[:1, :3], mask[:1, :3], pictures[:1])
    torch.testing.assert_close(head(texts, mask, pictures)[:1], alone)


@torch.inference_mode()
def test_all_pairs_are_the_pairs(head: AlignmentHead) -> None:
    texts, pictures = states(head, 3, 5), states(head, 4, 7)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    square = head.all_pairs(texts, mask, pictures)
    assert square.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            one = head(texts[i : i + 1], mask[i : i + 1], pictures[j : j + 1])
            torch.testing.assert_close(square[i, j], one[0])


def test_alignment_loss_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.4], [0.2, 0.8, 0.3], [0.5, 0.6, 0.7]])
    same = torch.eye(3, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True  # the same text: neither is the other's negative
    kept = [[0, 1], [0, 1, 2], [1, 2]]
    expected = 0.0
    for way in (scores, scores.T):
        for row, columns in enumerate(kept):
            total = sum(math.exp(5 * float(way[row, column])) for column in columns)
            expected -= (5 * float(way[row, row]) - math.log(total)) / 6
    found = alignment_loss(scores, torch.tensor(5.0), same)
    assert found.item() == pytest.approx(expected, abs=1e-5)


@torch.inference_mode()
def test_alignment_is_stacked(small: FashionBertConfig) -> None:
    config = copy.deepcopy(small)
    config.alignment_size = 8
    torch.manual_seed(0)
    model = FashionBertModel(config).eval()
    assert model.alignment_head is not None
    ids = torch.randint(5, 90, (6, 7))
    mask = torch.ones(6, 7, dtype=torch.int64)
    pixels = torch.randint(0, 256, (6, 64, 64, 3), dtype=torch.uint8)
    texts, _ = model.encode_text(ids, mask)
    images, _ = model.encode_image(pixels)
    alone = model.match(texts, mask, images)  # its weight is nought until it is fitted
    model.match_head.alignment_weight.fill_(3)
    aligned = model.alignment_head(texts, mask, images)
    torch.testing.assert_close(model.match(texts, mask, images), alone + 3 * aligned)
    model.train()
    assert torch.isfinite(model.match(texts, mask, images)).all()


def test_alignment_needs_the_stacked_score(small: FashionBertConfig) -> None:
    config = copy.deepcopy(small)
    config.alignment_size, config.stack_recall = 8, False
    with pytest.raises(TrainingError, match="needs joint_from above 0"):
        FashionBertModel(config)
