from __future__ import annotations

from pathlib import Path

import pytest

from model.backbones import new_config, new_model
from model.errors import TrainingError
from model.schedule import hardness_at, learning_rate_at, new_optimizer
from model.train_settings import TrainSettings, check_settings


def test_schedules() -> None:
    settings = TrainSettings(hard_from=0.1, hard_until=0.6)
    assert [hardness_at(p, settings) for p in (0.0, 0.1, 0.6, 1.0)] == [0, 0, 1, 1]
    assert hardness_at(0.35, settings) == pytest.approx(0.5)
    at_once = TrainSettings(hard_from=0.5, hard_until=0.5)
    assert [hardness_at(p, at_once) for p in (0.49, 0.51)] == [0, 1]
    rates = [learning_rate_at(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[100] == 0
    assert [learning_rate_at(step, 1, 0.1) for step in (0, 1)] == [1, 0]


def test_warming_up_by_a_number_of_steps() -> None:
    """The paper's: 5,000 steps, then linear decay."""
    rates = [learning_rate_at(step, 41_000, 5000) for step in (0, 2499, 4999, 23_000, 41_000)]
    assert rates == pytest.approx([1 / 5000, 1 / 2, 1, 1 / 2, 0])
    # A run too short for that takes half of itself.
    assert [learning_rate_at(step, 8, 5000) for step in range(9)] == [
        0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0
    ]  # fmt: skip
    assert learning_rate_at(0, 1, 5000) == 1


def test_negatives_harden_forwards() -> None:
    for wrong in ({"hard_from": 0.6, "hard_until": 0.1}, {"hard_until": 2.0}, {"hard_from": -0.1}):
        with pytest.raises(TrainingError, match=r"hard_from=.*hard_until=.*not above the second"):
            check_settings(TrainSettings(**wrong))


def test_what_learns_how_fast(resnet: Path) -> None:
    config = new_config(
        "tiny", vocab_size=100, cnn=str(resnet), patches="grid", image_size=64, cnn_image_size=64,
        freeze_cnn=False, frozen_cnn_stages=1, alignment_size=8, mlm=True, mpm=True,
    )  # fmt: skip
    network = new_model(config)
    settings = TrainSettings(
        learning_rate=1, head_learning_rate=2, cnn_learning_rate=3, weight_decay=0.5
    )
    groups = new_optimizer(network, settings).param_groups
    told = {
        id(value): (group["lr"], group["weight_decay"])
        for group in groups
        for value in group["params"]
    }
    assert len(told) == sum(len(group["params"]) for group in groups)
    found = {name: told.get(id(value)) for name, value in network.named_parameters()}
    stage = "patch_network.cnn.encoder.stages.{}.layers.0.layer.0.{}.weight"
    for name, wanted in {
        "text_embeddings.word.weight": (1, 0.5),
        "layers.0.qkv.weight": (1, 0.5),
        "layers.0.qkv.bias": (1, 0),
        "layers.3.output_norm.weight": (1, 0),
        "patch_embeddings.projection.weight": (2, 0.5),
        "patch_embeddings.norm.weight": (2, 0),
        "recall_head.text.weight": (2, 0.5),
        "recall_head.log_scale": (2, 0),
        "alignment_head.salience.weight": (2, 0.5),
        "match_head.classifier.weight": (2, 0.5),
        "masked_language_head.dense.weight": (2, 0.5),
        "masked_patch_head.decoder.weight": (2, 0.5),
        stage.format(1, "convolution"): (3, 0),
        stage.format(1, "normalization"): (3, 0),
        stage.format(0, "convolution"): None,
    }.items():
        assert found[name] == wanted, name
    learnt = {name for name, value in network.named_parameters() if value.requires_grad}
    assert {name for name, group in found.items() if group is not None} == learnt
    default = TrainSettings(learning_rate=1)
    rates = {group["lr"] for group in new_optimizer(network, default).param_groups}
    assert rates == {1, default.cnn_learning_rate}
