from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.backbones import new_config, new_model
from model.bundle import Bundle
from model.catalogue import read_catalogue
from model.checkpoint import load_checkpoint
from model.export import export_bundle
from model.files import write_json
from model.mixed_precision import processor_computes_bf16

PRECISION = "bf16" if processor_computes_bf16() else "fp32"

Shell = Callable[..., Any]


def test_evaluate(demo_catalogue: Path, bundle: Bundle, shell: Shell, tmp_path: Path) -> None:
    command = ["evaluate", demo_catalogue / "val.csv", "--bundle", bundle.path, "--threads", "1"]
    command += ["--queries", "6", "--candidates", "4", "--group-by", "product_type"]
    ran = shell(*command, "--json", tmp_path / "figures.json")
    assert ran.code == 0, ran.err
    assert "val.csv: 32 rows, 32 products" in ran.err
    figures = json.loads((tmp_path / "figures.json").read_text())
    with read_catalogue(demo_catalogue / "val.csv") as catalogue:
        fingerprint = catalogue.fingerprint
    assert {key: figures[key] for key in list(figures)[:7]} == {
        "model_id": bundle.model_id,
        "precision": "fp32",
        "feed": "val.csv",
        "feed_fingerprint": fingerprint,
        "group_by": "product_type",
        "seed": 0,
        "candidates": 4,
    }
    assert (figures["queries"], figures["products"]) == (6, 32)
    for way in ("text_to_image", "image_to_text"):
        assert set(figures[way]["sampled"]) == {"recall", "rerank", "two_stage"}
        assert set(figures[way]["full"]) == {"recall", "rerank", "two_stage"}  # it is small
        assert all(stage["rank_last"] == 100 for stage in figures[way]["sampled"].values())
        assert all(stage["candidates"] == 32 for stage in figures[way]["full"].values())
    shown = [line.rstrip() for line in ran.out.splitlines()]
    assert shown[0] == f"{bundle.model_id} (fp32) on val.csv, 6 queries each way"
    assert max(len(line) for line in shown[1:]) <= 80
    sampled = figures["image_to_text"]["sampled"]["two_stage"]
    row, means = (
        line.split()
        for line in shown[shown.index("image → text") :]
        if line.startswith("sampled 32") and "two stage" in line
    )
    rank1, low, high = (
        f"{sampled[key]:.1f}".replace("100.0", "100") for key in ("rank1", "low", "high")
    )
    assert row[4:6] == [rank1, f"{low}–{high}"]
    mean = f"{sampled['mean_rank_low']:.1f}–{sampled['mean_rank_high']:.1f}"
    assert means[4:] == [f"{sampled['mean_rank']:.1f}", mean]
    gain = sampled["over_recall"]
    over = f"{gain['rank1']:+.1f} {gain['low']:+.1f} to {gain['high']:+.1f}"
    assert shown.count("two stages over the others at R@1, 95 %") == 2
    rows = [
        line.split(maxsplit=3) for line in shown if line.split()[2:3] in (["recall"], ["rerank"])
    ]
    differences = [row for row in rows if " to " in row[-1]]
    assert [" ".join(row[:3]) for row in differences] == [
        "sampled 32 recall", "sampled 32 rerank", "full 32 recall", "full 32 rerank",
    ] * 2  # fmt: skip
    assert differences[4][-1].strip() == over
    accuracy = f"{figures['matching']['accuracy']:.1f}".replace("100.0", "100")
    assert shown[-2].startswith(f"matching: accuracy {accuracy} ")
    assert figures["sound_pools"] == 100
    assert shown[-1] == (
        "check, must be 100: 100.0 % of samples hold one right answer; Rank@32 100.0 %"
    )
    # With 32 products no right answer stands among 101.
    assert "each right answer stands among 32, not 101, which is easier" in ran.err
    # The seed is all that is drawn.
    again = shell(*command)
    assert again.out == ran.out


def test_the_cost_of_reranking_is_for_the_user_to_choose(
    demo_catalogue: Path, bundle: Bundle, shell: Shell, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("service.cli.evaluate.FEW_PAIRS", 100)
    command = ["evaluate", demo_catalogue / "val.csv", "--bundle", bundle.path, "--threads", "1"]
    command += ["--queries", "2", "--candidates", "4", "--json", tmp_path / "figures.json"]
    for options, told, stages in (
        (["--no-rerank-all"], True, ({"recall", "two_stage"}, {"recall", "two_stage"})),
        (["--no-full-rerank"], False, ({"recall", "rerank", "two_stage"}, {"recall", "two_stage"})),
        (["--full-rerank", "--no-rerank-all"], False,
         ({"recall", "two_stage"}, {"recall", "rerank", "two_stage"})),
    ):  # fmt: skip
        ran = shell(*command, *options)
        assert ran.code == 0, ran.err
        assert ("the whole feed is not reranked for each query, which is " in ran.err) == told
        figures = json.loads((tmp_path / "figures.json").read_text())
        for way in ("text_to_image", "image_to_text"):
            assert (set(figures[way]["sampled"]), set(figures[way]["full"])) == stages
        assert ("matching" in figures) == ("matching:" in ran.out)
        assert ("matching" in figures) == ("--no-rerank-all" not in options)


@pytest.fixture(scope="module")
def checkpoint(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without recall head and with k = 0, as the preset paper makes one."""
    folder = tmp_path_factory.mktemp("run") / "best"
    torch.manual_seed(0)
    config = new_config(
        "tiny",
        vocab_size=bundle.manifest.config["vocab_size"],
        image_size=64,
        joint_from=0,
        recall_size=0,
        stack_recall=False,
    )
    new_model(config).save_pretrained(folder)
    shutil.copyfile(bundle.path / "tokenizer.json", folder / "tokenizer.json")
    write_json(folder / "training.json", {"step": 70, "text_template": "{title}"})
    return folder


def test_a_checkpoint_without_recall_head(
    checkpoint: Path, demo_catalogue: Path, shell: Shell, tmp_path: Path, monkeypatch: Any
) -> None:
    # The variable that is set for the other commands does not stand in the way.
    monkeypatch.setenv("FASHIONBERT_BUNDLE", str(tmp_path))
    command = ["evaluate", demo_catalogue / "val.csv", "--checkpoint", checkpoint]
    command += ["--queries", "3", "--json", tmp_path / "figures.json", "--device", "cpu"]
    ran = shell(*command, "--no-full-rerank")
    assert ran.code == 0, ran.err
    left_out = "recall, two stages and the ranking among the whole feed are left out"
    assert f"no recall head: {left_out}" in ran.err
    figures = json.loads((tmp_path / "figures.json").read_text())
    about = {"checkpoint": str(checkpoint), "step": 70, "precision": PRECISION}
    assert {key: figures[key] for key in about} == about
    assert "model_id" not in figures
    for way in ("text_to_image", "image_to_text"):
        assert {name: set(stages) for name, stages in figures[way].items()} == {
            "sampled": {"rerank"}
        }
    assert f"{checkpoint} (step 70, {PRECISION}) on val.csv, 3 queries each way" in ran.out
    assert "two stage" not in ran.out
    # Exported, it ranks the same products alike, and the whole feed where one pays for it.
    exported, _ = export_bundle(
        load_checkpoint(checkpoint), checkpoint / "tokenizer.json", tmp_path / "bundle",
        text_template="{title}",
    )  # fmt: skip
    ran = shell(
        "evaluate", demo_catalogue / "val.csv", "--bundle", exported.path, "--queries", "3",
        "--json", tmp_path / "bundle.json", "--threads", "1",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "no recall head: recall and two stages are left out" in ran.err
    again = json.loads((tmp_path / "bundle.json").read_text())
    assert again["feed_fingerprint"] == figures["feed_fingerprint"]
    for way in ("text_to_image", "image_to_text"):
        assert set(again[way]["full"]) == {"rerank"}
        one, other = (found[way]["sampled"]["rerank"]["mean_rank"] for found in (figures, again))
        assert one == pytest.approx(other, abs=2)  # bf16 against fp32


def test_a_model_without_recall_head_is_not_searched(
    checkpoint: Path, demo_catalogue: Path, shell: Shell, tmp_path: Path
) -> None:
    assert shell("export", checkpoint, "--out", tmp_path / "bundle").code == 0
    ran = shell(
        "index", "build", demo_catalogue / "val.csv", "--bundle", tmp_path / "bundle",
        "--out", tmp_path / "snapshots",
    )  # fmt: skip
    assert (ran.code, ran.out) == (2, "")
    assert "bundle was trained without a recall head, so nothing can be searched" in ran.err
    assert not (tmp_path / "snapshots").exists()


def test_an_unfinished_training_says_so(
    bundle: Bundle, demo_catalogue: Path, shell: Shell, tmp_path: Path
) -> None:
    config = new_config("tiny", vocab_size=bundle.manifest.config["vocab_size"], image_size=64)
    new_model(config).save_pretrained(tmp_path / "best")
    shutil.copyfile(bundle.path / "tokenizer.json", tmp_path / "best" / "tokenizer.json")
    command = ["evaluate", demo_catalogue / "val.csv", "--checkpoint", tmp_path / "best"]
    ran = shell(*command, "--queries", "2", "--no-rerank-all", "--no-full-rerank")
    assert ran.code == 0, ran.err
    assert "training that has not ended" in ran.err
    assert ran.out.count("two stage ") == 8


def test_without_a_bundle(
    demo_catalogue: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FASHIONBERT_BUNDLE", raising=False)
    monkeypatch.setattr("model.pretrained.FOLDER", tmp_path)
    ran = shell("evaluate", demo_catalogue / "val.csv")
    assert (ran.code, ran.out) == (2, "")
    assert "--bundle or set FASHIONBERT_BUNDLE" in ran.err


def test_figures_that_cannot_be_written_are_shown_all_the_same(
    demo_catalogue: Path, bundle: Bundle, shell: Shell, tmp_path: Path
) -> None:
    target = tmp_path / ("f" * 250)  # a name that is allowed, but not with the ending of a part
    command = ["evaluate", demo_catalogue / "val.csv", "--bundle", bundle.path, "--threads", "1"]
    command += ["--queries", "2", "--no-rerank-all", "--no-full-rerank", "--json", target]
    ran = shell(*command)
    assert ran.code == 2
    assert ran.out.count("two stage ") == 8
    assert ran.err.splitlines()[-1] == (
        f"error: --json {target} cannot be written (File name too long): name another place"
    )
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_line(
    demo_catalogue: Path, bundle: Bundle, checkpoint: Path, shell: Shell, tmp_path: Path
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
        ([feed, "--group-by", "brand"], "--group-by brand: no product of the feed has such an"),
        ([feed, "--bundle", tmp_path], str(tmp_path)),
        ([feed, "--json", tmp_path / "no" / "f.json"], f"make the folder {tmp_path / 'no'} first"),
        ([feed, "--json", tmp_path], f"--json {tmp_path} is no file, but a folder"),
        ([feed, "--json", "/dev/null"], "--json /dev/null is no file"),
        ([feed, "--json", tmp_path / "one.csv" / "f.json"], "make the folder"),
        ([feed, "--json", tmp_path / ("f" * 300)], "cannot be written (File name too long)"),
        ([feed, "--checkpoint", bundle.path], f"{bundle.path} is no checkpoint, but a bundle"),
        ([feed, "--checkpoint", checkpoint, "--bundle", bundle.path], "give one of the two"),
        ([feed, "--checkpoint", checkpoint, "--no-rerank-all"], "there is nothing to rank by"),
    ):
        model = [] if "--checkpoint" in arguments else ["--bundle", bundle.path]
        ran = shell("evaluate", *model, *arguments)
        assert (ran.code, ran.out) == (2, "")
        (line,) = (line for line in ran.err.splitlines() if line.startswith("error: "))
        assert told in line
        assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "command", [["evaluate"], ["train"], ["index", "build"], ["catalogue", "check"]], ids=" ".join
)
def test_the_help_names_every_kind_of_feed(command: list[str], shell: Shell) -> None:
    shown = " ".join(shell(*command, "--help").out.replace("│", " ").split())
    assert "The product feed: CSV, JSONL or Parquet, or a Fashion-Gen .h5." in shown


def test_some_products_of_a_feed(
    demo_catalogue: Path, bundle: Bundle, shell: Shell, tmp_path: Path
) -> None:
    with read_catalogue(demo_catalogue / "val.csv") as catalogue:
        ids = [product.id for product in catalogue.products[3:10]]
    (tmp_path / "ids.txt").write_text("\n".join([*ids, "no such"]))
    command = ["evaluate", demo_catalogue / "val.csv", "--bundle", bundle.path, "--threads", "1"]
    command += ["--queries", "3", "--json", tmp_path / "figures.json", "--only"]
    ran = shell(*command, tmp_path / "ids.txt")
    assert ran.code == 0, ran.err
    assert "7 of 32 products are evaluated, 1 ids of --only are not in it" in ran.err
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["only"], figures["products"], figures["queries"]) == ("ids.txt", 7, 3)
    for content, told in (
        ("no such", "none of the 1 ids is a product's of this feed"),
        ("", "ids.txt is empty: give a file with a product id a line"),
        (ids[0], "ids.txt leaves one product: there is nothing to rank it against"),
    ):
        (tmp_path / "ids.txt").write_text(content)
        ran = shell(*command, tmp_path / "ids.txt")
        assert (ran.code, ran.out) == (2, "")
        assert told in ran.err.splitlines()[-1]
