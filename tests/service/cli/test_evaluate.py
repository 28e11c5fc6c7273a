from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.bundle import Bundle

Shell = Callable[..., Any]


def test_evaluate(demo_catalogue: Path, bundle: Bundle, shell: Shell, tmp_path: Path) -> None:
    command = ["evaluate", demo_catalogue / "val.csv", "--bundle", bundle.path, "--threads", "1"]
    command += ["--queries", "6", "--candidates", "4", "--group-by", "product_type"]
    ran = shell(*command, "--json", tmp_path / "figures.json")
    assert ran.code == 0, ran.err
    assert "val.csv: 32 rows, 32 products" in ran.err
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["model_id"] == bundle.model_id
    assert (figures["queries"], figures["products"]) == (6, 32)
    for way in ("text_to_image", "image_to_text"):
        assert set(figures[way]["sampled"]) == {"recall", "rerank", "two_stage"}
        assert set(figures[way]["full"]) == {"recall", "two_stage"}
        assert all(stage["rank_last"] == 100 for stage in figures[way]["sampled"].values())
        assert all(stage["candidates"] == 32 for stage in figures[way]["full"].values())
    assert f"{bundle.model_id} on val.csv, 6 queries each way" in ran.out
    assert ran.out.count("two stage") == 4
    # The seed is all that is drawn.
    again = shell(*command)
    assert again.out == ran.out


def test_without_a_bundle(
    demo_catalogue: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASHIONBERT_BUNDLE", raising=False)
    ran = shell("evaluate", demo_catalogue / "val.csv")
    assert (ran.code, ran.out) == (2, "")
    assert "--bundle or set FASHIONBERT_BUNDLE" in ran.err


def test_mistakes_are_one_line(
    demo_catalogue: Path, bundle: Bundle, shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "one.csv").write_text("id,image,title\n1,images/000001.jpg,hat\n")
    (tmp_path / "same.csv").write_text(
        "id,image,title\n1,images/000001.jpg,hat\n2,images/000002.jpg,hat\n"
    )
    pictures = ["--images", demo_catalogue / "images.tar", "--text", "{title}"]
    feed = demo_catalogue / "val.csv"
    for arguments, told in (
        ([tmp_path / "none.csv"], str(tmp_path / "none.csv")),
        ([tmp_path / "one.csv", *pictures], "one.csv has one product: there is nothing to rank"),
        ([tmp_path / "same.csv", *pictures], "every product has the same text"),
        ([feed, "--group-by", "brand"], "--group-by brand: the feed has no such column; it has"),
        ([feed, "--bundle", tmp_path], str(tmp_path)),
    ):
        ran = shell("evaluate", "--bundle", bundle.path, *arguments)
        assert (ran.code, ran.out) == (2, "")
        (line,) = (line for line in ran.err.splitlines() if line.startswith("error: "))
        assert told in line
        assert "Traceback" not in ran.err
