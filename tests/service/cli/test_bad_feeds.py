"""Feeds that are odd or bad, from the command line: trained on, or refused in one line."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

FilesUpTo = Callable[[int], AbstractContextManager[None]]

Shell = Callable[..., Any]
Rows = list[dict[str, str]]
COLOURS = ("red", "green", "blue", "black", "grey", "pink")
QUICK = ("--preset", "tiny", "--epochs", "1", "--batch-size", "4", "--validate-queries", "4")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar with a picture a colour, and an all-white one."""
    path = tmp_path_factory.mktemp("pictures") / "images.tar"
    with tarfile.open(path, "w") as archive:
        for name in (*COLOURS, "white"):
            buffer = io.BytesIO()
            Image.new("RGB", (48, 64), name).save(buffer, "PNG")
            entry = tarfile.TarInfo(f"{name}.png")
            entry.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(entry, buffer)
    return path


def rows(count: int = 12, **cells: str) -> Rows:
    """Products with a text of their own each; `cells` are the same in all of them."""
    return [
        {
            "id": str(n),
            "image": f"{COLOURS[n % len(COLOURS)]}.png",
            "title": f"{COLOURS[n % len(COLOURS)]} coat number {n}",
            "kind": "coat",
            **cells,
        }
        for n in range(count)
    ]


@pytest.fixture
def feed(pictures: Path, tmp_path: Path) -> Callable[[Rows], Path]:
    """Writes a feed beside the pictures."""
    (tmp_path / "images.tar").symlink_to(pictures)

    def write(products: Rows) -> Path:
        path = tmp_path / "feed.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(products[0]))
            writer.writeheader()
            writer.writerows(products)
        return path

    return write


Write = Callable[[Rows], Path]


def trained(shell: Shell, feed: Path, run: Path, *options: object) -> list[dict[str, Any]]:
    """The lines of a training's log, every number in it a real one."""
    ran = shell("train", feed, "--out", run, *QUICK, "--hold-out", "0.34", *options)
    assert ran.code == 0, ran.err
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line for line in log if "validation" not in line]
    assert steps
    for line in steps:
        assert all(math.isfinite(line[task]) for task in line["weights"])
    assert any("validation" in line for line in log)
    return steps


def refused(ran: Any) -> str:
    """The one line that a user's mistake is."""
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
    (error,) = (line for line in ran.err.splitlines() if line.startswith("error: "))
    return str(error)


def test_one_product(feed: Write, shell: Shell, tmp_path: Path) -> None:
    source, run = feed(rows(1)), tmp_path / "run"
    command = ["train", source, "--out", run, *QUICK]
    error = refused(shell(*command))
    assert "1 products with 1 different texts are too few to hold some out" in error
    assert "--hold-out" not in error  # no share helps
    assert "1 products with 1 different texts: there is nothing to tell apart" in refused(
        shell(*command, "--valid", source)
    )
    assert not run.exists()


def test_the_same_text_everywhere(feed: Write, shell: Shell, tmp_path: Path) -> None:
    source = feed(rows(6, title="coat"))
    ran = shell("train", source, "--out", tmp_path / "run", *QUICK, "--valid", source)
    assert "6 products with 1 different texts" in refused(ran)
    assert not (tmp_path / "run").exists()


def test_one_sub_category(feed: Write, shell: Shell, tmp_path: Path) -> None:
    trained(shell, feed(rows()), tmp_path / "run", "--group-by", "kind")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["same_group"] == 0.5


def test_no_text_column(feed: Write, shell: Shell, tmp_path: Path) -> None:
    products = [{name: row[name] for name in ("id", "image", "kind")} for row in rows()]
    source = feed(products)
    error = refused(shell("train", source, "--out", tmp_path / "run", *QUICK))
    assert (
        "has neither a column 'title' nor 'description'; its columns are id, image, kind" in error
    )
    assert "--text" in error
    assert not (tmp_path / "run").exists()


def test_nothing_in_the_text_column(feed: Write, shell: Shell, tmp_path: Path) -> None:
    ran = shell("train", feed(rows(title=" ")), "--out", tmp_path / "run", *QUICK)
    error = refused(ran)
    assert "no row of " in error
    assert "empty_text" in error
    assert "Mend the feed" in error


def test_all_white_pictures(feed: Write, shell: Shell, tmp_path: Path) -> None:
    source = feed(rows(image="white.png"))
    ran = shell("train", source, "--out", tmp_path / "run", *QUICK, "--hold-out", "0.34")
    assert "pictures are the same, pixel for pixel, so no text can find its own" in refused(ran)


def test_most_pictures_white(feed: Write, shell: Shell, tmp_path: Path) -> None:
    products = [{**row, "image": "white.png"} if n % 3 else row for n, row in enumerate(rows())]
    trained(shell, feed(products), tmp_path / "run", "--mlm", "--mpm")


LONG = "merino wool with a collar, " * 185  # 4,995 characters


@pytest.mark.parametrize(
    "titles",
    [
        [f"{n:>5}{LONG}" for n in range(12)],
        [picture * (n + 1) for n in range(6) for picture in ("👗", "👠")],
        ["👩🏽‍🦰", "👩🏿‍🦰", "🇫🇷", "🇮🇹", "❤️", "❤", "♀️", "🧥🧣", "🧤", "☔️", "👟", "🎩"],
    ],
    ids=["5,000 characters", "emoji", "emoji of several signs"],
)
def test_texts_that_nobody_wrote(
    titles: list[str], feed: Write, shell: Shell, tmp_path: Path
) -> None:
    products = [{**row, "title": title} for row, title in zip(rows(), titles, strict=True)]
    steps = trained(shell, feed(products), tmp_path / "run", "--mlm")
    assert list(steps[0]["weights"]) == ["recall", "match", "mlm"]


@pytest.mark.parametrize(
    "titles",
    [
        [f"{'x' * 4990}{n:010}" for n in range(12)],  # a word too long for any vocabulary
        [f"{LONG}{n}" for n in range(12)],
    ],
    ids=["one word of 5,000", "the same beginning"],
)
def test_texts_that_read_the_same(
    titles: list[str], feed: Write, shell: Shell, tmp_path: Path
) -> None:
    """They differ to the letter, and not in what the model reads."""
    products = [{**row, "title": title} for row, title in zip(rows(), titles, strict=True)]
    source = feed(products)
    for options in (("--hold-out", "0.34"), ("--valid", source)):
        ran = shell("train", source, "--out", tmp_path / "run", *QUICK, *options)
        assert "texts read the same in the first 48 tokens, or are unknown" in refused(ran)


def test_a_loss_that_is_no_number(feed: Write, shell: Shell, tmp_path: Path) -> None:
    """The state saved before stands, and the same command tells the same again."""
    command = ["train", feed(rows()), "--out", tmp_path / "run", *QUICK, "--hold-out", "0.34"]
    command += ["--learning-rate", "1e30", "--warmup", "0", "--checkpoint-steps", "1"]
    for _ in range(2):
        error = refused(shell(*command))
        assert "lower the learning rate (1e+30); the checkpoints in" in error
        assert "are untouched" in error
        states = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
        assert states == ["step-00000001"]


def test_a_checkpoint_of_another_shape(feed: Write, shell: Shell, tmp_path: Path) -> None:
    source, run, other = feed(rows()), tmp_path / "run", tmp_path / "other"
    trained(shell, source, run)
    trained(shell, source, other, "--image-size", "64", "--patch-grid", "4")
    (state,) = (run / "checkpoints").iterdir()
    (theirs,) = (other / "checkpoints").iterdir()
    whole = (state / "model.safetensors").read_bytes()
    shutil.copyfile(theirs / "model.safetensors", state / "model.safetensors")
    log = (run / "log.jsonl").read_bytes()
    error = refused(shell("train", source, "--out", run, *QUICK, "--hold-out", "0.34"))
    assert f"{state} cannot be loaded (" in error
    assert "it is of another shape or damaged; remove it to start again" in error
    assert (run / "log.jsonl").read_bytes() == log
    (state / "model.safetensors").write_bytes(whole)
    trained(shell, source, run)

    shutil.copyfile(other / "best" / "model.safetensors", run / "best" / "model.safetensors")
    for command in (
        ("export", run / "best", "--out", tmp_path / "bundle"),
        ("evaluate", source, "--checkpoint", run / "best"),
    ):
        error = refused(shell(*command))
        assert f"{run / 'best'} cannot be loaded (" in error
        assert "of another shape than its config.json" in error
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("room", "told"),
    [
        (100, "run cannot be written to ("),
        (2_000, "tokenizer.json cannot be written ("),
        (100_000, "cannot be written to"),
        (500_000, "best cannot be written ("),
    ],
    ids=["for nothing", "for run.json", "for the tokenizer", "for the pictures"],
)
def test_a_full_disk(
    room: int, told: str, feed: Write, shell: Shell, tmp_path: Path, files_up_to: FilesUpTo
) -> None:
    source, run = feed(rows()), tmp_path / "run"
    command = ["train", source, "--out", run, *QUICK, "--hold-out", "0.34"]
    with files_up_to(room):
        error = refused(shell(*command))
    assert told in error
    assert not list(run.rglob("*.part"))
    assert not list(run.rglob("*.tmp"))
    # With room again the same command does it all.
    trained(shell, source, run)


def test_a_full_disk_leaves_the_log_as_it_was(
    feed: Write, shell: Shell, tmp_path: Path, files_up_to: FilesUpTo
) -> None:
    source, run = feed(rows()), tmp_path / "run"
    trained(shell, source, run)
    log, settings = run / "log.jsonl", run / "run.json"
    before = log.read_bytes()
    room = settings.stat().st_size + 200
    assert room < len(before)
    with files_up_to(room):
        error = refused(shell("train", source, "--out", run, *QUICK, "--hold-out", "0.34"))
    assert f"{log} cannot be written (" in error
    assert log.read_bytes() == before
    assert not list(run.glob("*.tmp"))
