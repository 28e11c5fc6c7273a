"""Runs that go well: what they leave, and that they learn."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from model.checkpoint import load_checkpoint
from model.preprocess import TextTokenizer
from model.schedule import learning_rate_at
from model.train import Trainer
from model.validate import validate

if TYPE_CHECKING:
    from tests.model.conftest import Shop


def test_the_folder_of_a_run(straight_run: Path, shop: Shop) -> None:
    assert {path.name for path in straight_run.iterdir()} == {
        ".lock",
        "best",
        "checkpoints",
        "curves.png",
        "log.jsonl",
        "run.json",
        "tokenizer.json",
    }
    assert [path.name for path in (straight_run / "checkpoints").iterdir()] == ["step-00000006"]
    assert {path.name for path in (straight_run / "best").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "training.json",
    }
    training = json.loads((straight_run / "best" / "training.json").read_text())
    assert training["text_template"] == "{title}. {description}"
    slope, intercept = training["calibration"]
    assert slope > 0
    assert math.isfinite(intercept)
    for figures in (training["figures"], training["figures_before_fit"]):
        assert figures["text_to_image"]["sampled"]["rerank"]["rank_last"] == 100
    settings = json.loads((straight_run / "run.json").read_text())
    assert settings["feed"] == shop.learn.fingerprint
    assert settings["valid"] == shop.unseen.fingerprint
    assert (settings["preset"], settings["overrides"]) == ("tiny", shop.small)


def test_the_figures_are_of_the_score_that_is_served(
    straight_run: Path, shop: Shop, tmp_path: Path
) -> None:
    run = shutil.copytree(straight_run, tmp_path / "run")
    trainer = shop.trainer(run)
    assert trainer.validation is not None
    assert trainer.validation.products.has_several_views
    told = json.loads((run / "best" / "training.json").read_text())["figures"]
    network = load_checkpoint(run / "best").to(trainer.device)
    seen = validate(network, trainer.validation, rerank_all=True).figures
    assert told["stacking"][0] > 0
    for way in ("text_to_image", "image_to_text"):
        assert told[way] == seen[way]


def test_the_best_checkpoint_is_a_model(straight_run: Path) -> None:
    model = load_checkpoint(straight_run / "best")
    assert model.config.hidden_size == 64
    tokens = TextTokenizer(straight_run / "best" / "tokenizer.json", 48).encode(["red dress"])
    assert tokens.input_ids.max() < model.config.vocab_size


def test_its_files_are_for_whom_the_umask_says(straight_run: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in straight_run.rglob("best/*")}
    assert "model.safetensors" in modes
    assert set(modes.values()) == {stat.S_IMODE((straight_run / "run.json").stat().st_mode)}


def test_the_log_has_a_line_a_step(straight_run: Path, shop: Shop) -> None:
    log = shop.lines(straight_run)
    steps = [line for line in log if "validation" not in line]
    assert [line["step"] for line in steps] == list(range(6))
    assert set(steps[0]) == {
        "step", "recall", "match", "match_accuracy", "weights", "hardness", "lr"
    }  # fmt: skip
    assert all(line["weights"] == {"recall": 0.5, "match": 0.5} for line in steps)
    assert [line["step"] for line in log if "validation" in line] == [3, 6, 6]
    assert [line["step"] for line in log if line.get("final")] == [6]
    rates = [learning_rate_at(step, 6, shop.settings.warmup) for step in range(6)]
    peak = shop.settings.learning_rate
    assert [line["lr"] for line in steps] == pytest.approx([peak * rate for rate in rates])


def test_a_run_may_end_within_an_epoch(shop: Shop, tmp_path: Path) -> None:
    """At its last step: beyond it the learning rate is 0, and the log says what never counted."""
    shop.trainer(tmp_path, epochs=1.2).run()
    steps = [line["step"] for line in shop.lines(tmp_path) if "validation" not in line]
    assert steps == [0, 1, 2, 3]
    training = json.loads((tmp_path / "best" / "training.json").read_text())
    assert training["step"] <= 4
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


def test_no_run_validates_more_often_than_it_steps(shop: Shop, tmp_path: Path) -> None:
    shop.trainer(tmp_path, epochs=1, validate_every=0.01).run()
    validated = [line["step"] for line in shop.lines(tmp_path) if "validation" in line]
    assert validated == [1, 2, 3, 3], "the last one is of what is fitted at the end"


def test_two_products_are_enough(shop: Shop, tmp_path: Path) -> None:
    products = shop.learn.products[:2]
    few = dataclasses.replace(shop.learn, products=products, fingerprint="two")
    settings = dataclasses.replace(shop.settings, epochs=1, negatives=3)
    notes: list[str] = []
    trainer = Trainer(settings, few, None, tmp_path / "run", cache=tmp_path, note=notes.append)
    best = trainer.run()
    assert "negatives=3: a batch of 2 products has 1 for each of them" in notes
    # Nothing to choose by: the last state is kept, and no probability is fitted.
    training = json.loads((best / "training.json").read_text())
    assert training == {"text_template": None}
    assert [line["step"] for line in shop.lines(tmp_path / "run")] == [0]


def test_it_learns(shop: Shop, tmp_path: Path) -> None:
    trainer = shop.trainer(
        tmp_path,
        epochs=20,
        learning_rate=4e-3,
        same_group=0.0,
        hard_from=1.0,  # with hard negatives the match of so short a run stays at chance
        hard_until=1.0,
        mirror=False,
        shift=False,
        validate_every=100,
        overrides={**shop.small, "hidden_dropout_prob": 0.0},
    )
    trainer.run()
    log = shop.steps(tmp_path)
    first, last = log[0], log[-1]
    assert first["recall"] > math.log(32) * 0.8  # chance
    assert last["recall"] < math.log(32) / 2
    matched = [line["match"] for line in log]
    assert matched[0] == pytest.approx(math.log(4), rel=0.01)  # chance: label and rank
    assert np.mean(matched[-10:]) < 0.97 * matched[0]


def test_negatives_become_harder(shop: Shop, straight_run: Path) -> None:
    log = shop.steps(straight_run)
    assert [log[0]["hardness"], log[-1]["hardness"]] == [0, 1]


def test_each_process_drops_out_something_else(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    for process in range(2):
        monkeypatch.setattr(Accelerator, "process_index", process)
        shop.trainer(tmp_path / str(process))
        drawn.append(torch.rand(8))
    assert not torch.equal(*drawn)


def test_it_stops_when_it_gets_no_better(shop: Shop, tmp_path: Path) -> None:
    notes: list[str] = []
    trainer = shop.trainer(tmp_path, note=notes.append, learning_rate=1e-12, epochs=20, patience=2)
    trainer.run()
    *ranks, last = [re.sub(r"\d+\.\d %", "R %", note) for note in notes]
    told = "Rank@1 R %, the mean of both ways"
    assert ranks[0] == f"step 3 of 60: {told}, the best so far"
    assert ranks[1:] == [f"step 6 of 60: {told}", f"step 9 of 60: {told}"]
    assert last == "stopped at step 9 of 60: no better rank in 2 validations"
    assert trainer.progression.stopped
    log = shop.lines(tmp_path)
    assert [line["step"] for line in log if "validation" not in line] == list(range(9))
    assert json.loads((tmp_path / "best" / "training.json").read_text())["step"] == 3
    # Started again, it knows that it has stopped.
    shop.trainer(tmp_path, learning_rate=1e-12, epochs=20, patience=2).run()
    assert shop.lines(tmp_path) == log


def test_titles_are_for_training_only(shop: Shop, tmp_path: Path) -> None:
    trainer = shop.trainer(tmp_path, title_share=1.0)
    batch = next(iter(trainer._batches()))
    assert bool(batch.titled.all())
    assert trainer.validation is not None
    assert trainer.validation.products.title_share == 0


@pytest.mark.parametrize(
    "overrides",
    [
        {"recall_size": 0, "stack_recall": False},
        {"joint_from": 0, "stack_recall": False},
        {"joint_from": 0, "stack_recall": False, "recall_size": 0},
    ],
    ids=["no recall head", "k = 0", "the paper's form"],
)
def test_other_forms_train_too(overrides: dict[str, Any], shop: Shop, tmp_path: Path) -> None:
    trainer = shop.trainer(tmp_path, epochs=1, negatives=2, overrides={**shop.small, **overrides})
    before = trainer.network.layers[0].qkv.weight.detach().clone()
    best = trainer.run()
    log = shop.lines(tmp_path)
    has_recall = trainer.network.recall_head is not None
    assert ("recall" in log[0]) == has_recall
    # Nothing tells look-alikes without a recall head: what is logged is what was done.
    assert shop.steps(tmp_path)[-1]["hardness"] == (1 if has_recall else 0)
    assert not torch.equal(trainer.network.layers[0].qkv.weight, before)
    assert load_checkpoint(best).config.joint_from == overrides.get("joint_from", 2)
    figures = json.loads((best / "training.json").read_text())["figures"]
    assert figures["image_to_text"]["sampled"]["rerank"]["rank_last"] == 100
