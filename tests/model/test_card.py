from __future__ import annotations

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from model.bundle import Bundle
from model.card import CARD, FIGURES, read_evaluation, render_card, write_card
from model.errors import FashionBertError


def stage(rank1: float, candidates: int = 101, **more: Any) -> dict[str, Any]:
    return {
        "queries": 1000,
        "candidates": candidates,
        "rank1": rank1,
        "rank5": 91.25,
        "rank10": 97.5,
        "mean_rank": 1234.5,
        "rank_last": 100.0,
        "low": rank1 - 3,
        "high": rank1 + 3,
        "mean_rank_low": 1200.0,
        "mean_rank_high": 1270.0,
        **more,
    }


GAIN = {"rank1": 6.0, "low": 4.5, "high": 7.5}
LOSS = {"rank1": -0.2, "low": -0.6, "high": 0.3}


def evaluation(model_id: str, rank1: float, precision: str = "int8") -> dict[str, Any]:
    """As `fashionbert evaluate --json` writes it."""
    way = {
        "sampled": {
            "recall": stage(rank1 - 6),
            "two_stage": stage(rank1, over_recall=GAIN, over_rerank=LOSS),
            "rerank": stage(rank1 + 0.2),
        },
        "full": {
            "recall": stage(rank1 - 16, 2501),
            "two_stage": stage(rank1 - 10, 2501, over_recall=GAIN),
        },
    }
    return {
        "model_id": model_id,
        "precision": precision,
        "feed": "val.csv",
        "feed_fingerprint": "3f",
        "group_by": "product_type",
        "seed": 0,
        "candidates": 64,
        "queries": 1000,
        "products": 2501,
        "text_to_image": way,
        "image_to_text": deepcopy(way),
        "matching": {"accuracy": 93.21, "auc": 98.76, "auc_low": 98.1, "auc_high": 99.2},
    }


@pytest.fixture
def own(bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle that a test may write into."""
    return Bundle.open(Path(shutil.copytree(bundle.path, tmp_path / "small")))


def saved(path: Path, figures: Any) -> Path:
    path.write_text(json.dumps(figures))
    return path


def test_every_figure_is_the_evaluations(own: Bundle, tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("## Data\n\nDrawn garments.\n")
    shop = saved(tmp_path / "int8.json", evaluation(own.model_id, 61.5))
    fp32 = saved(tmp_path / "fp32.json", evaluation("fb-0123456789abcdef", 61.8, "fp32"))
    card = write_card(own, {"shop": shop}, {"shop": fp32}, notes)
    assert card == own.path / CARD
    text = card.read_text(encoding="utf-8")
    assert text.startswith("# FashionBERT `small`\n")
    size = sum((own.path / name).stat().st_size for name in own.manifest.files) / 1e6
    for line in (
        f"| model | `{own.model_id}` |",
        f"| size | {size:.1f} MB |",
        "1,000 queries each way over 2,501 held-out products, negatives of the same "
        "`product_type`, 64 candidates reranked.",
        "| text → image | sampled, 101 | two stages | 61.5 (58.5–64.5) | 91.2 | 97.5 "
        "| 1,234.5 (1,200.0–1,270.0) |",
        "| image → text | full, 2,501 | recall alone | 45.5 (42.5–48.5) | 91.2 | 97.5 "
        "| 1,234.5 (1,200.0–1,270.0) |",
        "| text → image | sampled, 101 | +6.0 (+4.5 to +7.5) | -0.2 (-0.6 to +0.3) |",
        "| text → image | full, 2,501 | +6.0 (+4.5 to +7.5) |  |",
        "A pair told from a mismatch: accuracy 93.2 %, AUC 98.8 (98.1–99.2) %.",
        "| shop | text → image | 61.8 | 61.5 | -0.3 |",
    ):
        assert line in text.splitlines(), line
    assert text.endswith("\n\n## Data\n\nDrawn garments.\n")

    # What the card was made of makes it again.
    kept = json.loads((own.path / FIGURES).read_text())
    assert kept["model_id"] == own.model_id
    assert render_card(own, kept["catalogues"], kept["fp32"], notes.read_text().strip()) == text
    # Beside it the bundle is still a whole one.
    assert Bundle.open(own.path) == own


def test_what_a_user_named_breaks_no_table(own: Bundle, tmp_path: Path) -> None:
    bundle = Bundle(own.path, replace(own.manifest, text_template="{title} | {colour}\n{fit}"))
    shop = saved(tmp_path / "int8.json", evaluation(own.model_id, 61.5))
    fp32 = saved(tmp_path / "fp32.json", evaluation("fb-0123456789abcdef", 61.8, "fp32"))
    card = write_card(bundle, {"a|b": shop}, {"a|b": fp32}).read_text()
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert any("{title} \\| {colour} {fit}" in row for row in rows)
    assert any(row.startswith("| a\\|b |") for row in rows)
    for above, row in pairwise(rows):
        if above.startswith("| ---"):
            wanted = above.count("|")
            assert row.replace("\\|", "").count("|") == wanted


def test_a_model_without_recall_head_is_described_too(own: Bundle, tmp_path: Path) -> None:
    figures = evaluation(own.model_id, 40.0)
    for way in ("text_to_image", "image_to_text"):
        figures[way] = {"sampled": {"rerank": stage(40.0)}}
    path = saved(tmp_path / "a.json", figures)
    fp32 = saved(tmp_path / "b.json", {**figures, "precision": "fp32"})
    text = write_card(own, {"shop": path}, {"shop": fp32}).read_text(encoding="utf-8")
    assert "recall alone |" not in text
    assert "| shop | image → text | 40.0 | 40.0 | +0.0 |" in text


def test_what_cannot_be_used_is_told_and_nothing_written(own: Bundle, tmp_path: Path) -> None:
    good = saved(tmp_path / "good.json", evaluation(own.model_id, 60.0))
    other = saved(tmp_path / "other.json", evaluation("fb-other", 60.0))
    fp32 = evaluation("fb-other", 60.0, "fp32")
    fewer = saved(tmp_path / "fewer.json", {**fp32, "queries": 10})
    drawn = saved(tmp_path / "drawn.json", {**fp32, "seed": 7})
    feed = saved(tmp_path / "feed.json", {**fp32, "feed_fingerprint": "40"})
    for catalogues, references, notes, told in (
        ({"shop": tmp_path / "none.json"}, {}, None, "none.json cannot be read: No such file"),
        ({"shop": other}, {}, None, f"is of fb-other, and the bundle is {own.model_id}"),
        ({"shop": good}, {"mall": other}, None, "is of 'mall', of which there is no evaluation"),
        ({"shop": good}, {"shop": fewer}, None, "do not ask the same"),
        ({"shop": good}, {"shop": drawn}, None, "do not ask the same"),
        ({"shop": good}, {"shop": feed}, None, "do not ask the same"),
        ({"shop": good}, {"shop": other}, None, "other.json is of a model in int8, .* the fp32"),
        ({"shop": good}, {}, tmp_path / "none.md", "none.md cannot be read"),
    ):
        with pytest.raises(FashionBertError, match=told):
            write_card(own, catalogues, references, notes)
    assert not (own.path / CARD).exists()
    assert not (own.path / FIGURES).exists()


def test_evaluations_that_do_not_say_their_seed_or_feed_are_compared(
    own: Bundle, tmp_path: Path
) -> None:
    older = evaluation("fb-other", 60.0, "fp32")
    del older["seed"], older["feed_fingerprint"]
    shop = saved(tmp_path / "int8.json", evaluation(own.model_id, 59.0))
    text = write_card(own, {"shop": shop}, {"shop": saved(tmp_path / "fp32.json", older)})
    assert "| shop | text → image | 60.0 | 59.0 | -1.0 |" in text.read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", ["", "[]", "null", "{}", '{"text_to_image": 3}', "\xff"])
def test_no_evaluation(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_bytes(damage.encode("latin-1"))
    with pytest.raises(FashionBertError, match=r"figures\.json is no evaluation"):
        read_evaluation(path)


@pytest.mark.parametrize("missing", ["queries", "products", "image_to_text"])
def test_half_an_evaluation(missing: str, tmp_path: Path) -> None:
    figures = evaluation("fb-a", 60.0)
    del figures[missing]
    with pytest.raises(FashionBertError, match=missing):
        read_evaluation(saved(tmp_path / "figures.json", figures))


def test_what_the_end_of_the_card_wants_is_looked_at_first(tmp_path: Path) -> None:
    figures = evaluation("fb-a", 60.0)
    recall = {"sampled": {"recall": stage(60.0)}}
    for changed, told in (
        ({"matching": {"accuracy": 93.2}}, "auc"),
        ({"matching": 93.2}, "float"),
        ({"image_to_text": recall}, "rerank"),
    ):
        path = saved(tmp_path / "figures.json", {**figures, **changed})
        with pytest.raises(FashionBertError, match=rf"is no evaluation \(.*{told}"):
            read_evaluation(path)
