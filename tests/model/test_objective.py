from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import model.objective as module
from model.config import FashionBertConfig
from model.dataset import Batch, TrainingSet
from model.heads import MaskedLanguageHead
from model.inputs import ImageInputs
from model.masking import Masking, WordMasker
from model.network import FashionBertModel
from model.objective import TrainingModel
from model.product import Catalogue
from model.tasks import Negatives, draw_negatives, match_loss, mlm_loss, mpm_loss


@pytest.fixture(scope="module")
def batch(unseen: Catalogue, tokenizer: Path) -> Batch:
    """Six products with words and patches hidden."""
    views = sum(len(product.images) for product in unseen.products)
    pixels = np.random.default_rng(0).integers(0, 256, (views, 64, 64, 3), np.uint8)
    masking = Masking(WordMasker(tokenizer), 64)
    products = TrainingSet(unseen, ImageInputs(pixels), tokenizer, 48, masking=masking)
    return products.batch(np.arange(6), np.random.default_rng(1))


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


def test_hidden_words_are_made_up_to_few_numbers(
    small: FashionBertConfig, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert batch.masked_tokens is not None
    hidden = int(batch.masked_tokens.sum())
    model = network(small, mlm=True)
    rows = []
    forward = MaskedLanguageHead.forward

    def watched(head: MaskedLanguageHead, states: Tensor, words: Tensor) -> Tensor:
        rows.append(len(states))
        return forward(head, states, words)

    monkeypatch.setattr(MaskedLanguageHead, "forward", watched)
    exact = losses(model, batch)["mlm"]
    assert 0 < hidden < 128
    assert rows == [128]
    monkeypatch.setattr("model.objective._WORDS", 1)
    torch.testing.assert_close(losses(model, batch)["mlm"], exact)
    assert rows == [128, hidden]


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


def test_pairs_by_hand(small: FashionBertConfig, batch: Batch) -> None:
    """Of a share of the batch, each true pair and its negatives, all from whose they are."""
    model = network(small, mlm=True, mpm=True)
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(3)
        found = TrainingModel(model, 2, joint_share=0.5)(batch, 1.0, generator, 0)
        texts, text_embeddings = model.encode_text(batch.input_ids, batch.attention_mask)
        images, image_embeddings = model.encode_image(**batch.images)
        assert model.recall_head is not None
        assert text_embeddings is not None
        similarity = model.recall_head.scale * text_embeddings @ image_embeddings.T
        generator.manual_seed(3)
        drawn = draw_negatives(similarity, batch.same(lambda own: own), 1.0, 2, generator)
        assert not torch.equal(drawn.images, drawn.texts)
        rows = torch.randperm(6, generator=generator)[:3].sort().values

        def logits(pairs: list[tuple[int, int]]) -> Tensor:
            each = [
                model.match(
                    texts[text][None], batch.attention_mask[text][None], images[image][None]
                )
                for text, image in pairs
            ]
            return torch.cat(each)

        wanted = match_loss(
            logits([(row, row) for row in rows.tolist()]),
            torch.stack([logits([(r, int(i)) for i in drawn.images[r]]) for r in rows.tolist()]),
            torch.stack([logits([(int(t), r) for t in drawn.texts[r]]) for r in rows.tolist()]),
            drawn.usable[rows],
        )
        pictures = {name: value[rows] for name, value in batch.images.items()}
        alone = losses(model, dataclasses.replace(batch.rows(rows), images=pictures))
    assert float(found["match"]) == pytest.approx(float(wanted.loss), rel=1e-4)
    assert float(found["match_accuracy"]) == pytest.approx(float(wanted.accuracy))
    for task in ("mlm", "mpm"):
        assert float(found[task]) == pytest.approx(float(alone[task]), rel=1e-4)


def test_a_process_finds_its_rows_among_those_of_all(
    small: FashionBertConfig, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two, whose rows stand behind the first one's."""
    told: dict[str, Any] = {}

    def contrastive(texts: Tensor, _: Tensor, scale: Tensor, same: Tensor, offset: int) -> Tensor:
        told.update(same=same, offset=offset)
        return texts.new_zeros(())

    def draw(similarity: Tensor, same: Tensor, *rest: Any) -> Negatives:
        told.update(local=same)
        return draw_negatives(similarity, same, *rest)

    monkeypatch.setattr(module, "gather", lambda own: torch.cat([torch.full_like(own, 9), own]))
    monkeypatch.setattr(module, "contrastive_loss", contrastive)
    monkeypatch.setattr(module, "draw_negatives", draw)
    numbers = torch.tensor([0, 1, 2, 0, 3, 3])
    batch = dataclasses.replace(
        without_masks(batch), text_numbers=numbers, title_numbers=torch.arange(6)
    )
    with torch.inference_mode():
        TrainingModel(network(small), 1)(batch, 0.0, torch.Generator(), 6)
    alike = numbers[:, None] == numbers
    assert told["offset"] == 6
    assert torch.equal(told["local"], alike)
    assert torch.equal(told["same"], torch.cat([torch.zeros_like(alike), alike], dim=1))
