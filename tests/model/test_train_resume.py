"""Runs that are started again in the folder where they ended."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import TrainingError
from model.files import exchange
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


def test_a_state_is_saved_at_each_validation(shop: Shop, tmp_path: Path) -> None:
    """So that a run of fewer steps than stand between two states loses an epoch at most."""
    shop.interrupt(tmp_path, before=4, checkpoint_steps=1000)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_killed_between_two_renames(straight_run: Path, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight_run, out)
    (out / "best").rename(out / ".best.old")
    shop.trainer(out).run()
    shop.assert_same_run(out, straight_run)
    assert not (out / ".best.old").exists()


def test_what_a_killed_run_left_half_written_is_in_nobodys_way(
    straight_run: Path, interrupted_run: Path, shop: Shop, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(interrupted_run, out)
    for left in (out / ".best.part", out / "checkpoints" / ".step-00000006.part"):
        left.mkdir()
        (left / "half").write_bytes(b"half")
    shop.trainer(out).run()
    shop.assert_same_run(out, straight_run)
    assert not list(out.rglob("*.part"))
    assert not list(out.rglob("half"))


def test_a_run_at_its_end_stays_as_it_is(straight_run: Path, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight_run, out)
    assert shop.trainer(out).run() == out / "best"
    shop.assert_same_run(out, straight_run)
    shutil.rmtree(out / "best")
    with pytest.raises(TrainingError, match=r"best is gone, though the run in .* is at its end"):
        shop.trainer(out).run()


@pytest.mark.parametrize(
    "file",
    ["model.safetensors", "optimizer.bin", "custom_checkpoint_1.pkl", "random_states_0.pkl"],
)
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


def test_settings_that_are_gone_are_told(interrupted_run: Path, shop: Shop, tmp_path: Path) -> None:
    out = Path(shutil.copytree(interrupted_run, tmp_path / "run"))
    (out / "run.json").unlink()
    with pytest.raises(TrainingError, match=r"run\.json is damaged \(it is gone\)"):
        shop.trainer(out, learning_rate=2e-3)
    assert not (out / "run.json").exists()


def test_other_settings_in_the_folder_are_refused(
    interrupted_run: Path, shop: Shop, tmp_path: Path
) -> None:
    before = (interrupted_run / "run.json").read_bytes()
    told = (
        r"holds a run with other settings \(learning_rate, seed\): choose another folder, where "
        rf"--start-from {interrupted_run}/best begins with its weights"
    )
    with pytest.raises(TrainingError, match=told):
        shop.trainer(interrupted_run, seed=1, learning_rate=2e-3)
    assert (interrupted_run / "run.json").read_bytes() == before
    other_feed = dataclasses.replace(shop.learn, fingerprint="another")
    with pytest.raises(TrainingError, match=r"other settings \(feed\)"):
        Trainer(shop.settings, other_feed, shop.unseen, interrupted_run, cache=shop.cache)
    # The best state is the one that ranks these best: ranks of others do not compare with theirs.
    others = dataclasses.replace(shop.unseen, fingerprint="another")
    for valid in (others, None):
        with pytest.raises(TrainingError, match=r"other settings \(valid\)"):
            Trainer(shop.settings, shop.learn, valid, interrupted_run, cache=shop.cache)
    assert (interrupted_run / "run.json").read_bytes() == before


def test_another_number_of_processes_is_refused(
    interrupted_run: Path, straight_run: Path, shop: Shop, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(interrupted_run, tmp_path / "run"))
    described = json.loads((out / "run.json").read_text())
    assert described["processes"] == 1
    (out / "run.json").write_text(json.dumps({**described, "processes": 2}))
    with pytest.raises(TrainingError, match=r"other settings \(processes\)"):
        shop.trainer(out)
    # A run of before the number was noted goes on, if there are as many as saved its state.
    del described["processes"]
    (out / "run.json").write_text(json.dumps(described))
    state = out / "checkpoints" / "step-00000003"
    shutil.copy(state / "random_states_0.pkl", state / "random_states_1.pkl")
    with pytest.raises(TrainingError, match="random states of 2 processes, and here are 1"):
        shop.trainer(out).run()
    (state / "random_states_1.pkl").unlink()
    shop.trainer(out).run()
    shop.assert_same_run(out, straight_run)
    assert json.loads((out / "run.json").read_text())["processes"] == 1


def test_a_run_of_before_mirrors_and_shifts_were_apart_goes_on(
    interrupted_run: Path, straight_run: Path, shop: Shop, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(interrupted_run, tmp_path / "run"))
    described = json.loads((out / "run.json").read_text())
    both = {name: described.pop(name) for name in ("mirror", "shift")}
    assert both == {"mirror": True, "shift": True}
    (out / "run.json").write_text(json.dumps({**described, "augment": False}))
    with pytest.raises(TrainingError, match=r"other settings \(mirror, shift\)"):
        shop.trainer(out)
    (out / "run.json").write_text(json.dumps({**described, "augment": True}))
    shop.trainer(out).run()
    shop.assert_same_run(out, straight_run)


def test_a_start_that_has_changed_is_refused(
    straight_run: Path, shop: Shop, tmp_path: Path
) -> None:
    best = Path(shutil.copytree(straight_run / "best", tmp_path / "best"))
    shop.interrupt(tmp_path / "run", start_from=str(best))
    weights = load_file(best / "model.safetensors")
    weights["match_head.classifier.bias"] += 1
    save_file(weights, best / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"other settings \(start_from_weights\)"):
        shop.trainer(tmp_path / "run", start_from=str(best))


def test_a_cnn_that_has_changed_is_refused(shop: Shop, resnet: Path, tmp_path: Path) -> None:
    """What it makes of the pictures is kept, and the state has the CNN of before."""
    cnn = Path(shutil.copytree(resnet, tmp_path / "cnn"))
    own = dataclasses.replace(shop, cache=tmp_path / "cache")
    frozen = {"patches": "grid", "cnn_image_size": 64, "freeze_cnn": True}
    changes: dict[str, Any] = {"cnn": str(cnn), "overrides": {**shop.small, **frozen}}
    own.interrupt(tmp_path / "run", checkpoint_steps=1, before=1, **changes)
    before = (cnn / "model.safetensors").read_bytes()
    kept = sorted((tmp_path / "cache").iterdir())
    weights = load_file(cnn / "model.safetensors")
    weights["encoder.stages.1.layers.0.shortcut.normalization.running_mean"] += 1
    save_file(weights, cnn / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"other settings \(the CNN's weights, .*running_mean"):
        own.trainer(tmp_path / "run", checkpoint_steps=1, **changes)
    assert sorted((tmp_path / "cache").iterdir()) == kept
    (cnn / "model.safetensors").write_bytes(before)
    own.trainer(tmp_path / "run", checkpoint_steps=1, **changes).close()


WORKER = """
import sys
from pathlib import Path
from model.catalogue import read_catalogue
from model.train import Trainer
from model.train_settings import TrainSettings

feed, out, cache = map(Path, sys.argv[1:])
overrides = {"hidden_size": 64, "num_hidden_layers": 3, "image_size": 64}
settings = TrainSettings(preset="tiny", overrides=overrides)
with read_catalogue(feed / "train.csv", check_images=False) as learn:
    trainer = Trainer(settings, learn, None, out, cache=cache)
    print("at work", flush=True)
    sys.stdin.read()
"""


def test_one_run_at_a_time(
    demo_catalogue: Path, interrupted_run: Path, straight_run: Path, shop: Shop, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = [demo_catalogue, out, tmp_path / "cache"]
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "at work\n"
            described = (out / "run.json").read_bytes()
            told = rf"another training is at work in {out}: wait for its end, or choose another"
            with pytest.raises(TrainingError, match=told):
                shop.trainer(out)
            assert (out / "run.json").read_bytes() == described
        finally:
            other.kill()
    # Killed, it is at its end; and so is one that cannot start, or has been closed.
    shutil.rmtree(out)
    shutil.copytree(interrupted_run, out)
    with pytest.raises(TrainingError, match="other settings") as refused:
        shop.trainer(out, seed=1)
    with pytest.raises(TrainingError, match="is of another shape") as cut:
        shop.trainer(tmp_path / "new", start_from=str(interrupted_run / "best"), overrides={})
    shop.trainer(tmp_path / "new", epochs=1).close()
    with shop.trainer(out) as trainer:
        trainer.run()
        with pytest.raises(TrainingError, match="another training is at work"):
            Trainer(shop.settings, shop.learn, shop.unseen, out, cache=shop.cache)
    shop.assert_same_run(out, straight_run)
    assert refused.tb is not None  # whoever keeps the errors keeps no folder with them
    assert cut.tb is not None


class Disk:
    """What a run asks of the disk, in order: the files made durable, and the folders renamed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: set[int] = set()
        self.placed: list[str] = []
        self.lost: list[str] = []
        fsync, rename, rmtree = os.fsync, os.rename, shutil.rmtree

        def synced(handle: int) -> None:
            fsync(handle)
            self.synced.add(os.fstat(handle).st_ino)

        def placed(source: Path, target: Path) -> None:
            """Put in place are only such files as a power cut would leave whole."""
            files = [source, *source.rglob("*")]
            self.lost += [path.name for path in files if path.stat().st_ino not in self.synced]
            self.placed.append(target.name)

        def swapped(source: Path, target: Path) -> bool:
            placed(source, target)
            return exchange(source, target)

        def renamed(source: Path, target: Path) -> None:
            if source.name.endswith(".part") and not target.name.endswith(".old"):
                placed(source, target)
            self.synced.discard(target.parent.stat().st_ino)
            rename(source, target)

        def removed(path: Path, **options: Any) -> None:
            """What was there before goes only when the rename is durable."""
            older = path.exists() and path.name.startswith(("step-", ".best.old"))
            if older and path.parent.stat().st_ino not in self.synced:
                self.lost.append(path.name)
            rmtree(path, **options)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "rename", renamed)
        monkeypatch.setattr("model.files.exchange", swapped)
        monkeypatch.setattr(shutil, "rmtree", removed)


def test_a_power_cut_leaves_one_state(
    straight_run: Path, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    shop.trainer(tmp_path).run()
    shop.assert_same_run(tmp_path, straight_run)
    assert [name for name in disk.placed if name != "best"] == ["step-00000003", "step-00000006"]
    assert "best" in disk.placed
    assert disk.lost == []


def test_a_run_that_never_saved_leaves_nothing_behind(shop: Shop, tmp_path: Path) -> None:
    """Its tokenizer above all: another preset has another one."""
    shop.trainer(tmp_path, vocab_size=120)
    few = (tmp_path / "tokenizer.json").read_bytes()
    trainer = shop.trainer(tmp_path, vocab_size=400)
    assert (tmp_path / "tokenizer.json").read_bytes() != few
    assert trainer.network.config.vocab_size == 400
