from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.bundle import Bundle
from model.errors import TrainingError
from model.train_settings import TrainSettings

Shell = Callable[..., Any]
MAIN = [sys.executable, "-c", "from service.cli.__main__ import main; main()"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def few_products(demo_catalogue: Path, tmp_path: Path, count: int) -> Path:
    """The first products of the feed, beside its pictures."""
    with (demo_catalogue / "train.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    with (tmp_path / "few.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows[: count + 1])
    return tmp_path / "few.csv"


TEXT = ("--text", "{title}. {colour}")


def test_from_a_feed_to_figures(demo_catalogue: Path, shell: Shell, tmp_path: Path) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    command = ["train", demo_catalogue / "train.csv", "--out", run, "--preset", "tiny", *TEXT]
    command += ["--valid", demo_catalogue / "val.csv", "--group-by", "product_type"]
    command += ["--epochs", "2", "--batch-size", "48", "--validate-queries", "16"]
    trained = shell(*command)
    assert trained.code == 0, trained.err
    assert trained.out == ""
    assert "train.csv: 96 rows, 96 products" in trained.err
    assert f"the best checkpoint is {run}/best" in trained.err
    settings = json.loads((run / "run.json").read_text())
    assert (settings["epochs"], settings["same_group"], settings["preset"]) == (2, 0.5, "tiny")
    log = (run / "log.jsonl").read_text()
    assert log.count('"hardness"') == 4  # a line a step

    again = shell(*command)  # there is nothing left to do
    assert again.code == 0, again.err
    assert (run / "log.jsonl").read_text() == log
    other = shell(*command, "--seed", "1")
    assert (other.code, other.out) == (2, "")
    assert other.err.splitlines()[-1].startswith(
        f"error: {run} holds a run with other settings (seed): choose another folder"
    )

    exported = shell("export", run / "best", "--out", bundle)
    assert exported.code == 0, exported.err
    model_id = Bundle.open(bundle).model_id
    assert f"model {model_id}, fp32, in {bundle}: at most " in exported.err
    assert Bundle.open(bundle).manifest.text_template == TEXT[1]

    figures = tmp_path / "figures.json"
    evaluated = shell(
        "evaluate", demo_catalogue / "val.csv", "--bundle", bundle, "--queries", "8",
        "--group-by", "product_type", "--candidates", "8", "--json", figures, "--threads", "1",
    )  # fmt: skip
    assert evaluated.code == 0, evaluated.err
    told = json.loads(figures.read_text())
    assert (told["model_id"], told["queries"], told["products"]) == (model_id, 8, 32)
    for way in ("text_to_image", "image_to_text"):
        for stage in told[way]["sampled"].values():
            assert stage["rank_last"] == 100
    assert model_id in evaluated.out
    assert "matching: accuracy" in evaluated.out


#: Settings, each with a value that no preset and no other option has.
GIVEN: dict[str, Any] = {
    "text_backbone": "a-bert",
    "cnn": "a-cnn",
    "epochs": 2.5,
    "batch_size": 7,
    "learning_rate": 0.11,
    "head_learning_rate": 0.12,
    "cnn_learning_rate": 0.13,
    "weighting": "adaptive-gradient",
    "warmup": 0.14,
    "weight_decay": 0.15,
    "negatives": 5,
    "joint_share": 0.16,
    "hard_from": 0.17,
    "hard_until": 0.18,
    "same_group": 0.19,
    "group_by": "season",
    "title_share": 0.21,
    "validate_every": 0.22,
    "validate_queries": 23,
    "patience": 24,
    "checkpoint_steps": 25,
    "mixed_precision": "bf16",
    "start_from": "a-run",
    "teacher": "a-teacher",
    "seed": 26,
}
#: The same of the network's.
OVERRIDES = {
    "joint_from": 1,
    "cnn_image_size": 31,
    "frozen_cnn_stages": 3,
    "image_size": 32,
    "patch_grid": 6,
    "hidden_dropout_prob": 0.33,
    "alignment_size": 34,
}
SPELLED = {"hidden_dropout_prob": "dropout", "alignment_size": "alignment"}


@pytest.mark.parametrize("on", [True, False])
def test_every_option_is_a_setting(
    on: bool, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[TrainSettings] = []

    def check(settings: TrainSettings) -> None:
        found.append(settings)
        raise TrainingError("seen enough")

    monkeypatch.setattr("model.train_settings.check_settings", check)
    command: list[object] = ["train", "feed.csv", "--out", tmp_path, "--preset", "tiny"]
    for name, value in (GIVEN | OVERRIDES).items():
        command += [f"--{SPELLED.get(name, name).replace('_', '-')}", value]
    command += ["--betas", 0.41, 0.42, "--fresh", "mlm", "--fresh", "match"]
    for name in ("mlm", "mpm", "keep-maps", "mirror", "shift"):
        command.append(f"--{'' if on else 'no-'}{name}")
    ran = shell(*command, "--train-cnn" if on else "--freeze-cnn")
    assert (ran.code, "seen enough" in ran.err) == (2, True), ran.err
    (settings,) = found
    assert {name: getattr(settings, name) for name in GIVEN} == GIVEN
    assert settings.overrides == {**OVERRIDES, "mlm": on, "mpm": on, "freeze_cnn": not on}
    assert (settings.betas, settings.fresh) == ((0.41, 0.42), ["mlm", "match"])
    assert (settings.keep_maps, settings.mirror, settings.shift) == (on, on, on)


def test_a_share_is_held_out_without_valid(
    demo_catalogue: Path, shell: Shell, tmp_path: Path
) -> None:
    feed = few_products(demo_catalogue, tmp_path, 20)
    command = ["train", feed, "--images", demo_catalogue / "images.tar", "--preset", "tiny"]
    command += ["--epochs", "1", "--batch-size", "8", "--cache", tmp_path / "cache"]
    ran = shell(*command, "--out", tmp_path / "run", "--hold-out", "0.2")
    assert ran.code == 0, ran.err
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    held = (tmp_path / "run" / "held_out.txt").read_text().split()
    assert 2 <= len(held) < 9
    assert f"{20 - len(held)} products to learn from, {len(held)} held out to choose" in ran.err
    steps = [line["step"] for line in log if "validation" not in line]
    assert steps == list(range((20 - len(held)) // 8))
    assert {line["validation"]["products"] for line in log if "validation" in line} == {len(held)}
    assert json.loads((tmp_path / "run" / "best" / "training.json").read_text())["figures"][
        "candidates"
    ]  # of the two stages
    # A product by itself: what was held out is evaluated apart, its pictures read no second time.
    ran = shell(
        "evaluate", feed, "--images", demo_catalogue / "images.tar", "--queries", "2",
        "--checkpoint", tmp_path / "run" / "best", "--cache", tmp_path / "cache",
        "--only", tmp_path / "run" / "held_out.txt", "--json", tmp_path / "figures.json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert f"{len(held)} of 20 products are evaluated" in ran.err
    told = json.loads((tmp_path / "figures.json").read_text())
    assert (told["only"], told["products"]) == ("held_out.txt", len(held))
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    assert not (tmp_path / "run" / "cache").exists()
    ran = shell(*command, "--out", tmp_path / "other", "--hold-out", "0.001")
    assert (ran.code, ran.out) == (2, "")
    assert "cannot be held out: give validation products with --valid" in ran.err
    # Another seed learns nothing that the first run was chosen by, nor does a run without them.
    ran = shell(*command, "--out", tmp_path / "other", "--hold-out", "0.2", "--seed", "7")
    assert ran.code == 0, ran.err
    assert (tmp_path / "other" / "held_out.txt").read_text().split() == held
    one = few_products(demo_catalogue, tmp_path, 1)
    ran = shell(*command, "--out", tmp_path / "third")
    assert (ran.code, ran.out, one) == (2, "", feed)
    assert "1 products with 1 different texts are too few to hold some out" in ran.err
    assert "--hold-out" not in ran.err


def test_an_interruption_says_that_it_goes_on(
    demo_catalogue: Path, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.train import Trainer

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", interrupted)
    feed = few_products(demo_catalogue, tmp_path, 20)
    command = ["train", feed, "--images", demo_catalogue / "images.tar", "--preset", "tiny"]
    command += ["--out", tmp_path / "run", "--valid", demo_catalogue / "val.csv"]
    ran = shell(*command, "--hold-out", "0.2")
    assert ran.code == 130
    assert "interrupted before a state was saved: the same command trains from the start" in ran.err
    assert "nothing is held out (--hold-out), as --valid says what to choose by" in ran.err
    (tmp_path / "run" / "checkpoints" / "step-00000200").mkdir(parents=True)
    monkeypatch.setattr(Trainer, "_prepare", interrupted)
    ran = shell(*command)
    assert ran.code == 130
    assert "interrupted: the same command goes on from step-00000200" in ran.err


def test_of_several_processes_one_tells(
    demo_catalogue: Path, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, report = few_products(demo_catalogue, tmp_path, 3), tmp_path / "bad.jsonl"
    command = ["train", feed, "--images", demo_catalogue / "images.tar", "--preset", "tiny"]
    command += ["--out", tmp_path / "run", "--report", report]
    for process in ("1", "0"):
        monkeypatch.setenv("RANK", process)  # as torchrun does
        ran = shell(*command)
        assert "3 products with 3 different texts are too few to hold some out" in ran.err
        assert ("few.csv: 3 rows, 3 products" in ran.err) == (process == "0")
        assert report.exists() == (process == "0")


def test_products_that_are_trained_on_are_told(
    demo_catalogue: Path, shell: Shell, tmp_path: Path
) -> None:
    """`--valid` of the feed itself, of products that are not in it, and of none that compare."""
    feed = few_products(demo_catalogue, tmp_path, 8)
    command = ["train", feed, "--images", demo_catalogue / "images.tar", "--preset", "tiny"]
    command += ["--epochs", "1", "--batch-size", "8", "--cache", tmp_path / "cache"]
    ran = shell(*command, "--out", tmp_path / "run", "--valid", feed)
    assert ran.code == 0, ran.err
    told = "of the 8 products of --valid, 8 by their id and 8 by their text are trained on too"
    assert told in ran.err
    ran = shell(*command, "--out", tmp_path / "other", "--valid", demo_catalogue / "val.csv")
    assert ran.code == 0, ran.err
    assert "trained on too" not in ran.err
    rows = list(csv.reader((demo_catalogue / "val.csv").read_text(encoding="utf-8").splitlines()))
    group = rows[0].index("product_type")
    with (tmp_path / "ungrouped.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([*row[:group], *row[group + 1 :]] for row in rows)
    ungrouped = ["--valid", tmp_path / "ungrouped.csv", "--group-by", "product_type"]
    ran = shell(*command, "--out", tmp_path / "third", *ungrouped)
    assert (ran.code, ran.out) == (2, "")
    assert "--group-by product_type: no product of --valid has such an attr" in ran.err
    one = few_products(demo_catalogue, tmp_path, 1).rename(tmp_path / "one.csv")
    few_products(demo_catalogue, tmp_path, 8)
    ran = shell(*command, "--out", tmp_path / "third", "--valid", one)
    assert (ran.code, ran.out) == (2, "")
    assert "to choose by (--valid) there are 1 products with 1 different texts" in ran.err
    assert not (tmp_path / "third").exists()


def test_the_masked_tasks_are_asked_for(demo_catalogue: Path, shell: Shell, tmp_path: Path) -> None:
    feed = few_products(demo_catalogue, tmp_path, 20)
    command = ["train", feed, "--images", demo_catalogue / "images.tar", "--preset", "tiny"]
    command += ["--epochs", "1", "--batch-size", "8", "--cache", tmp_path / "cache"]
    for wanted, overrides in (
        ([], {}),
        (["--mlm", "--no-mpm"], {"mlm": True, "mpm": False}),
        (["--mlm", "--mpm"], {"mlm": True, "mpm": True}),
    ):
        run = tmp_path / "-".join(["run", *wanted])
        ran = shell(*command, "--out", run, "--hold-out", "0.2", *wanted)
        assert ran.code == 0, ran.err
        assert json.loads((run / "run.json").read_text())["overrides"] == overrides
        first = json.loads((run / "log.jsonl").read_text().splitlines()[0])
        tasks = {"recall", "match"} | {task for task, on in overrides.items() if on}
        assert first["weights"].keys() == tasks
    ran = shell("export", run / "best", "--out", tmp_path / "bundle")
    assert ran.code == 0, ran.err
    assert Bundle.open(tmp_path / "bundle").manifest.config["mpm"] is True


def test_a_model_is_taught_by_another(demo_catalogue: Path, shell: Shell, tmp_path: Path) -> None:
    feed = few_products(demo_catalogue, tmp_path, 12)
    command = ["train", feed, "--images", demo_catalogue / "images.tar", "--preset", "tiny"]
    command += ["--epochs", "1", "--batch-size", "8", "--cache", tmp_path / "cache"]
    command += ["--hold-out", "0.25"]
    teacher, run = tmp_path / "teacher", tmp_path / "run"
    ran = shell(*command, "--out", teacher, "--joint-from", "0")
    assert ran.code == 0, ran.err
    weights = "fixed:recall=1,match=0.5,distillation=2"
    given = ["--teacher", teacher / "best", "--weighting", weights]
    ran = shell(*command, "--out", run, *given)
    assert ran.code == 0, ran.err
    settings = json.loads((run / "run.json").read_text())
    assert settings["teacher"] == str(teacher / "best")
    first = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    assert first["weights"] == {"recall": 1, "match": 0.5, "distillation": 2}
    assert first["distillation"] > 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--preset", "smal"], "there is no preset 'smal': choose one of paper, base, small, tiny"),
        (["--preset", "small", "--text-backbone", "/no/folder"], "'/no/folder' cannot be loaded"),
        (["--preset", "small", "--text-backbone", "nobody/has-this"], "a hub id that can be"),
        (
            ["--preset", "tiny", "--group-by", "brand"],
            "--group-by brand: no product of the feed has such",
        ),
        (["--preset", "tiny", "--learning-rate", "nan"], "learning_rate=nan: give a number above"),
        (["--preset", "tiny", "--epochs", "0"], "epochs=0: give a number above 0"),
        (["--preset", "tiny", "--seed", "-1"], "seed=-1: give a whole number from 0 to 4294967295"),
        (["--preset", "tiny", "--dropout", "2"], "hidden_dropout_prob=2: give a share, 0 or more"),
        (["--preset", "tiny", "--head-learning-rate", "-1"], "head_learning_rate=-1: give a"),
        (["--preset", "tiny", "--hold-out", "nan"], "nan% of 8 different texts cannot be held out"),
        (["--preset", "tiny", "--image-size", "8"], "image_size=8 is patch_grid=8, so a patch"),
        (
            ["--preset", "tiny", "--mixed-precision", "fp8"],
            "mixed_precision='fp8': auto, bf16, fp16 or",
        ),
        (["--preset", "tiny", "--joint-from", "4"], "at least one of the 4 layers must be joint"),
        (
            ["--preset", "tiny", "--joint-from", "0", "--alignment", "16"],
            "it needs joint_from above 0 and a preset with a recall head",
        ),
        (["--preset", "tiny", "--teacher", "/no/run"], "the teacher /no/run is no checkpoint (it"),
        (["--preset", "tiny", "--cnn", "/no/cnn"], "cnn was given, but the preset 'tiny' has no"),
        (["--preset", "tiny", "--freeze-cnn"], "freeze_cnn was given, but the preset 'tiny'"),
        (["--preset", "tiny", "--frozen-cnn-stages", "2"], "frozen_cnn_stages was given, but"),
        (["--preset", "tiny", "--fresh", "match"], "without --start-from all heads are drawn"),
        (["--preset", "tiny", "--text", "{brand}"], "brand"),
        (["--preset", "tiny", "--group-by", "title"], "has such an attribute; there are"),
        (["--preset", "tiny", "--valid", "/no/val.csv"], "/no/val.csv"),
        (
            ["--preset", "tiny", "--learning-rate", "1e30", "--epochs", "9", "--batch-size", "4"],
            "lower the learning rate",
        ),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(
    options: list[str], told: str, demo_catalogue: Path, shell: Shell, tmp_path: Path
) -> None:
    feed = few_products(demo_catalogue, tmp_path, 8)
    command = ["train", feed, "--images", demo_catalogue / "images.tar", "--hold-out", "0.25"]
    ran = shell(*command, "--out", tmp_path / "run", *options)
    assert (ran.code, ran.out) == (2, "")
    (error,) = (line for line in ran.err.splitlines() if line.startswith("error: "))
    assert told in error
    assert "Traceback" not in ran.err


def test_the_cnn_by_its_folder(
    demo_catalogue: Path, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    from model.catalogue import read_catalogue
    from model.wordpiece import save_tokenizer, train_wordpiece

    feed = few_products(demo_catalogue, tmp_path, 8)
    bert, vit = tmp_path / "bert", tmp_path / "vit"
    shape: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(num_hidden_layers=4, vocab_size=400, **shape)).save_pretrained(bert)
    with read_catalogue(feed, images=demo_catalogue / "images.tar") as catalogue:
        texts = [product.text for product in catalogue.products]
    save_tokenizer(train_wordpiece(texts, 400), bert / "tokenizer.json")
    ViTModel(ViTConfig(num_hidden_layers=1, image_size=64, patch_size=8, **shape)).save_pretrained(
        vit
    )
    command = ["train", feed, "--images", demo_catalogue / "images.tar", "--hold-out", "0.25"]
    command += ["--text-backbone", bert, "--cnn", vit, "--out", tmp_path / "run", "--epochs", "1"]
    command += ["--freeze-cnn"]
    ran = shell(*command)
    assert ran.code == 2
    assert "does not take pictures of 160×160 pixels" in ran.err
    ran = shell(*command, "--cnn-image-size", "64")
    assert ran.code == 0, ran.err
    ran = shell("export", tmp_path / "run" / "best", "--out", tmp_path / "bundle")
    assert ran.code == 0, ran.err


def test_a_process_of_its_own_says_nothing_else(demo_catalogue: Path, tmp_path: Path) -> None:
    """No library's warning, no log line, no traceback: what a person sees is ours."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    feed = few_products(demo_catalogue, tmp_path, 8)
    shutil.copyfile(demo_catalogue / "images.tar", tmp_path / "images.tar")
    command = ["train", feed, "--preset", "tiny", "--out", tmp_path / "run", "--epochs", "1"]
    ran = subprocess.run(
        [*MAIN, *command, "--hold-out", "0.25"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    for word in ("Warning", "warning", "Traceback", "deprecated"):
        assert word not in ran.stderr


def test_what_the_texts_lack_is_told(demo_catalogue: Path, shell: Shell, tmp_path: Path) -> None:
    """Texts and pictures of which many are one, and a head that is drawn anew."""
    feed = few_products(demo_catalogue, tmp_path, 24)
    with feed.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    title, image = header.index("title"), header.index("image")
    for number, row in enumerate(rows[:6]):
        row[title], row[image] = "red " * 60 + str(number), rows[0][image]
    with feed.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    command = ["train", feed, "--images", demo_catalogue / "images.tar", "--preset", "tiny"]
    command += ["--text", "{title}", "--epochs", "1", "--batch-size", "8"]
    command += ["--valid", demo_catalogue / "val.csv", "--cache", tmp_path / "cache"]
    ran = shell(*command, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert "the feed: 24 texts are 19 to the model (21% fewer)" in ran.err
    assert "pictures are the same as another, pixel for pixel, one of them" in ran.err
    assert not (tmp_path / "run" / "held_out.txt").exists()
    again = ["--out", tmp_path / "next", "--start-from", tmp_path / "run" / "best"]
    ran = shell(*command, *again, "--fresh", "match", "--fresh", "recall")
    assert ran.code == 0, ran.err
    settings = json.loads((tmp_path / "next" / "run.json").read_text())
    assert settings["fresh"] == ["match", "recall"]
    ran = shell(*command, *again, "--fresh", "match", "--fresh", "recall")  # it is at its end
    assert ran.code == 0, ran.err


def test_a_task_has_one_weight(demo_catalogue: Path, shell: Shell, tmp_path: Path) -> None:
    ran = shell(
        "train", demo_catalogue / "train.csv", "--preset", "tiny", "--out", tmp_path / "run",
        "--weighting", "fixed:recall=1,match=1,recall=5",
    )  # fmt: skip
    assert ran.code == 2
    assert "give one weight to each task" in ran.err
