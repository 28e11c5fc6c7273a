"""How a run weights its tasks, and the masked ones among them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from model.checkpoint import load_checkpoint
from model.train_settings import tasks_of

if TYPE_CHECKING:
    from tests.model.conftest import Shop

#: A network has these tasks only when it is told to.
MASKED = {"mlm": True, "mpm": True}


@pytest.mark.parametrize("weighting", ["adaptive-loss", "adaptive-gradient"])
def test_the_tasks_can_be_weighted(weighting: str, shop: Shop, tmp_path: Path) -> None:
    shop.trainer(tmp_path, epochs=1, weighting=weighting).run()
    weights = [line["weights"] for line in shop.steps(tmp_path)]
    assert weights[0] == {"recall": 0.5, "match": 0.5}  # Algorithm 1 starts at 1/K
    for one in weights:
        assert sum(one.values()) == pytest.approx(1, abs=1e-5)
        assert all(1 / 3 - 1e-5 <= weight <= 2 / 3 + 1e-5 for weight in one.values())
    assert any(one["recall"] != pytest.approx(0.5, abs=1e-4) for one in weights[1:])


def test_with_the_masked_tasks_it_goes_on_to_the_bit(shop: Shop, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "overrides": {**shop.small, **MASKED},
        "weighting": "adaptive-gradient",
    }
    shop.trainer(tmp_path / "straight", **changes).run()
    shop.interrupt(tmp_path / "again", before=4, **changes)
    torch.manual_seed(5)
    shop.trainer(tmp_path / "again", **changes).run()
    shop.assert_same_run(tmp_path / "again", tmp_path / "straight")
    log = shop.steps(tmp_path / "straight")
    assert log[0]["weights"] == dict.fromkeys(("recall", "match", "mlm", "mpm"), 0.25)
    for line in log:
        assert sum(line["weights"].values()) == pytest.approx(1, abs=1e-5)
        assert all(1 / 5 - 1e-5 <= w <= 4 / 13 + 1e-5 for w in line["weights"].values())
    assert any(line["weights"] != log[0]["weights"] for line in log[1:])
    load_checkpoint(tmp_path / "straight" / "best")


def test_the_masked_tasks_are_learnt(shop: Shop, resnet: Path, tmp_path: Path) -> None:
    # A frozen CNN: what is to be told of a patch does not move.
    overrides = {
        **shop.small,
        **MASKED,
        "patches": "grid",
        "cnn_image_size": 64,
        "freeze_cnn": True,
    }
    trainer = shop.trainer(
        tmp_path,
        valid=False,
        cnn=str(resnet),
        epochs=10,
        learning_rate=3e-3,
        overrides={**overrides, "hidden_dropout_prob": 0.0},
    )
    trainer.run()
    log = shop.lines(tmp_path)
    vocabulary = math.log(trainer.network.config.vocab_size)
    assert log[0]["mlm"] == pytest.approx(vocabulary, rel=0.1)  # chance
    first, last = (
        {task: np.mean([line[task] for line in part]) for task in ("mlm", "mpm", "recall")}
        for part in (log[:4], log[-4:])
    )
    assert last["mlm"] < 0.8 * first["mlm"]
    assert last["mpm"] < 0.5 * first["mpm"]
    assert last["recall"] < 0.95 * first["recall"]


@pytest.mark.parametrize("task", ["mlm", "mpm"])
def test_one_masked_task_without_the_other(task: str, shop: Shop, tmp_path: Path) -> None:
    trainer = shop.trainer(tmp_path, valid=False, epochs=1, overrides={**shop.small, task: True})
    trainer.run()
    assert set(shop.lines(tmp_path)[0]["weights"]) == {"recall", "match", task}
    assert set(tasks_of(trainer.settings)) == {"recall", "match", task}


@pytest.mark.parametrize("weighting", ["adaptive-loss", "adaptive-gradient"])
def test_the_papers_three_tasks(weighting: str, shop: Shop, resnet: Path, tmp_path: Path) -> None:
    overrides = {**shop.small, **MASKED, "joint_from": 0, "stack_recall": False, "recall_size": 0}
    overrides |= {"patches": "crop", "cnn_image_size": 16, "freeze_cnn": True, "patch_grid": 4}
    changes: dict[str, Any] = {"cnn": str(resnet), "overrides": overrides, "epochs": 1}
    trainer = shop.trainer(tmp_path, weighting=weighting, **changes)
    heads = (trainer.network.masked_language_head, trainer.network.masked_patch_head)
    before = [[value.clone() for value in head.state_dict().values()] for head in heads if head]
    best = trainer.run()
    log = shop.steps(tmp_path)
    assert set(log[0]["weights"]) == {"match", "mlm", "mpm"}
    assert all(math.isfinite(line[task]) for line in log for task in ("match", "mlm", "mpm"))
    after = [list(head.state_dict().values()) for head in heads if head]
    for old, new in zip(before, after, strict=True):
        assert not any(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    assert load_checkpoint(best).config.mpm


def test_recall_and_match_see_everything(shop: Shop, tmp_path: Path) -> None:
    """At the first step recall and match are what they are without the masked tasks."""
    overrides = {**shop.small, "hidden_dropout_prob": 0.0}
    changes: dict[str, Any] = {"valid": False, "epochs": 1}
    plain = shop.trainer(tmp_path / "plain", overrides=overrides, **changes)
    overrides = {**overrides, "mlm": True, "mpm": True}
    tasks = shop.trainer(tmp_path / "tasks", overrides=overrides, **changes)
    tasks.network.load_state_dict(plain.network.state_dict(), strict=False)
    for trainer in (plain, tasks):
        trainer.run()
    first = [shop.lines(tmp_path / name)[0] for name in ("plain", "tasks")]
    for task in ("recall", "match", "match_accuracy"):
        assert first[0][task] == pytest.approx(first[1][task], rel=1e-5)
