from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from index.snapshot import Snapshot
from model.bundle import Bundle

SMALL = ("--products", "64", "--held-out", "24", "--epochs", "1", "--no-serve")


def demo(folder: Path) -> str:
    """What `fashionbert demo` says, in a process of its own, as it starts others."""
    command = [sys.executable, "-m", "service.cli", "demo", "--out", str(folder), *SMALL]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def test_from_nothing_and_then_in_no_time(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    said = demo(folder)
    steps = [line.split()[2] for line in said.splitlines() if line.startswith("$ fashionbert")]
    assert steps == ["catalogue", "train", "export", "index", "evaluate"]
    bundle = Bundle.open(folder / "bundle")
    snapshot = Snapshot.open(folder / "snapshots", model_id=bundle.model_id)
    assert len(snapshot) == 24
    figures = json.loads((folder / "figures.json").read_text())
    reached = figures["text_to_image"]["sampled"]["two_stage"]["rank1"]
    assert f"Rank@1 {reached:.1f} %" in said
    # A model of one step over 64 products is not good, and the demo does not hide that.
    assert "BELOW 80 %" in said

    again = demo(folder)
    assert "$ fashionbert" not in again
    assert f"Rank@1 {reached:.1f} %" in again
    assert f"FASHIONBERT_BUNDLE={folder / 'bundle'}" in again

    # One step lost is one step done again.
    (folder / "figures.json").unlink()
    assert [line for line in demo(folder).splitlines() if line.startswith("$ fashionbert")] == [
        f"$ fashionbert evaluate {folder / 'catalogue' / 'val.csv'} --bundle {folder / 'bundle'} "
        f"--group-by product_type --json {folder / 'figures.json'}"
    ]
