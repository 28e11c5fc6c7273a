"""Runs that are started again in the folder where they ended."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from model.errors import TrainingError
from model.train import Trainer

if TYPE_CHECKING:
    from tests.model.conftest import Shop


def test_interrupted_it_goes_on_to_the_bit(
    straight_run: Path, interrupted_run: Path, shop: Shop, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(interrupted_run, out)
    assert [line["step"] for line in shop.steps(out)] == [0, 1, 2, 3]
    # Killed while it saved a state: what is half there is not taken for one.
    (out / "checkpoints" / ".step-00000004.part").mkdir()
    (out / "checkpoints" / ".step-00000004.part" / "model.safetensors").write_bytes(b"half")
    with (out / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "rec')
    np.random.seed(5)
    torch.manual_seed(5)
    shop.trainer(out).run()
    shutil.rmtree(out / "checkpoints" / ".step-00000004.part")
    shop.assert_same_run(out, straight_run)


def test_killed_between_two_renames(straight_run: Path, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight_run, out)
    (out / "best").rename(out / ".best.old")
    shop.trainer(out).run()
    shop.assert_same_run(out, straight_run)
    assert not (out / ".best.old").exists()


def test_a_run_at_its_end_stays_as_it_is(straight_run: Path, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight_run, out)
    assert shop.trainer(out).run() == out / "best"
    shop.assert_same_run(out, straight_run)
    shutil.rmtree(out / "best")
    with pytest.raises(TrainingError, match=r"best is gone, though the run in .* is at its end"):
        shop.trainer(out).run()


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "custom_checkpoint_1.pkl"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "removed"])
def test_a_damaged_state_is_told(
    file: str, damage: str, interrupted_run: Path, shop: Shop, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(interrupted_run, out)
    path = out / "checkpoints" / "step-00000003" / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    if damage == "removed":
        path.unlink()
    with pytest.raises(TrainingError, match=r"step-00000003 cannot be loaded .* start again"):
        shop.trainer(out).run()


@pytest.mark.parametrize("content", [b"", b'{"seed": 1', b"[1]", b"\xff"])
def test_damaged_settings_are_told(
    content: bytes, interrupted_run: Path, shop: Shop, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(interrupted_run, out)
    (out / "run.json").write_bytes(content)
    with pytest.raises(TrainingError, match=r"run\.json is damaged .* or remove .* start again"):
        shop.trainer(out)
    assert (out / "run.json").read_bytes() == content


def test_other_settings_in_the_folder_are_refused(
    interrupted_run: Path, shop: Shop, tmp_path: Path
) -> None:
    before = (interrupted_run / "run.json").read_bytes()
    told = r"holds a run with other settings \(learning_rate, seed\): choose another folder"
    with pytest.raises(TrainingError, match=told):
        shop.trainer(interrupted_run, seed=1, learning_rate=2e-3)
    assert (interrupted_run / "run.json").read_bytes() == before
    other_feed = dataclasses.replace(shop.learn, fingerprint="another")
    with pytest.raises(TrainingError, match=r"other settings \(feed\)"):
        Trainer(shop.settings, other_feed, shop.unseen, interrupted_run, cache=shop.cache)


def test_a_run_that_never_saved_leaves_nothing_behind(shop: Shop, tmp_path: Path) -> None:
    """Its tokenizer above all: another preset has another one."""
    shop.trainer(tmp_path, vocab_size=120)
    few = (tmp_path / "tokenizer.json").read_bytes()
    trainer = shop.trainer(tmp_path, vocab_size=400)
    assert (tmp_path / "tokenizer.json").read_bytes() != few
    assert trainer.network.config.vocab_size == 400
