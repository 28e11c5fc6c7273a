"""What a run starts from: a text backbone, a CNN, or a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import TrainingError
from model.preprocess import TextTokenizer

if TYPE_CHECKING:
    from tests.model.conftest import Shop


def test_the_text_backbones_tokenizer_is_taken(
    shop: Shop, bert: Path, tokenizer: Path, tmp_path: Path
) -> None:
    overrides = {"image_size": 64, "joint_from": 1, "num_hidden_layers": 3, "hidden_size": 32}
    overrides |= {"intermediate_size": 48, "max_position_embeddings": 512}
    trainer = shop.trainer(tmp_path, text_backbone=str(bert), overrides=overrides)
    assert trainer.network.config.vocab_size == 1000
    ours, theirs = (
        TextTokenizer(path, 48).encode(["red dress"]).input_ids.tolist()
        for path in (tmp_path / "tokenizer.json", tokenizer)
    )
    assert ours == theirs
    (bert / "tokenizer.json").rename(bert / "hidden.json")
    try:
        with pytest.raises(TrainingError, match=r"has no tokenizer\.json or vocab\.txt"):
            shop.trainer(tmp_path / "other", text_backbone=str(bert), overrides=overrides)
    finally:
        (bert / "hidden.json").rename(bert / "tokenizer.json")


def test_a_tokenizer_of_more_tokens_than_there_are_vectors(
    shop: Shop, bert: Path, tmp_path: Path
) -> None:
    few = Path(shutil.copytree(bert, tmp_path / "bert"))
    config = json.loads((few / "config.json").read_text())
    (few / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    told = r"has \d+ tokens, its word embeddings only 100 \(vocab_size\): put the tokenizer there"
    with pytest.raises(TrainingError, match=told):
        shop.trainer(tmp_path / "run", text_backbone=str(few))
    assert not (tmp_path / "run" / "tokenizer.json").exists()  # another may be put there


def test_a_run_starts_from_a_checkpoint(shop: Shop, straight_run: Path, tmp_path: Path) -> None:
    best = Path(shutil.copytree(straight_run / "best", tmp_path / "best"))
    fresh = {"match_weight": 1, "recall_weight": 0, "shift": 0}
    fitted = {f"match_head.{name}": value for name, value in fresh.items()}
    given = load_file(best / "model.safetensors")
    given |= {name: torch.tensor(value + 0.5) for name, value in fitted.items()}
    save_file(given, best / "model.safetensors", metadata={"format": "pt"})
    taken = shop.trainer(tmp_path / "run", start_from=str(best)).network.state_dict()
    # The classifier too is as it was trained: what was fitted to unseen products lies beside it.
    kept = given.keys() - fitted.keys()
    assert all(torch.equal(taken[name].cpu(), given[name]) for name in kept)
    assert all(taken[name] == value for name, value in fitted.items())
    tokenizer = (tmp_path / "run" / "tokenizer.json").read_bytes()
    assert tokenizer == (best / "tokenizer.json").read_bytes()

    # A head that is drawn anew, and nothing else.
    anew = shop.trainer(tmp_path / "anew", start_from=str(best), fresh=["match"])
    drawn = anew.network.state_dict()
    same = {name for name in kept if torch.equal(drawn[name].cpu(), given[name])}
    heads = {"pooler.weight", "pooler.bias", "classifier.weight", "classifier.bias"}
    assert kept - same == {f"match_head.{name}" for name in heads}
    with pytest.raises(TrainingError, match="fresh='alignment': the network of this run has no"):
        shop.trainer(tmp_path / "none", start_from=str(best), fresh=["alignment"])
    with pytest.raises(TrainingError, match="fresh='matsch': there is no such head, only recall, "):
        shop.trainer(tmp_path / "none", start_from=str(best), fresh=["matsch"])

    grown = {**shop.small, "alignment_size": 16}  # a head more, freshly drawn
    shop.trainer(tmp_path / "grown", start_from=str(best), overrides=grown)
    wide = {**shop.small, "hidden_size": 32}
    with pytest.raises(TrainingError, match=r"another shape: its .* is \("):
        shop.trainer(tmp_path / "wide", start_from=str(best), overrides=wide)
    with pytest.raises(TrainingError, match="is no checkpoint"):
        shop.trainer(tmp_path / "none", start_from=str(straight_run))


def test_a_frozen_cnn_is_read_once_and_kept(shop: Shop, resnet: Path, tmp_path: Path) -> None:
    overrides = {**shop.small, "patches": "grid", "cnn_image_size": 64, "freeze_cnn": True}
    changes: dict[str, Any] = {"cnn": str(resnet), "overrides": overrides, "epochs": 1}
    best = shop.trainer(tmp_path, **changes).run()
    weights = load_file(best / "model.safetensors")
    pretrained = load_file(resnet / "model.safetensors")
    for name, value in pretrained.items():
        assert torch.equal(weights[f"patch_network.cnn.{name}"], value)

    overrides = {**overrides, "freeze_cnn": False}
    best = shop.trainer(tmp_path / "trained", **{**changes, "overrides": overrides}).run()
    weights = load_file(best / "model.safetensors")
    for name, value in pretrained.items():  # all but the statistics of the batch norms
        same = torch.equal(weights[f"patch_network.cnn.{name}"], value)
        assert same == ("running" in name or "num_batches" in name), name


def test_a_run_over_kept_maps(shop: Shop, resnet: Path, tmp_path: Path) -> None:
    overrides = {
        **shop.small,
        "patches": "grid",
        "cnn_image_size": 64,
        "freeze_cnn": False,
        "frozen_cnn_stages": 1,
    }
    changes: dict[str, Any] = {"cnn": str(resnet), "overrides": overrides, "epochs": 1}
    best = shop.trainer(tmp_path, keep_maps=True, joint_share=0.5, **changes).run()
    weights, pretrained = (load_file(x / "model.safetensors") for x in (best, resnet))
    for name, value in pretrained.items():
        frozen = name.startswith(("embedder", "encoder.stages.0")) or "running" in name
        same = torch.equal(weights[f"patch_network.cnn.{name}"], value)
        assert same == (frozen or "num_batches" in name), name


def test_a_cnn_that_cannot_be_served_is_told(shop: Shop, registers: Path, tmp_path: Path) -> None:
    overrides = {**shop.small, "patches": "grid", "cnn_image_size": 28, "freeze_cnn": True}
    told: list[str] = []
    shop.trainer(tmp_path, cnn=str(registers), overrides=overrides, note=told.append)
    assert told == [
        "what is trained here cannot be served: image_encoder.onnx cannot be exported (Exporting "
        "the operator 'aten::_upsample_bicubic2d_aa' to ONNX opset version 18 is not supported): "
        "train with another --cnn"
    ]


def test_where_nothing_can_be_tried_it_trains_all_the_same(
    shop: Shop, vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = {**shop.small, "patches": "grid", "cnn_image_size": 28, "freeze_cnn": True}
    told: list[str] = []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    shop.trainer(tmp_path / "run", cnn=str(vit), overrides=overrides, note=told.append)
    (line,) = told
    assert line.startswith("whether what is trained here can be served could not be tried: ")
