from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from model.backbones import new_config, new_model
from model.bundle import Bundle

Shell = Callable[..., Any]
FilesUpTo = Callable[[int], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def checkpoint(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint with what a training says about itself."""
    folder = tmp_path_factory.mktemp("run") / "best"
    torch.manual_seed(0)
    new_model(new_config("tiny", vocab_size=1000, image_size=64)).save_pretrained(folder)
    shutil.copyfile(bundle.path / "tokenizer.json", folder / "tokenizer.json")
    (folder / "training.json").write_text(json.dumps({"calibration": [2.0, -1.0]}))
    return folder


def test_export(checkpoint: Path, shell: Shell, tmp_path: Path) -> None:
    ran = shell("export", checkpoint, "--out", tmp_path / "bundle")
    assert (ran.code, ran.out) == (0, "")
    written = Bundle.open(tmp_path / "bundle")
    assert tuple(written.manifest.calibration) == (2.0, -1.0)
    (line,) = ran.err.splitlines()
    assert line.startswith(f"model {written.model_id}, fp32, in {tmp_path / 'bundle'}: at most ")
    # A second time into the same folder: the same content has the same name.
    assert shell("export", checkpoint, "--out", tmp_path / "bundle").code == 0
    assert Bundle.open(tmp_path / "bundle").model_id == written.model_id


def test_mistakes_are_one_line(checkpoint: Path, shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    damaged = tmp_path / "damaged"
    shutil.copytree(checkpoint, damaged)
    (damaged / "model.safetensors").write_bytes(b"")
    for source, target, told in (
        (tmp_path / "none", tmp_path / "b", f"{tmp_path / 'none'} is no checkpoint (it has no"),
        (checkpoint.parent, tmp_path / "b", "give a run's best/ folder"),
        (damaged, tmp_path / "b", f"{damaged} cannot be loaded"),
        (checkpoint, tmp_path / "letters", "holds something that is no bundle"),
    ):
        ran = shell("export", source, "--out", target)
        assert (ran.code, ran.out) == (2, "")
        (line,) = ran.err.splitlines()
        assert line.startswith("error: ")
        assert told in line
    assert not (tmp_path / "b").exists()
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["letter.txt"]


def test_a_folder_that_cannot_be_replaced_is_told_before_the_export(
    checkpoint: Path, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    both = ["--precision", "fp32", "--precision", "fp16"]
    for options, told in (
        (["--out", "."], "error: . is the folder that this runs in"),
        (["--out", tmp_path / "file"], f"{tmp_path / 'file'} is a file"),
        (["--out", tmp_path / "file", *both], f"{tmp_path / 'file'} is a file"),
    ):
        # No checkpoint at all: what is wrong with the folder is looked for first.
        ran = shell("export", tmp_path / "none", *options)
        assert (ran.code, ran.out) == (2, "")
        assert told in ran.err
        assert ran.err.count("\n") == 1
    # What goes into the folder one stands in, rather than in its place, is welcome.
    ran = shell("export", checkpoint, "--out", "bundle")
    assert ran.code == 0, ran.err
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["empty"]
    assert Bundle.open(tmp_path / "empty" / "bundle").manifest.precision == "fp32"


def test_precisions(checkpoint: Path, demo_catalogue: Path, shell: Shell, tmp_path: Path) -> None:
    ran = shell(
        "export", checkpoint, "--out", tmp_path, "--precision", "fp32", "--precision", "int8",
        "--calibrate", demo_catalogue / "train.csv", "--measure", demo_catalogue / "val.csv",
        "--group-by", "product_type", "--queries", "4",
    )  # fmt: skip
    assert (ran.code, ran.out) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fp32", "int8"]
    fp32, int8 = Bundle.open(tmp_path / "fp32"), Bundle.open(tmp_path / "int8")
    assert (fp32.manifest.precision, int8.manifest.precision) == ("fp32", "int8")
    lines = [line for line in ran.err.splitlines() if line.startswith(("model", "Rank@1"))]
    assert lines[0].startswith(f"model {fp32.model_id}, fp32, in {fp32.path}: at most ")
    assert lines[1].startswith(f"model {int8.model_id}, int8, in {int8.path}, ")
    figures = int8.manifest.metrics["precision"]
    assert figures["errors"]["samples"] == 32
    for line, direction in zip(lines[2:], ("text_to_image", "image_to_text"), strict=True):
        found = figures["rank1"][direction]
        assert line == (
            f"Rank@1 {direction.replace('_to_', ' → ')}, 4 queries: {found['here']:.2f}, "
            f"fp32 {found['fp32']:.2f}, a loss of {found['loss']:.2f} points"
        )


def test_one_precision_is_the_bundle_itself(checkpoint: Path, shell: Shell, tmp_path: Path) -> None:
    ran = shell("export", checkpoint, "--out", tmp_path / "bundle", "--precision", "fp16")
    assert (ran.code, ran.out) == (0, "")
    assert Bundle.open(tmp_path / "bundle").manifest.precision == "fp16"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_is_not_read_is_told(
    checkpoint: Path, demo_catalogue: Path, shell: Shell, tmp_path: Path
) -> None:
    feed = demo_catalogue / "val.csv"
    ran = shell(
        "export", checkpoint, "--out", tmp_path / "a", "--calibrate", feed, "--measure", feed
    )
    assert ran.code == 0
    assert f"--calibrate {feed} is not read, as it is for --precision int8" in ran.err
    assert f"--measure {feed} is not read, as it is for --precision fp16 or int8" in ran.err


def test_a_full_temporary_folder_is_named(
    checkpoint: Path, shell: Shell, tmp_path: Path, files_up_to: FilesUpTo
) -> None:
    with files_up_to(100_000):
        ran = shell("export", checkpoint, "--out", tmp_path / "bundle")
    assert ran.code == 2
    assert "made in a temporary folder first, which TMPDIR chooses" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_has_not_ended_is_told(
    checkpoint: Path, demo_catalogue: Path, shell: Shell, tmp_path: Path
) -> None:
    best = Path(shutil.copytree(checkpoint, tmp_path / "best"))
    (best / "training.json").write_text(json.dumps({"step": 3}))
    ran = shell("export", best, "--out", tmp_path / "bundle")
    assert ran.code == 0
    fitted = tmp_path / "fitted"
    assert "has not ended" not in shell("export", checkpoint, "--out", fitted).err
    assert ran.err.startswith(f"{best} is of a training that has not ended, or")
    feed = demo_catalogue / "val.csv"
    for own, told in ((tmp_path / "bundle", True), (fitted, False)):
        ran = shell("evaluate", feed, "--bundle", own, "--queries", "2", "--no-rerank-all")
        assert ran.code == 0, ran.err
        assert ("training that has not ended" in ran.err) == told


def test_what_is_measured_on_must_have_two_products(
    checkpoint: Path, demo_catalogue: Path, shell: Shell, tmp_path: Path
) -> None:
    head, *rows = (demo_catalogue / "val.csv").read_text().splitlines()
    feed = tmp_path / "one.csv"
    feed.write_text(f"{head}\n{rows[0]}\n")
    pictures = ("--images", next(demo_catalogue.glob("images*")))
    ran = shell(
        "export", checkpoint, "--out", tmp_path / "bundle", "--precision", "fp16",
        "--measure", feed, *pictures,
    )  # fmt: skip
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-1] == (
        f"error: --measure {feed} has one product: there is nothing to rank it against"
    )
    assert not (tmp_path / "bundle").exists()
