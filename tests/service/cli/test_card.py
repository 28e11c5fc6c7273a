from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.bundle import Bundle

Shell = Callable[..., Any]


@pytest.fixture
def own(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "bundle"))


def test_the_card_of_an_evaluation(
    own: Path, demo_catalogue: Path, shell: Shell, tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    feed = demo_catalogue / "val.csv"
    command = ["evaluate", feed, "--bundle", own, "--queries", "4", "--candidates", "4"]
    assert shell(*command, "--json", figures).code == 0
    ran = shell("card", f"drawn={figures}", "--bundle", own, "--reference", f"drawn={figures}")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == f"the model card is {own / 'README.md'}\n"
    card = (own / "README.md").read_text(encoding="utf-8")
    measured = json.loads(figures.read_text())
    rank1 = measured["image_to_text"]["sampled"]["two_stage"]["rank1"]
    assert f"| drawn | image → text | {rank1:.1f} | {rank1:.1f} | +0.0 |" in card
    assert "4 queries each way over 32 held-out products" in card


def test_a_bundle_that_cannot_be_written_into(
    own: Path, demo_catalogue: Path, shell: Shell, tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    command = ["evaluate", demo_catalogue / "val.csv", "--bundle", own, "--queries", "2"]
    assert shell(*command, "--no-full-rerank", "--json", figures).code == 0
    (own / "README.md").mkdir()
    ran = shell("card", f"drawn={figures}", "--bundle", own)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        f"error: the model card cannot be written into {own} (Is a directory): make it writable, "
        "or copy the bundle and name the copy with --bundle\n"
    )


def test_mistakes_are_one_line(own: Path, shell: Shell, tmp_path: Path) -> None:
    for arguments, told in (
        (["figures.json"], "'figures.json': give NAME=FILE"),
        (["=figures.json"], "'=figures.json': give NAME=FILE"),
        (["a=", "--bundle", own], "'a=': give NAME=FILE"),
        (["a=1.json", "a=2.json"], "'a=2.json': give NAME=FILE, each name once"),
        (["a=/nowhere/1.json"], "/nowhere/1.json cannot be read: No such file"),
        (["a=1.json", "--bundle", tmp_path / "none"], "is no model bundle"),
    ):
        ran = shell("card", "--bundle", own, *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("error: ")
        assert ran.err.count("\n") == 1
        assert told in ran.err


def test_whose_card_it_is_must_be_said(shell: Shell) -> None:
    """By default it would be written over that of the model that comes along."""
    ran = shell("card", "shop=figures.json")
    assert ran.code == 2
    assert "--bundle" in ran.err
