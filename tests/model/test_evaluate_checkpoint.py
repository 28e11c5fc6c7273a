from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.backbones import new_config, new_model
from model.checkpoint import load_checkpoint
from model.config import FashionBertConfig
from model.errors import FashionBertError, TrainingError
from model.evaluate import evaluate
from model.evaluate_bundle import EvaluatedBundle
from model.evaluate_checkpoint import EvaluatedCheckpoint
from model.export import export_bundle
from model.inputs import prepare_inputs
from model.mixed_precision import processor_computes_bf16
from model.network import FashionBertModel
from model.product import Catalogue

DIRECTIONS = ("text_to_image", "image_to_text")
PRECISION = "bf16" if processor_computes_bf16() else "fp32"


def save(network: FashionBertModel, tokenizer: Path, folder: Path) -> Path:
    network.save_pretrained(folder)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def network(small: FashionBertConfig) -> FashionBertModel:
    torch.manual_seed(0)
    model = FashionBertModel(small)
    model.match_head.recall_weight.fill_(5)
    return model


@pytest.fixture(scope="module")
def best(
    network: FashionBertModel, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run's best/ folder after the training has ended."""
    folder = save(network, tokenizer, tmp_path_factory.mktemp("run") / "best")
    training = {"step": 1200, "calibration": [2.0, 0.0], "text_template": "{title}"}
    (folder / "training.json").write_text(json.dumps(training))
    return folder


def test_a_checkpoint_ranks_as_its_bundle(
    network: FashionBertModel, best: Path, tokenizer: Path, unseen: Catalogue, tmp_path: Path
) -> None:
    checkpoint = EvaluatedCheckpoint(best, device="cpu")
    assert checkpoint.about == {"checkpoint": str(best), "step": 1200, "precision": PRECISION}
    assert checkpoint.name == f"{best} (step 1,200, {PRECISION})"
    assert (checkpoint.text_template, checkpoint.fitted) == ("{title}", True)
    assert checkpoint.has_recall
    bundle = EvaluatedBundle(export_bundle(network, tokenizer, tmp_path / "b")[0].path, threads=1)
    results = []
    for model in (checkpoint, bundle):
        encoded = model.encode(unseen, "product_type")
        results.append(evaluate(encoded, model.match, queries=12, candidates=8))
    ours, theirs = results
    assert ours.figures.keys() == theirs.figures.keys()
    for one, other in zip(ours.samples, theirs.samples, strict=True):
        assert np.abs(one.recalled - other.recalled).max() < 0.02  # bf16
        assert np.abs(one.logits - other.logits).max() < 0.05 * np.abs(other.logits).max()
    assert not list(Path(tempfile.gettempdir()).glob("fashionbert-*"))


def test_passes_are_cut_by_length(
    best: Path, unseen: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = EvaluatedCheckpoint(best, device="cpu")
    encoded = checkpoint.encode(unseen)
    rows = np.arange(12)
    texts, images = encoded.texts[rows], encoded.images[rows]
    assert len(set(np.count_nonzero(texts.scales, axis=1).tolist())) > 1
    cases = [(texts, images), (texts[:1], images), (texts, images[:1]), (texts[:0], images[:0])]
    whole = [checkpoint.match(some, others) for some, others in cases]
    assert [len(logits) for logits in whole] == [12, 12, 12, 0]
    assert np.std(whole[0]) > 0.1
    longest = int(np.count_nonzero(texts.scales, axis=1).max())
    monkeypatch.setattr("model.evaluate_checkpoint._TOKENS", 5 * (longest + images.scales.shape[1]))
    for (some, others), expected in zip(cases, whole, strict=True):
        logits = checkpoint.match(some, others)
        np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max(initial=1))


def test_the_papers_model_is_evaluated_by_its_rerank(
    bert: Path, resnet: Path, unseen: Catalogue, tmp_path: Path
) -> None:
    config = new_config(
        "paper", text_backbone=str(bert), cnn=str(resnet), cnn_image_size=32, max_text_tokens=48
    )
    assert (config.joint_from, config.recall_size, config.freeze_cnn) == (0, 0, True)
    torch.manual_seed(0)
    model = new_model(config, str(bert))
    prepare_inputs(model, unseen, tmp_path / "features")  # as the run did
    folder = save(model, bert / "tokenizer.json", tmp_path / "run" / "best")
    checkpoint = EvaluatedCheckpoint(folder, device="cpu", cache=tmp_path / "features")
    assert not checkpoint.has_recall
    assert checkpoint.fitted, "nothing is stacked"
    assert checkpoint.about["step"] is None
    assert checkpoint.name == f"{folder} ({PRECISION})"
    encoded = checkpoint.encode(unseen, "product_type")
    assert len(list((tmp_path / "features").glob("*.npy"))) == 1, "they are found again"
    figures = evaluate(encoded, checkpoint.match, queries=4).figures
    for direction in DIRECTIONS:
        assert figures[direction].keys() == {"sampled"}
        assert figures[direction]["sampled"].keys() == {"rerank"}
        assert figures[direction]["sampled"]["rerank"]["rank_last"] == 100
    assert 0 <= figures["matching"]["auc"] <= 100


@pytest.mark.parametrize("frozen", [{"freeze_cnn": True}, {"frozen_cnn_stages": 1}])
def test_what_a_run_kept_frozen_is_frozen(
    frozen: dict[str, Any], bert: Path, resnet: Path, tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {"cnn_image_size": 32, "max_text_tokens": 48}
    overrides = {"freeze_cnn": False, **frozen, **sizes}
    config = new_config("paper", text_backbone=str(bert), cnn=str(resnet), **overrides)
    model = new_model(config, str(bert))
    loaded = load_checkpoint(save(model, bert / "tokenizer.json", tmp_path / "best"))
    learns = [
        {name for name, value in each.named_parameters() if value.requires_grad}
        for each in (model, loaded)
    ]
    assert learns[0] == learns[1] < dict(model.named_parameters()).keys()


def test_the_runs_own_cache_is_used(best: Path, unseen: Catalogue, tmp_path: Path) -> None:
    own = Path(shutil.copytree(best, tmp_path / "run" / "best"))
    (tmp_path / "run" / "cache").mkdir()
    (own / "training.json").write_text("{}")
    checkpoint = EvaluatedCheckpoint(own, device="cpu")
    assert not checkpoint.fitted, "its training has not ended"
    checkpoint.encode(unseen)
    (array,) = (tmp_path / "run" / "cache").glob("*.npy")
    written = array.stat().st_mtime_ns
    checkpoint.encode(unseen)
    assert array.stat().st_mtime_ns == written


def test_mistakes(best: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is no checkpoint"):
        EvaluatedCheckpoint(tmp_path)
    with pytest.raises(FashionBertError, match="device 'tpu': choose 'cpu' or 'cuda'"):
        EvaluatedCheckpoint(best, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(FashionBertError, match="this torch sees no GPU"):
            EvaluatedCheckpoint(best, device="cuda")
    own = Path(shutil.copytree(best, tmp_path / "own"))
    for damaged in ("{", "[]", "\x00"):
        (own / "training.json").write_text(damaged)
        with pytest.raises(TrainingError, match=r"training\.json cannot be used .* damaged"):
            EvaluatedCheckpoint(own, device="cpu")
