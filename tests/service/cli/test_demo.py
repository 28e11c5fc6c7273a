from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from index.snapshot import Snapshot
from model.bundle import Bundle
from model.card import write_card

SMALL = ("--products", "64", "--held-out", "24", "--no-serve")
TRAINING = ("torch", "transformers", "accelerate", "safetensors", "h5py", "matplotlib")


def demo(folder: Path, *arguments: object, path: Path | None = None) -> str:
    """What `fashionbert demo` says, in a process of its own, as it starts others."""
    command = [sys.executable, "-m", "service.cli", "demo", "--out", str(folder), *SMALL]
    environment = {**os.environ, "FASHIONBERT_BUNDLE": "/nowhere"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    ended = subprocess.run(
        [*command, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def steps(said: str) -> list[str]:
    return [line.split()[2] for line in said.splitlines() if line.startswith("$ fashionbert")]


@pytest.fixture
def without_training(tmp_path: Path) -> Path:
    """A place to put first on Python's path: there the extra `train` is not installed."""
    folder = tmp_path / "path"
    folder.mkdir()
    for name in TRAINING:
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is not installed here')\n")
    return folder


def test_with_a_model_it_needs_no_training(
    bundle: Bundle, other_bundle: Bundle, without_training: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    said = demo(folder, "--bundle", bundle.path, path=without_training)
    assert steps(said) == ["catalogue", "index"]
    assert sorted(entry.name for entry in folder.iterdir()) == ["catalogue", "snapshots"]
    assert not (folder / "catalogue" / "train.csv").exists()
    snapshot = Snapshot.open(folder / "snapshots", model_id=bundle.model_id)
    # The very products that a model trained on the demo catalogue has not seen.
    assert [snapshot.ids[0], snapshot.ids[-1]] == ["demo-00065", "demo-00088"]
    assert f"FASHIONBERT_BUNDLE={bundle.path} " in said

    assert steps(demo(folder, "--bundle", bundle.path, path=without_training)) == []
    # A snapshot of another model is of no use.
    assert steps(demo(folder, "--bundle", other_bundle.path, path=without_training)) == ["index"]
    Snapshot.open(folder / "snapshots", model_id=other_bundle.model_id)


def test_released_figures_are_shown(bundle: Bundle, demo_catalogue: Path, tmp_path: Path) -> None:
    released = Path(shutil.copytree(bundle.path, tmp_path / "released"))
    figures = tmp_path / "figures.json"
    command = ["evaluate", demo_catalogue / "val.csv", "--bundle", released, "--queries", "4"]
    evaluate = [sys.executable, "-m", "service.cli", *map(str, command), "--json", str(figures)]
    subprocess.run(evaluate, check=True, capture_output=True, timeout=300)
    card = write_card(Bundle.open(released), {"drawn": figures}, {})
    said = demo(tmp_path / "demo", "--bundle", released)
    assert f"Measured when this model was released ({card}):" in said
    sampled = json.loads(figures.read_text())["text_to_image"]["sampled"]["two_stage"]
    (line,) = (line for line in said.splitlines() if "text → image" in line)
    assert line.split()[0] == "drawn"
    assert f"Rank@1 {sampled['rank1']:.1f} % among 32 held-out products" in line


def test_training_from_nothing_and_then_in_no_time(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    train = ("--train", "--epochs", "1")
    said = demo(folder, *train)
    assert steps(said) == ["catalogue", "train", "export", "index", "evaluate"]
    bundle = Bundle.open(folder / "bundle")
    snapshot = Snapshot.open(folder / "snapshots", model_id=bundle.model_id)
    assert len(snapshot) == 24
    figures = json.loads((folder / "figures.json").read_text())
    reached = figures["text_to_image"]["sampled"]["two_stage"]["rank1"]
    assert f"Rank@1 {reached:.1f} %" in said
    # A model of one step over 64 products is not good, and the demo does not hide that.
    assert "BELOW 80 %" in said

    again = demo(folder, *train)
    assert steps(again) == []
    assert f"Rank@1 {reached:.1f} %" in again
    assert f"FASHIONBERT_BUNDLE={folder / 'bundle'}" in again

    # One step lost is one step done again.
    (folder / "figures.json").unlink()
    said = demo(folder, *train)
    assert [line for line in said.splitlines() if line.startswith("$ fashionbert")] == [
        f"$ fashionbert evaluate {folder / 'catalogue' / 'val.csv'} --bundle {folder / 'bundle'} "
        f"--group-by product_type --json {folder / 'figures.json'}"
    ]


def test_two_models_are_one_too_many(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "demo", "--train", "--bundle", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --train makes a model of its own")
