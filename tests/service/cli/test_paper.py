"""The preset `paper` from the command line: trained and evaluated like any other."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel

from model.catalogue import read_catalogue
from model.checkpoint import load_checkpoint
from model.wordpiece import save_tokenizer, train_wordpiece

Shell = Callable[..., Any]
TASKS = ("match", "mlm", "mpm")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def feed(demo_catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 products of the demo catalogue."""
    with (demo_catalogue / "train.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[:25]
    path = tmp_path_factory.mktemp("feed") / "feed.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    (path.parent / "images.tar").symlink_to(demo_catalogue / "images.tar")
    return path


@pytest.fixture(scope="module")
def backbones(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Options that name a small random BERT and a small random ResNet."""
    folder = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(3)
    bert = BertConfig(
        vocab_size=500,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=512,
    )
    BertModel(bert).save_pretrained(folder / "bert")
    with read_catalogue(feed) as catalogue:
        texts = [product.text for product in catalogue.products]
    save_tokenizer(train_wordpiece(texts, 500), folder / "bert" / "tokenizer.json")
    resnet = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    ResNetModel(resnet).save_pretrained(folder / "resnet")
    # Crops of 32 × 32 stay as they are: the preset's 224 would only take longer.
    options: list[Any] = ["--text-backbone", folder / "bert", "--cnn", folder / "resnet"]
    return [*options, "--cnn-image-size", "32"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def eq6(losses: list[float]) -> list[float]:
    """The weights of the released code, by its own words: g = softmax of the losses."""
    g = np.exp(np.array(losses) - max(losses))
    g /= g.sum()
    inverse = 1 / (len(g) - g**2)
    return list(inverse / inverse.sum())


def test_the_paper_is_trained_and_evaluated(
    feed: Path, backbones: list[Any], cache: Path, shell: Shell, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ["train", feed, "--out", run, "--preset", "paper", *backbones, "--cache", cache]
    command += ["--weighting", "adaptive-loss", "--group-by", "product_type", "--hold-out", "0.3"]
    command += ["--epochs", "2", "--batch-size", "4", "--validate-queries", "8"]
    ran = shell(*command)
    assert ran.code == 0, ran.err
    assert f"the best checkpoint is {run}/best" in ran.err
    assert "cannot be searched with" in ran.err
    assert "makes it a bundle" not in ran.err

    settings = json.loads((run / "run.json").read_text())
    optimiser = {"learning_rate": 2e-5, "betas": [0.95, 0.999], "weight_decay": 1e-4}
    optimiser |= {"warmup": 5000, "rank_loss": False, "batch_size": 4}
    assert {name: settings[name] for name in optimiser} == optimiser
    assert (run / "curves.png").is_file()
    config = load_checkpoint(run / "best").config
    paper = {"patches": "crop", "patch_grid": 8, "image_size": 256, "freeze_cnn": True}
    paper |= {"joint_from": 0, "recall_size": 0, "stack_recall": False, "mlm": True, "mpm": True}
    paper |= {"max_text_tokens": 448, "num_hidden_layers": 2}
    assert {name: getattr(config, name) for name in paper} == paper
    weights = load_file(run / "best" / "model.safetensors")
    cnn = backbones[backbones.index("--cnn") + 1]
    for name, value in load_file(cnn / "model.safetensors").items():
        assert torch.equal(weights[f"patch_network.cnn.{name}"], value)

    log = lines(run)
    steps = [line for line in log if "validation" not in line]
    assert len(steps) >= 4
    assert steps[0]["weights"] == pytest.approx(dict.fromkeys(TASKS, 1 / 3), abs=1e-6)
    for line in steps[1:]:
        assert list(line["weights"]) == list(TASKS)
        expected = eq6([line[task] for task in TASKS])
        assert list(line["weights"].values()) == pytest.approx(expected, abs=1e-5)
        assert all(2 / 7 - 1e-5 <= w <= 3 / 7 + 1e-5 for w in line["weights"].values())
    for line in log:
        for way in ("text_to_image", "image_to_text"):
            if "validation" in line:
                assert line["validation"][way]["sampled"]["rerank"]["rank_last"] == 100

    figures = tmp_path / "figures.json"
    ran = shell(
        "evaluate", feed, "--checkpoint", run / "best", "--group-by", "product_type",
        "--queries", "8", "--cache", cache, "--json", figures,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    told = json.loads(figures.read_text())
    assert "candidates" not in told  # of two stages, which there are not
    for way in ("text_to_image", "image_to_text"):
        assert list(told[way]["sampled"]) == ["rerank"]
        assert told[way]["sampled"]["rerank"]["rank_last"] == 100
    assert 0 <= told["matching"]["accuracy"] <= 100


def test_the_paper_on_fashion_gen(
    backbones: list[Any], cache: Path, shell: Shell, tmp_path: Path
) -> None:
    """The preset on a file of the paper's own data, laid out as that is."""
    rows = [(n // 2, n % 2) for n in range(24)]  # twelve products of two views
    feed = tmp_path / "fashiongen_256_256_train.h5"
    rng = np.random.default_rng(0)

    def column(text: Callable[[int, int], str]) -> Any:
        return np.array([[text(*row).encode("latin-1")] for row in rows])

    with h5py.File(feed, "w") as file:
        file["input_image"] = rng.integers(0, 256, (len(rows), 256, 256, 3), dtype=np.uint8)
        file["input_productID"] = column(lambda product, view: str(7000 + product))
        file["input_name"] = column(lambda product, view: f"Robe {'été' * (product % 2)} {product}")
        file["input_description"] = column(lambda product, view: f"Modèle numéro {product}.")
        file["input_category"] = column(lambda product, view: "DRESSES")
        file["input_subcategory"] = column(lambda product, view: ("SHORT", "LONG")[product % 2])
        file["input_pose"] = column(lambda product, view: f"id_gridfs_{view + 1}")
        file["input_msrpUSD"] = np.full((len(rows), 1), 250.0, dtype=np.float32)
        file["index"] = np.arange(len(rows))
    run = tmp_path / "run"
    command = ["train", feed, "--out", run, "--preset", "paper", *backbones, "--cache", cache]
    command += ["--weighting", "adaptive-gradient", "--group-by", "subcategory"]
    command += ["--learning-rate", "1e-4", "--betas", "0.9", "0.98", "--warmup", "0.5"]
    command += ["--hold-out", "0.34", "--epochs", "1", "--batch-size", "2"]
    ran = shell(*command)
    assert ran.code == 0, ran.err
    assert f"{feed.name}: 24 rows, 12 products, 24 pictures, no bad rows" in ran.err
    steps = [line for line in lines(run) if "validation" not in line]
    held = (run / "held_out.txt").read_text().split()
    assert [line["step"] for line in steps] == list(range((12 - len(held)) // 2))
    assert list(steps[1]["weights"]) == list(TASKS)
    assert sum(steps[1]["weights"].values()) == pytest.approx(1, abs=1e-5)
    # What is asked for goes before the preset's.
    settings = json.loads((run / "run.json").read_text())
    assert settings["betas"] == [0.9, 0.98]
    assert (settings["learning_rate"], settings["warmup"]) == (1e-4, 0.5)
    assert (settings["weight_decay"], settings["rank_loss"]) == (1e-4, False)
