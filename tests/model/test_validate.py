from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress

from model.calibration import calibrate, fit_stacking
from model.config import FashionBertConfig
from model.dataset import TrainingSet
from model.engine import Engine
from model.errors import TrainingError
from model.evaluate import Evaluation, sampled_figures
from model.export import export_bundle
from model.network import FashionBertModel
from model.states import QuantisedStates
from model.validate import (
    Validation,
    encode_products,
    fit_to_unseen,
    torch_align,
    torch_match,
    validate,
)


@pytest.fixture
def network(small: FashionBertConfig) -> FashionBertModel:
    torch.manual_seed(0)
    model = FashionBertModel(small).eval()
    model.match_head.recall_weight.fill_(5)
    return model


@pytest.fixture
def engine(network: FashionBertModel, tokenizer: Path, tmp_path: Path) -> Engine:
    """The same network as it is served."""
    return Engine(export_bundle(network, tokenizer, tmp_path / "bundle")[0], threads=1)


def test_products_are_encoded_as_they_are_served(
    network: FashionBertModel, engine: Engine, unseen_set: TrainingSet, unseen: object
) -> None:
    with torch.inference_mode():
        encoded = encode_products(network, unseen_set)
    products = unseen.products  # type: ignore[attr-defined]
    served = engine.encode_texts([product.text for product in products])
    pixels = unseen_set.inputs.array
    images = engine.encode_images(np.asarray(pixels))
    assert len(encoded) == len(products) == 32
    assert np.array_equal(encoded.first_image, unseen_set.first_image)
    assert np.array_equal(encoded.groups, unseen_set.groups)
    assert len(set(encoded.groups.tolist())) > 1
    assert np.array_equal(encoded.texts.scales > 0, served.states.scales > 0)
    # bf16 steps are 1/256 of a value; states are a layer norm's output, about 1.
    for ours, theirs in ((encoded.texts, served.states), (encoded.images, images.states)):
        assert np.abs(ours.dequantise() - theirs.dequantise()).mean() < 0.02
    for mine, wanted in (
        (encoded.text_embeddings, served.embeddings),
        (encoded.image_embeddings, images.embeddings),
    ):
        assert wanted is not None
        assert (mine * wanted).sum(axis=1).min() > 0.999


def test_a_validation_leaves_no_bar(network: FashionBertModel, unseen_set: TrainingSet) -> None:
    with Progress(disable=True) as bars:
        training = bars.add_task("training")
        validate(network, Validation(unseen_set, 2), bars)
        assert bars.task_ids == [training]


def test_pairs_are_matched_as_they_are_served(
    network: FashionBertModel, engine: Engine, unseen: object
) -> None:
    texts = engine.encode_texts(["red dress", "a blue coat with two pockets and a belt"]).states
    images = engine.encode_images(
        np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    ).states
    cases: list[tuple[QuantisedStates, QuantisedStates]] = [
        (texts[:1], images),
        (texts, images[:1]),
        (texts, images[:2]),
    ]
    with torch.inference_mode():
        for some, others in cases:
            ours, theirs = torch_match(network, some, others), engine.match(some, others)
            assert ours.shape == theirs.shape == (max(len(some), len(others)),)
            assert ours.dtype == np.float32
            # Cosines of bf16 embeddings are up to 1/256 away and weigh 5; the rest adds as much.
            assert np.abs(ours - theirs).max() < 0.04


@pytest.mark.parametrize("weight", ["text_embeddings.norm.bias", "patch_embeddings.norm.bias"])
def test_a_diverged_network_is_not_ranked(
    weight: str, network: FashionBertModel, unseen_set: TrainingSet
) -> None:
    with torch.no_grad():
        network.get_parameter(weight)[0] = torch.nan
    with pytest.raises(TrainingError, match=r"not finite, .* lower the learning rate"):
        validate(network, Validation(unseen_set, queries=4))
    assert network.training


@pytest.mark.parametrize("rerank_all", [False, True])
def test_validation(network: FashionBertModel, unseen_set: TrainingSet, rerank_all: bool) -> None:
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    validation = Validation(unseen_set, queries=10)
    result = validate(network, validation, rerank_all=rerank_all)
    assert network.training  # as training goes on
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    for way in ("text_to_image", "image_to_text"):
        stages = result.figures[way]["sampled"]
        assert ("rerank" in stages) == rerank_all
        assert {stages[name]["rank_last"] for name in stages} == {100}
        assert stages["two_stage"]["queries"] == 10
    again = validate(network, validation, rerank_all=rerank_all)
    assert again.figures == result.figures


def test_without_a_recall_head_everything_is_reranked(
    small: FashionBertConfig, unseen_set: TrainingSet
) -> None:
    config = copy.deepcopy(small)
    config.recall_size, config.stack_recall = 0, False
    torch.manual_seed(0)
    result = validate(FashionBertModel(config), Validation(unseen_set, queries=5))
    assert "rerank" in result.figures["image_to_text"]["sampled"]


def test_what_is_fitted_is_set_in_the_head(
    network: FashionBertModel, unseen_set: TrainingSet
) -> None:
    validation = Validation(unseen_set, queries=32)
    head = network.match_head
    head.recall_weight.zero_()  # as it is while training
    head.classifier.bias.detach().fill_(0.25)
    trained = {name: value.clone() for name, value in head.named_parameters()}
    before = validate(network, validation, rerank_all=True)
    similarity, match = fit_stacking(before.samples)
    (slope, intercept), figures = fit_to_unseen(network, before)
    assert slope > 0
    assert intercept == 0  # it is in the shift
    assert head.recall_weight.item() == pytest.approx(similarity)
    assert head.match_weight.item() == pytest.approx(match)
    assert all(torch.equal(value, trained[name]) for name, value in head.named_parameters())
    shift = head.shift.item()
    # The logits then are what was fitted, and the probability is of them.
    after = validate(network, validation, rerank_all=True)
    for old, new in zip(before.samples, after.samples, strict=True):
        fitted = similarity * old.recalled + match * old.logits + shift
        assert np.abs(new.logits - fitted).max() < 0.1
    assert figures["matching"]["accuracy"] == pytest.approx(
        after.figures["matching"]["accuracy"], abs=5
    )
    for way in ("text_to_image", "image_to_text"):
        for stage, told in figures[way]["sampled"].items():
            seen = after.figures[way]["sampled"][stage]["rank1"]
            assert told["rank1"] == pytest.approx(seen, abs=100 / 32 + 0.01)  # one query
    logits = np.concatenate([sample.logits for sample in after.samples])
    assert (slope, intercept) == pytest.approx(calibrate(logits[:, 0], logits[:, 1]), abs=0.1)


def test_of_several_views_the_best_by_the_sum_counts(
    network: FashionBertModel, unseen_set: TrainingSet
) -> None:
    """What was evaluated with the weights set is taken, not a sum of each score's best view."""
    before = validate(network, Validation(unseen_set, queries=16), rerank_all=True)
    head = network.match_head
    head.recall_weight.zero_()
    weights = fit_stacking(before.samples)
    rng = np.random.default_rng(0)
    served = tuple(
        replace(sample, logits=rng.normal(size=sample.logits.shape).astype(np.float32))
        for sample in before.samples
    )

    def again() -> Evaluation:
        assert (head.recall_weight.item(), head.match_weight.item()) == pytest.approx(weights)
        assert head.shift.item() == 0
        return Evaluation({"queries": 16, "candidates": 7}, served)

    (slope, intercept), figures = fit_to_unseen(network, before, again)
    logits = np.concatenate([sample.logits for sample in served]).astype(np.float64)
    fitted = calibrate(logits[:, 0], logits[:, 1])
    assert (slope, slope * head.shift.item()) == pytest.approx(fitted, rel=1e-5)
    assert intercept == 0
    assert figures["candidates"] == 7
    for way, sample in zip(("text_to_image", "image_to_text"), served, strict=True):
        assert figures[way]["sampled"] == sampled_figures(sample, 16)


def test_without_stacking_nothing_is_adjusted(
    small: FashionBertConfig, unseen_set: TrainingSet
) -> None:
    config = copy.deepcopy(small)
    config.stack_recall = False
    torch.manual_seed(0)
    network = FashionBertModel(config)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    evaluation = validate(network, Validation(unseen_set, queries=8), rerank_all=True)
    (slope, intercept), _ = fit_to_unseen(network, evaluation)
    logits = np.concatenate([sample.logits for sample in evaluation.samples])
    bare = calibrate(logits[:, 0], logits[:, 1])
    assert (slope, intercept) == pytest.approx(bare), "the probability is of the bare logits"
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_alignment_is_fitted_with_the_rest(
    small: FashionBertConfig, unseen_set: TrainingSet
) -> None:
    config = copy.deepcopy(small)
    config.alignment_size = 8
    torch.manual_seed(0)
    network = FashionBertModel(config)
    before = validate(network, Validation(unseen_set, queries=32), rerank_all=True)
    assert [aligned.shape for aligned in before.aligned] == [
        sample.logits.shape for sample in before.samples
    ]
    weights = fit_stacking(before.samples, before.aligned)
    _, figures = fit_to_unseen(network, before)
    head = network.match_head
    assert head.recall_weight.item() == pytest.approx(weights[0], rel=1e-5)
    assert head.alignment_weight.item() == pytest.approx(weights[2], rel=1e-5)
    assert figures["stacking"] == pytest.approx(weights, abs=1e-4)
    after = validate(network, Validation(unseen_set, queries=32), rerank_all=True)
    for way in ("text_to_image", "image_to_text"):
        told = figures[way]["sampled"]["rerank"]["rank1"]
        seen = after.figures[way]["sampled"]["rerank"]["rank1"]
        assert told == pytest.approx(seen, abs=100 / 32 + 0.01)


def test_what_ranks_is_not_rounded(small: FashionBertConfig, unseen_set: TrainingSet) -> None:
    """A score in bf16 has 8 bits: pairs would stand level, and a tie counts as lost."""
    config = copy.deepcopy(small)
    config.alignment_size = 8
    torch.manual_seed(0)
    network = FashionBertModel(config).eval()
    with torch.inference_mode():
        encoded = encode_products(network, unseen_set)
        pairs = (encoded.texts[:1], encoded.images)
        scores = [torch_match(network, *pairs)]
        count = len(encoded.images)
        texts = encoded.texts[np.zeros(count, np.int64)]
        scores.append(torch_align(network, texts, encoded.images))
    for found in scores:
        kept = torch.from_numpy(found)
        assert (kept.bfloat16().float() == kept).float().mean() < 0.1


def test_the_figures_say_how_many_were_reranked(
    network: FashionBertModel, unseen_set: TrainingSet
) -> None:
    result = validate(network, Validation(unseen_set, queries=8), rerank_all=True)
    assert result.figures["candidates"] == 16
    assert fit_to_unseen(network, result)[1]["candidates"] == 16
