"""Runs that cannot start, or cannot go on."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoint import load_checkpoint
from model.dataset import Batch
from model.errors import TrainingError
from model.pretrained import pretrained
from model.train import Trainer

FilesUpTo = Callable[[int], AbstractContextManager[None]]

if TYPE_CHECKING:
    from tests.model.conftest import Shop


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["red dress"], "1 products with 1 different texts"),
        (["red dress"] * 5, "5 products with 1 different texts"),
        ([], "0 products with 0 different texts"),
    ],
)
def test_too_few_products(texts: list[str], told: str, shop: Shop, tmp_path: Path) -> None:
    products = [
        dataclasses.replace(product, text=text)
        for product, text in zip(shop.learn.products, texts, strict=False)
    ]
    few = dataclasses.replace(shop.learn, products=products, fingerprint="few")
    with pytest.raises(TrainingError, match=told):
        Trainer(shop.settings, few, None, tmp_path / "run", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_few_products_to_choose_by(shop: Shop, tmp_path: Path) -> None:
    for products in ([], shop.unseen.products[:1], [shop.unseen.products[0]] * 3):
        few = dataclasses.replace(shop.unseen, products=products, fingerprint="few")
        told = rf"\(--valid\) there are {len(products)} products with {min(len(products), 1)} diff"
        with pytest.raises(TrainingError, match=told):
            Trainer(shop.settings, shop.learn, few, tmp_path / "run", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"preset": "smal"}, "no preset 'smal'"),
        ({"epochs": 0}, "epochs=0: give a number above 0"),
        ({"epochs": math.nan}, "epochs=nan"),
        ({"learning_rate": -1e-4}, "learning_rate=-0.0001"),
        ({"validate_every": math.inf}, "validate_every=inf"),
        ({"head_learning_rate": -1e-3}, r"head_learning_rate=-0\.001: give a number above 0"),
        ({"head_learning_rate": math.nan}, "head_learning_rate=nan"),
        ({"clip": 0}, "clip=0: give a number above 0"),
        ({"warmup": -1}, "warmup=-1: give a number, 0 or more"),
        ({"weight_decay": math.inf}, "weight_decay=inf: give a number, 0 or more"),
        ({"same_group": math.nan}, "same_group=nan: give a share from 0 to 1"),
        ({"title_share": 1.5}, r"title_share=1\.5: give a share from 0 to 1"),
        ({"batch_size": 1}, "batch_size=1: give a whole number of at least 2"),
        ({"vocab_size": 0}, "vocab_size=0: give a whole number of at least 1"),
        ({"negatives": 0}, "negatives=0: give a whole number of at least 1"),
        ({"validate_queries": 0}, "validate_queries=0"),
        ({"patience": 0}, "patience=0"),
        ({"checkpoint_steps": 0}, "checkpoint_steps=0"),
        ({"seed": -1}, "seed=-1: give a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "seed=4294967296: give"),
        ({"start_from": "/no/run"}, r"start_from: /no/run is no checkpoint \(it has no config"),
        ({"start_from": str(pretrained())}, "is no checkpoint, but a bundle, which is served and"),
        ({"fresh": ["match"]}, "without --start-from all heads are drawn anew"),
        ({"cnn": "/no/cnn"}, "cnn was given, but the preset 'tiny' has no CNN"),
        ({"overrides": {"freeze_cnn": True}}, "freeze_cnn was given, but the preset 'tiny' has no"),
        ({"overrides": {"frozen_cnn_stages": 2}}, "frozen_cnn_stages was given, but the preset"),
        ({"overrides": {"cnn_image_size": 224}}, "cnn_image_size was given, but the preset"),
        (
            {"preset": "base", "overrides": {"frozen_cnn_stages": 2}},
            "frozen_cnn_stages=2 is of a CNN that is trained, and here all of it is frozen",
        ),
        (
            {"preset": "small", "overrides": {"frozen_cnn_stages": 2, "freeze_cnn": True}},
            "frozen_cnn_stages=2 is of a CNN that is trained",
        ),
        ({"weighting": "gradnorm"}, "no weighting 'gradnorm': choose one of equal, fixed"),
        ({"weighting": "fixed"}, "'fixed' needs the weight of each task"),
        ({"task_weights": {"match": 1.0}}, "were given, but the weighting is 'equal'"),
        (
            {"weighting": "fixed", "task_weights": {"match": 1.0}},
            "weights are for match, but the tasks are match, recall: give exactly one weight",
        ),
        (
            {"weighting": "fixed", "task_weights": {"match": 1.0, "recall": -1.0}},
            "the weight of 'recall' is -1",
        ),
        ({"mixed_precision": "fp8"}, "mixed_precision='fp8': auto, bf16, fp16 or no"),
    ],
)
def test_settings_that_cannot_be(
    changes: dict[str, Any], told: str, shop: Shop, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=told):
        shop.trainer(tmp_path / "run", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"cannot be written to .* choose another folder"):
        shop.trainer(tmp_path / "file" / "run")


def test_another_precision_in_one_process(shop: Shop, tmp_path: Path) -> None:
    first = shop.trainer(tmp_path / "first").settings.mixed_precision
    with pytest.raises(TrainingError, match="run of this process had another"):
        shop.trainer(tmp_path / "run", mixed_precision="bf16" if first == "no" else "no")
    assert not (tmp_path / "run").exists()


def test_other_refusals_of_accelerate_are_not_taken_for_it(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise ValueError("RANK expected, but not set")

    monkeypatch.setattr("model.train.Accelerator", refuse)
    with pytest.raises(ValueError, match="RANK expected"):
        shop.trainer(tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run(shop: Shop, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"learning_rate": 1e30, "warmup": 0.0, "checkpoint_steps": 1}
    told = r"at step 1: lower the learning rate \(1e\+30\); the checkpoints in .* are untouched"
    for _ in range(2):  # the second time from the state that stands
        with pytest.raises(TrainingError, match=told):
            shop.trainer(tmp_path, **changes).run()
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
        weights = load_file(tmp_path / "checkpoints" / "step-00000001" / "model.safetensors")
        assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    assert [line["step"] for line in shop.lines(tmp_path)] == [0]


class Broken(Trainer):
    """A run whose sixth step leaves a weight that is no number, and does not notice."""

    def _step(self, batch: Batch) -> dict[str, float]:
        figures = super()._step(batch)
        if self.progression.step == 5:
            with torch.no_grad():
                self.network.layers[1].qkv.bias[0] = math.nan
        return figures


def test_a_broken_network_is_neither_chosen_nor_saved(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"layers\.1\.qkv\.bias is not finite at step 6"):
        shop.trainer(tmp_path, Broken).run()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    assert json.loads((tmp_path / "best" / "training.json").read_text())["step"] == 3
    load_checkpoint(tmp_path / "best")


def test_a_full_disk_leaves_what_was_saved(
    straight_run: Path, interrupted_run: Path, shop: Shop, tmp_path: Path, files_up_to: FilesUpTo
) -> None:
    out = tmp_path / "run"
    shutil.copytree(interrupted_run, out)
    # Room for the weights, which are what best/ holds, but not for the optimizer's state.
    weights = (out / "best" / "model.safetensors").stat().st_size
    told = r"step-00000006 cannot be written .*: step-00000003 stands; make room and start again"
    with pytest.raises(TrainingError, match=told), files_up_to(int(1.5 * weights)):
        shop.trainer(out).run()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]
    load_checkpoint(out / "best")
    shop.trainer(out).run()
    shop.assert_same_run(out, straight_run)


def test_a_full_disk_as_a_run_goes_on(
    interrupted_run: Path, shop: Shop, tmp_path: Path, files_up_to: FilesUpTo
) -> None:
    out = tmp_path / "run"
    shutil.copytree(interrupted_run, out)
    before = (out / "log.jsonl").read_bytes()
    # Steps that will be done again have to go from the log first.
    told = r"log\.jsonl cannot be written .*: make room and start again with the same command"
    trainer = shop.trainer(out)
    with trainer, pytest.raises(TrainingError, match=told), files_up_to(len(before) // 4):
        trainer.run()
    assert (out / "log.jsonl").read_bytes() == before


def test_a_full_disk_before_anything_was_saved(
    straight_run: Path, shop: Shop, tmp_path: Path, files_up_to: FilesUpTo
) -> None:
    out = tmp_path / "run"
    weights = (straight_run / "best" / "model.safetensors").stat().st_size
    told = r"best cannot be written .*File too large.*: make room"
    with pytest.raises(TrainingError, match=told), files_up_to(weights // 2):
        shop.trainer(out).run()
    left = {path.name for path in out.iterdir()}
    assert left == {".lock", "log.jsonl", "run.json", "tokenizer.json"}
    shop.trainer(out).run()
    shop.assert_same_run(out, straight_run)


def test_a_damaged_best_checkpoint_is_told_at_the_end(
    straight_run: Path, shop: Shop, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(straight_run, tmp_path / "run"))
    for damaged in ("[]", '{"calibration": 3}', "{bad"):
        (out / "best" / "training.json").write_text(damaged)
        with pytest.raises(TrainingError, match=r"training\.json cannot be used .* it is damaged"):
            shop.trainer(out).run()
