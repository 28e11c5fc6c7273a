from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.catalogue import Catalogue
from model.config import FashionBertConfig
from model.dataset import Batch, TrainingSet
from model.inputs import ImageInputs
from model.masking import Masking, WordMasker
from model.network import FashionBertModel
from model.objective import TrainingModel
from model.tasks import mlm_loss, mpm_loss


@pytest.fixture(scope="module")
def batch(unseen: Catalogue, tokenizer: Path) -> Batch:
    """Six products with words and patches hidden."""
    views = sum(len(product.images) for product in unseen.products)
    pixels = np.random.default_rng(0).integers(0, 256, (views, 64, 64, 3), np.uint8)
    masking = Masking(WordMasker(tokenizer), 64)
    products = TrainingSet(unseen, ImageInputs(pixels), tokenizer, 48, masking=masking)
    return products.batch(np.arange(6), np.random.default_rng(1), augment=False)


def network(config: FashionBertConfig, **changes: Any) -> FashionBertModel:
    config = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return FashionBertModel(config).eval()


def losses(model: FashionBertModel, batch: Batch) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = TrainingModel(model, 1)(batch, 0.5, generator, 0)
    return found


def without_masks(batch: Batch) -> Batch:
    return dataclasses.replace(batch, masked_ids=None, masked_tokens=None, masked_patches=None)


@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("given", ["pixels", "features"])
def test_masked_losses_by_hand(k: int, given: str, small: FashionBertConfig, batch: Batch) -> None:
    model = network(small, joint_from=k, stack_recall=False, mlm=True, mpm=True)
    with torch.inference_mode():
        features = model.patch_network(batch.images["pixels"])
        if given == "features":
            batch = dataclasses.replace(batch, images={"features": features})
        found = losses(model, batch)
        assert set(found) == {"recall", "match", "match_accuracy", "mlm", "mpm"}

        assert batch.masked_ids is not None
        assert batch.masked_tokens is not None
        assert batch.masked_patches is not None
        hidden = features.clone()
        for row, column in batch.masked_patches.nonzero().tolist():
            hidden[row, column] = 0
        states = model.joint_states(
            model.encode_text(batch.masked_ids, batch.attention_mask)[0],
            batch.attention_mask,
            model.encode_image(features=hidden)[0],
        )
        language, patch = model.masked_language_head, model.masked_patch_head
        assert language is not None
        assert patch is not None
        words = []
        for row, column in batch.masked_tokens.nonzero().tolist():
            logits = language(states[row, column][None], model.text_embeddings.word.weight)
            words.append(float(mlm_loss(logits, batch.input_ids[row, column][None])))
        patches = []
        for row, column in batch.masked_patches.nonzero().tolist():
            predicted = patch(states[row, batch.input_ids.shape[1] + column][None])
            patches.append(float(mpm_loss(predicted, features[row, column][None])))
    assert len(patches) == 6 * 6
    assert float(found["mlm"]) == pytest.approx(np.mean(words), rel=1e-5)
    assert float(found["mpm"]) == pytest.approx(np.mean(patches), rel=1e-5)
    # Recall and match see everything.
    with torch.inference_mode():
        plain = losses(model, without_masks(batch))
    assert set(plain) == {"recall", "match", "match_accuracy"}
    for task, loss in plain.items():
        assert torch.equal(found[task], loss)


def test_one_task_alone(small: FashionBertConfig, batch: Batch) -> None:
    words = dataclasses.replace(batch, masked_patches=None)
    assert "mpm" not in losses(network(small, mlm=True), words)
    patches = dataclasses.replace(batch, masked_ids=None, masked_tokens=None)
    assert "mlm" not in losses(network(small, mpm=True), patches)


def test_every_head_has_a_gradient_with_no_word_to_hide(
    small: FashionBertConfig, batch: Batch
) -> None:
    """Of several processes one may have such a batch; the others wait for its gradients."""
    assert batch.masked_tokens is not None
    nothing = torch.zeros_like(batch.masked_tokens)
    batch = dataclasses.replace(batch, masked_tokens=nothing, masked_ids=batch.input_ids)
    model = network(small, mlm=True, mpm=True)
    found = losses(model, batch)
    assert float(found["mlm"].detach()) == 0
    total = found["recall"] + found["match"] + found["mlm"] + found["mpm"]
    total.backward()  # type: ignore[no-untyped-call]
    missing = [name for name, value in model.named_parameters() if value.grad is None]
    assert missing == []


def test_what_is_to_be_told_gets_no_gradient(small: FashionBertConfig, batch: Batch) -> None:
    """A patch that is hidden is seen by nobody but as a target, so its feature has none."""
    model = network(small, mpm=True)
    features = model.patch_network(batch.images["pixels"]).detach().requires_grad_()
    patches = dataclasses.replace(
        batch, images={"features": features}, masked_ids=None, masked_tokens=None
    )
    losses(model, patches)["mpm"].backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    assert batch.masked_patches is not None
    reached = features.grad.abs().sum(2) > 0
    assert torch.equal(reached, ~batch.masked_patches)


def test_what_is_hidden_moves_to_the_device_too(batch: Batch) -> None:
    moved = batch.to(torch.device("meta"))
    for value in (moved.masked_ids, moved.masked_tokens, moved.masked_patches):
        assert value is not None
        assert value.device.type == "meta"
    assert without_masks(batch).to(torch.device("meta")).masked_ids is None


def test_a_share_of_the_batch_goes_through_the_joint_layers(
    small: FashionBertConfig, batch: Batch
) -> None:
    model = network(small, mlm=True, mpm=True)
    seen: dict[str, int] = {}
    match, joint = model.match, model.joint_states

    def counted(name: str, call: Any) -> Any:
        def count(texts: Tensor, *rest: Tensor) -> Tensor:
            seen[name] = len(texts)
            result: Tensor = call(texts, *rest)
            return result

        return count

    model.match = counted("match", match)  # type: ignore[method-assign]
    model.joint_states = counted("joint", joint)  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        half = TrainingModel(model, 2, joint_share=0.5)(batch, 0.5, generator, 0)
        assert seen == {"match": 3 * (1 + 2 + 2), "joint": 3}
        whole = losses(model, batch)
        assert seen == {"match": 6 * (1 + 1 + 1), "joint": 6}
    assert set(half) == set(whole)
    assert torch.equal(half["recall"], whole["recall"])  # of all products
