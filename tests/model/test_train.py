from __future__ import annotations

import dataclasses
import json
import math
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.catalogue import Catalogue
from model.checkpoint import load_checkpoint
from model.dataset import Batch
from model.errors import TrainingError
from model.preprocess import TextTokenizer
from model.train import Trainer
from model.train_settings import TrainSettings

#: A small network with dropout, so that the state of the random generators counts.
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "image_size": 64,
    "recall_size": 32,
    "hidden_dropout_prob": 0.1,
}
SETTINGS = TrainSettings(
    preset="tiny",
    epochs=2,
    batch_size=32,
    learning_rate=1e-3,
    checkpoint_steps=3,
    validate_queries=20,
    group_by="product_type",
    overrides=SMALL,
)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pixels")


@dataclasses.dataclass
class Shop:
    """What every run here is made from."""

    learn: Catalogue
    unseen: Catalogue
    cache: Path

    def trainer(
        self, out: Path, kind: type[Trainer] = Trainer, valid: bool = True, **changes: Any
    ) -> Trainer:
        return kind(
            dataclasses.replace(SETTINGS, **changes),
            self.learn,
            self.unseen if valid else None,
            out,
            cache=self.cache,
            text_template="{title}. {description}",
        )


@pytest.fixture(scope="session")
def shop(learn: Catalogue, unseen: Catalogue, cache: Path) -> Shop:
    return Shop(learn, unseen, cache)


@pytest.fixture(scope="session")
def straight(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps; not to be written to."""
    out = tmp_path_factory.mktemp("straight") / "run"
    assert shop.trainer(out).run() == out / "best"
    return out


class Interrupted(Trainer):
    """A run whose process ends before its fifth step."""

    def _step(self, batch: Batch) -> dict[str, float]:
        if self.progression.step == 4:
            raise KeyboardInterrupt
        return super()._step(batch)


@pytest.fixture(scope="session")
def interrupted(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended after four steps, with the state of the third; not to be written to."""
    out = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.raises(KeyboardInterrupt):
        shop.trainer(out, Interrupted).run()
    return out


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def state(out: Path) -> bytes:
    """The weights after the last step, as they are saved for resuming."""
    (folder,) = (out / "checkpoints").iterdir()
    return (folder / "model.safetensors").read_bytes()


def assert_same_run(ours: Path, theirs: Path) -> None:
    assert state(ours) == state(theirs)
    assert lines(ours) == lines(theirs)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "training.json"):
        assert (ours / "best" / name).read_bytes() == (theirs / "best" / name).read_bytes()


def test_the_folder_of_a_run(straight: Path, shop: Shop) -> None:
    assert {path.name for path in straight.iterdir()} == {
        "best",
        "checkpoints",
        "curves.png",
        "log.jsonl",
        "run.json",
        "tokenizer.json",
    }
    assert [path.name for path in (straight / "checkpoints").iterdir()] == ["step-00000006"]
    assert {path.name for path in (straight / "best").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "training.json",
    }
    training = json.loads((straight / "best" / "training.json").read_text())
    assert training["text_template"] == "{title}. {description}"
    slope, intercept = training["calibration"]
    assert slope > 0
    assert math.isfinite(intercept)
    for figures in (training["figures"], training["figures_before_fit"]):
        assert figures["text_to_image"]["sampled"]["rerank"]["rank_last"] == 100
    settings = json.loads((straight / "run.json").read_text())
    assert settings["feed"] == shop.learn.fingerprint
    assert (settings["preset"], settings["overrides"]) == ("tiny", SMALL)


def test_the_best_checkpoint_is_a_model(straight: Path) -> None:
    model = load_checkpoint(straight / "best")
    assert model.config.hidden_size == 64
    tokens = TextTokenizer(straight / "best" / "tokenizer.json", 48).encode(["red dress"])
    assert tokens.input_ids.max() < model.config.vocab_size


def test_the_log_has_a_line_a_step(straight: Path) -> None:
    log = lines(straight)
    steps = [line for line in log if "validation" not in line]
    assert [line["step"] for line in steps] == list(range(6))
    assert set(steps[0]) == {
        "step", "recall", "match", "match_accuracy", "weights", "hardness", "lr"
    }  # fmt: skip
    assert all(line["weights"] == {"recall": 0.5, "match": 0.5} for line in steps)
    assert [line["step"] for line in log if "validation" in line] == [3, 6, 6]
    assert [line["step"] for line in log if line.get("final")] == [6]


def test_interrupted_it_goes_on_to_the_bit(
    straight: Path, interrupted: Path, shop: Shop, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(interrupted, out)
    assert [line["step"] for line in lines(out) if "validation" not in line] == [0, 1, 2, 3]
    # Killed while it saved a state: what is half there is not taken for one.
    (out / "checkpoints" / ".step-00000004.part").mkdir()
    (out / "checkpoints" / ".step-00000004.part" / "model.safetensors").write_bytes(b"half")
    with (out / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "rec')
    np.random.seed(5)
    torch.manual_seed(5)
    shop.trainer(out).run()
    shutil.rmtree(out / "checkpoints" / ".step-00000004.part")
    assert_same_run(out, straight)


def test_killed_between_two_renames(
    straight: Path, interrupted: Path, shop: Shop, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight, out)
    (out / "best").rename(out / ".best.old")
    shop.trainer(out).run()
    assert_same_run(out, straight)
    assert not (out / ".best.old").exists()


def test_a_run_at_its_end_stays_as_it_is(straight: Path, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight, out)
    assert shop.trainer(out).run() == out / "best"
    assert_same_run(out, straight)
    shutil.rmtree(out / "best")
    with pytest.raises(TrainingError, match=r"best is gone, though the run in .* is at its end"):
        shop.trainer(out).run()


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "custom_checkpoint_1.pkl"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "removed"])
def test_a_damaged_state_is_told(
    file: str, damage: str, interrupted: Path, shop: Shop, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(interrupted, out)
    path = out / "checkpoints" / "step-00000003" / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    if damage == "removed":
        path.unlink()
    with pytest.raises(TrainingError, match=r"step-00000003 cannot be loaded .* start again"):
        shop.trainer(out).run()


@pytest.mark.parametrize("content", [b"", b'{"seed": 1', b"[1]", b"\xff"])
def test_damaged_settings_are_told(
    content: bytes, interrupted: Path, shop: Shop, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(interrupted, out)
    (out / "run.json").write_bytes(content)
    with pytest.raises(TrainingError, match=r"run\.json is damaged .* or remove .* start again"):
        shop.trainer(out)
    assert (out / "run.json").read_bytes() == content


def test_other_settings_in_the_folder_are_refused(
    interrupted: Path, shop: Shop, tmp_path: Path
) -> None:
    before = (interrupted / "run.json").read_bytes()
    told = r"holds a run with other settings \(learning_rate, seed\): choose another folder"
    with pytest.raises(TrainingError, match=told):
        shop.trainer(interrupted, seed=1, learning_rate=2e-3)
    assert (interrupted / "run.json").read_bytes() == before
    other_feed = dataclasses.replace(shop.learn, fingerprint="another")
    with pytest.raises(TrainingError, match=r"other settings \(feed\)"):
        Trainer(SETTINGS, other_feed, shop.unseen, interrupted, cache=shop.cache)


def test_a_run_that_never_saved_leaves_nothing_behind(shop: Shop, tmp_path: Path) -> None:
    """Its tokenizer above all: another preset has another one."""
    shop.trainer(tmp_path, vocab_size=120)
    few = (tmp_path / "tokenizer.json").read_bytes()
    trainer = shop.trainer(tmp_path, vocab_size=400)
    assert (tmp_path / "tokenizer.json").read_bytes() != few
    assert trainer.network.config.vocab_size == 400


def test_the_text_backbones_tokenizer_is_taken(
    shop: Shop, bert: Path, tokenizer: Path, tmp_path: Path
) -> None:
    overrides = {"image_size": 64, "joint_from": 1, "num_hidden_layers": 3, "hidden_size": 32}
    overrides |= {"intermediate_size": 48, "max_position_embeddings": 512}
    trainer = shop.trainer(tmp_path, text_backbone=str(bert), overrides=overrides)
    assert trainer.network.config.vocab_size == 1000
    ours, theirs = (
        TextTokenizer(path, 48).encode(["red dress"]).input_ids.tolist()
        for path in (tmp_path / "tokenizer.json", tokenizer)
    )
    assert ours == theirs
    (bert / "tokenizer.json").rename(bert / "hidden.json")
    try:
        with pytest.raises(TrainingError, match=r"has no tokenizer\.json or vocab\.txt"):
            shop.trainer(tmp_path / "other", text_backbone=str(bert), overrides=overrides)
    finally:
        (bert / "hidden.json").rename(bert / "tokenizer.json")


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["red dress"], "1 products with 1 different texts"),
        (["red dress"] * 5, "5 products with 1 different texts"),
        ([], "0 products with 0 different texts"),
    ],
)
def test_too_few_products(texts: list[str], told: str, shop: Shop, tmp_path: Path) -> None:
    products = [
        dataclasses.replace(product, text=text)
        for product, text in zip(shop.learn.products, texts, strict=False)
    ]
    few = dataclasses.replace(shop.learn, products=products, fingerprint="few")
    with pytest.raises(TrainingError, match=told):
        Trainer(SETTINGS, few, None, tmp_path / "run", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_products_are_enough(shop: Shop, tmp_path: Path) -> None:
    products = shop.learn.products[:2]
    few = dataclasses.replace(shop.learn, products=products, fingerprint="two")
    settings = dataclasses.replace(SETTINGS, epochs=1, negatives=3)
    best = Trainer(settings, few, None, tmp_path / "run", cache=tmp_path).run()
    # Nothing to choose by: the last state is kept, and no probability is fitted.
    training = json.loads((best / "training.json").read_text())
    assert training == {"text_template": None}
    assert [line["step"] for line in lines(tmp_path / "run")] == [0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"preset": "smal"}, "no preset 'smal'"),
        ({"epochs": 0}, "epochs=0: give a number above 0"),
        ({"epochs": math.nan}, "epochs=nan"),
        ({"learning_rate": -1e-4}, "learning_rate=-0.0001"),
        ({"validate_every": math.inf}, "validate_every=inf"),
        ({"mixed_precision": "fp8"}, "mixed_precision='fp8': bf16, fp16 or no"),
    ],
)
def test_settings_that_cannot_be(
    changes: dict[str, Any], told: str, shop: Shop, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=told):
        shop.trainer(tmp_path / "run", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"cannot be written to .* choose another folder"):
        shop.trainer(tmp_path / "file" / "run")


def test_a_loss_that_is_no_number_ends_the_run(shop: Shop, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"learning_rate": 1e30, "warmup": 0.0, "checkpoint_steps": 1}
    told = r"at step 1: lower the learning rate \(1e\+30\); the checkpoints in .* are untouched"
    for _ in range(2):  # the second time from the state that stands
        with pytest.raises(TrainingError, match=told):
            shop.trainer(tmp_path, **changes).run()
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
        weights = load_file(tmp_path / "checkpoints" / "step-00000001" / "model.safetensors")
        assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    assert [line["step"] for line in lines(tmp_path)] == [0]


class Broken(Trainer):
    """A run whose third step leaves a weight that is no number, and does not notice."""

    def _step(self, batch: Batch) -> dict[str, float]:
        figures = super()._step(batch)
        if self.progression.step == 5:
            with torch.no_grad():
                self.network.layers[1].qkv.bias[0] = math.nan
        return figures


def test_a_broken_network_is_neither_chosen_nor_saved(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"layers\.1\.qkv\.bias is not finite at step 6"):
        shop.trainer(tmp_path, Broken).run()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    assert json.loads((tmp_path / "best" / "training.json").read_text())["step"] == 3
    load_checkpoint(tmp_path / "best")


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond `size`, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_what_was_saved(
    straight: Path, interrupted: Path, shop: Shop, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(interrupted, out)
    # Room for the weights, which are what best/ holds, but not for the optimizer's state.
    weights = (out / "best" / "model.safetensors").stat().st_size
    told = r"step-00000006 cannot be written .*: the one before stands; make room and start again"
    with pytest.raises(TrainingError, match=told), files_up_to(int(1.5 * weights)):
        shop.trainer(out).run()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]
    load_checkpoint(out / "best")
    shop.trainer(out).run()
    assert_same_run(out, straight)


def test_a_full_disk_before_anything_was_saved(straight: Path, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "run"
    weights = (straight / "best" / "model.safetensors").stat().st_size
    told = r"best cannot be written .*File too large.*: make room"
    with pytest.raises(TrainingError, match=told), files_up_to(weights // 2):
        shop.trainer(out).run()
    assert {path.name for path in out.iterdir()} == {"log.jsonl", "run.json", "tokenizer.json"}
    shop.trainer(out).run()
    assert_same_run(out, straight)


def test_it_stops_when_it_gets_no_better(shop: Shop, tmp_path: Path) -> None:
    trainer = shop.trainer(tmp_path, learning_rate=1e-12, epochs=20, patience=2)
    trainer.run()
    assert trainer.progression.stopped
    log = lines(tmp_path)
    assert [line["step"] for line in log if "validation" not in line] == list(range(9))
    assert trainer.progression.best_step == 3
    assert json.loads((tmp_path / "best" / "training.json").read_text())["step"] == 3
    # Started again, it knows that it has stopped.
    shop.trainer(tmp_path, learning_rate=1e-12, epochs=20, patience=2).run()
    assert lines(tmp_path) == log


def test_it_learns(shop: Shop, tmp_path: Path) -> None:
    trainer = shop.trainer(
        tmp_path,
        epochs=20,
        learning_rate=2e-3,
        same_group=0.0,
        augment=False,
        validate_every=100,
        overrides={**SMALL, "hidden_dropout_prob": 0.0},
    )
    trainer.run()
    log = [line for line in lines(tmp_path) if "validation" not in line]
    first, last = log[0], log[-1]
    assert first["recall"] > math.log(32) * 0.8  # chance
    assert last["recall"] < math.log(32) / 2
    assert last["match"] < first["match"]
    assert [log[0]["hardness"], log[-1]["hardness"]] == [0, 1]


def test_titles_are_for_training_only(shop: Shop, tmp_path: Path) -> None:
    trainer = shop.trainer(tmp_path, title_share=1.0)
    batch = next(iter(trainer._batches()))
    assert bool(batch.titled.all())
    assert trainer.validation is not None
    assert trainer.validation.products.title_share == 0


@pytest.mark.parametrize("weighting", ["adaptive-loss", "adaptive-gradient"])
def test_the_tasks_can_be_weighted(weighting: str, shop: Shop, tmp_path: Path) -> None:
    shop.trainer(tmp_path, epochs=1, weighting=weighting).run()
    weights = [line["weights"] for line in lines(tmp_path) if "validation" not in line]
    assert weights[0] == {"recall": 0.5, "match": 0.5}  # Algorithm 1 starts at 1/K
    for one in weights:
        assert sum(one.values()) == pytest.approx(1, abs=1e-5)
        assert all(1 / 3 - 1e-5 <= weight <= 2 / 3 + 1e-5 for weight in one.values())
    assert any(one["recall"] != pytest.approx(0.5, abs=1e-4) for one in weights[1:])


@pytest.mark.parametrize(
    "overrides",
    [
        {"recall_size": 0, "stack_recall": False},
        {"joint_from": 0, "stack_recall": False},
        {"joint_from": 0, "stack_recall": False, "recall_size": 0},
    ],
    ids=["no recall head", "k = 0", "the paper's form"],
)
def test_other_forms_train_too(overrides: dict[str, Any], shop: Shop, tmp_path: Path) -> None:
    trainer = shop.trainer(tmp_path, epochs=1, negatives=2, overrides={**SMALL, **overrides})
    before = trainer.network.layers[0].qkv.weight.detach().clone()
    best = trainer.run()
    log = lines(tmp_path)
    assert ("recall" in log[0]) == (trainer.network.recall_head is not None)
    assert not torch.equal(trainer.network.layers[0].qkv.weight, before)
    assert load_checkpoint(best).config.joint_from == overrides.get("joint_from", 2)
    figures = json.loads((best / "training.json").read_text())["figures"]
    assert figures["image_to_text"]["sampled"]["rerank"]["rank_last"] == 100


ALL_TASKS = {**SMALL, "mlm": True, "mpm": True}


def test_with_the_masked_tasks_it_goes_on_to_the_bit(shop: Shop, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"overrides": ALL_TASKS, "weighting": "adaptive-gradient"}
    shop.trainer(tmp_path / "straight", **changes).run()
    with pytest.raises(KeyboardInterrupt):
        shop.trainer(tmp_path / "again", Interrupted, **changes).run()
    torch.manual_seed(5)
    shop.trainer(tmp_path / "again", **changes).run()
    assert_same_run(tmp_path / "again", tmp_path / "straight")
    log = [line for line in lines(tmp_path / "straight") if "validation" not in line]
    assert log[0]["weights"] == dict.fromkeys(("recall", "match", "mlm", "mpm"), 0.25)
    for line in log:
        assert sum(line["weights"].values()) == pytest.approx(1, abs=1e-5)
        assert all(1 / 5 - 1e-5 <= w <= 4 / 13 + 1e-5 for w in line["weights"].values())
    assert any(line["weights"] != log[0]["weights"] for line in log[1:])
    load_checkpoint(tmp_path / "straight" / "best")


def test_the_masked_tasks_are_learnt(shop: Shop, resnet: Path, tmp_path: Path) -> None:
    # A frozen CNN: what is to be told of a patch does not move.
    overrides = {**ALL_TASKS, "patches": "grid", "cnn_image_size": 64, "freeze_cnn": True}
    trainer = shop.trainer(
        tmp_path,
        valid=False,
        cnn=str(resnet),
        epochs=20,
        learning_rate=3e-3,
        overrides={**overrides, "hidden_dropout_prob": 0.0},
    )
    trainer.run()
    log = lines(tmp_path)
    vocabulary = math.log(trainer.network.config.vocab_size)
    assert log[0]["mlm"] == pytest.approx(vocabulary, rel=0.1)  # chance
    first, last = (
        {task: np.mean([line[task] for line in part]) for task in ("mlm", "mpm", "recall")}
        for part in (log[:4], log[-4:])
    )
    assert last["mlm"] < 0.8 * first["mlm"]
    assert last["mpm"] < 0.5 * first["mpm"]
    assert last["recall"] < 0.8 * first["recall"]


@pytest.mark.parametrize("task", ["mlm", "mpm"])
def test_one_masked_task_without_the_other(task: str, shop: Shop, tmp_path: Path) -> None:
    trainer = shop.trainer(tmp_path, valid=False, epochs=1, overrides={**SMALL, task: True})
    trainer.run()
    assert set(lines(tmp_path)[0]["weights"]) == {"recall", "match", task}


@pytest.mark.parametrize("weighting", ["adaptive-loss", "adaptive-gradient"])
def test_the_papers_three_tasks(weighting: str, shop: Shop, resnet: Path, tmp_path: Path) -> None:
    overrides = {**ALL_TASKS, "joint_from": 0, "stack_recall": False, "recall_size": 0}
    overrides |= {"patches": "crop", "cnn_image_size": 16, "freeze_cnn": True, "patch_grid": 4}
    changes: dict[str, Any] = {"cnn": str(resnet), "overrides": overrides, "epochs": 1}
    trainer = shop.trainer(tmp_path, weighting=weighting, **changes)
    heads = (trainer.network.masked_language_head, trainer.network.masked_patch_head)
    before = [[value.clone() for value in head.state_dict().values()] for head in heads if head]
    best = trainer.run()
    log = [line for line in lines(tmp_path) if "validation" not in line]
    assert set(log[0]["weights"]) == {"match", "mlm", "mpm"}
    assert all(math.isfinite(line[task]) for line in log for task in ("match", "mlm", "mpm"))
    after = [list(head.state_dict().values()) for head in heads if head]
    for old, new in zip(before, after, strict=True):
        assert not any(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    assert load_checkpoint(best).config.mpm


def test_recall_and_match_see_everything(shop: Shop, tmp_path: Path) -> None:
    """At the first step recall and match are what they are without the masked tasks."""
    overrides = {**SMALL, "hidden_dropout_prob": 0.0}
    changes: dict[str, Any] = {"valid": False, "epochs": 1}
    plain = shop.trainer(tmp_path / "plain", overrides=overrides, **changes)
    overrides = {**overrides, "mlm": True, "mpm": True}
    tasks = shop.trainer(tmp_path / "tasks", overrides=overrides, **changes)
    tasks.network.load_state_dict(plain.network.state_dict(), strict=False)
    for trainer in (plain, tasks):
        trainer.run()
    first = [lines(tmp_path / name)[0] for name in ("plain", "tasks")]
    for task in ("recall", "match", "match_accuracy"):
        assert first[0][task] == pytest.approx(first[1][task], rel=1e-5)


def test_a_frozen_cnn_is_read_once_and_kept(shop: Shop, resnet: Path, tmp_path: Path) -> None:
    overrides = {**SMALL, "patches": "grid", "cnn_image_size": 64, "freeze_cnn": True}
    changes: dict[str, Any] = {"cnn": str(resnet), "overrides": overrides, "epochs": 1}
    best = shop.trainer(tmp_path, **changes).run()
    weights = load_file(best / "model.safetensors")
    pretrained = load_file(resnet / "model.safetensors")
    for name, value in pretrained.items():
        assert torch.equal(weights[f"patch_network.cnn.{name}"], value)

    overrides = {**overrides, "freeze_cnn": False}
    best = shop.trainer(tmp_path / "trained", **{**changes, "overrides": overrides}).run()
    weights = load_file(best / "model.safetensors")
    for name, value in pretrained.items():  # all but the statistics of the batch norms
        same = torch.equal(weights[f"patch_network.cnn.{name}"], value)
        assert same == ("running" in name or "num_batches" in name), name


def test_a_run_starts_from_a_checkpoint(shop: Shop, straight: Path, tmp_path: Path) -> None:
    best = Path(shutil.copytree(straight / "best", tmp_path / "best"))
    fresh = {"match_weight": 1, "recall_weight": 0, "shift": 0}
    fitted = {f"match_head.{name}": value for name, value in fresh.items()}
    given = load_file(best / "model.safetensors")
    given |= {name: torch.tensor(value + 0.5) for name, value in fitted.items()}
    save_file(given, best / "model.safetensors", metadata={"format": "pt"})
    taken = shop.trainer(tmp_path / "run", start_from=str(best)).network.state_dict()
    # The classifier too is as it was trained: what was fitted to unseen products lies beside it.
    assert all(torch.equal(taken[name], given[name]) for name in given.keys() - fitted.keys())
    assert all(taken[name] == value for name, value in fitted.items())
    tokenizer = (tmp_path / "run" / "tokenizer.json").read_bytes()
    assert tokenizer == (best / "tokenizer.json").read_bytes()

    grown = {**SMALL, "alignment_size": 16}  # a head more, freshly drawn
    shop.trainer(tmp_path / "grown", start_from=str(best), overrides=grown)
    wide = {**SMALL, "hidden_size": 32}
    with pytest.raises(TrainingError, match=r"another shape: its .* is \("):
        shop.trainer(tmp_path / "wide", start_from=str(best), overrides=wide)
    with pytest.raises(TrainingError, match="is no checkpoint"):
        shop.trainer(tmp_path / "none", start_from=str(straight))


def test_a_run_over_kept_maps(shop: Shop, resnet: Path, tmp_path: Path) -> None:
    overrides = {
        **SMALL,
        "patches": "grid",
        "cnn_image_size": 64,
        "freeze_cnn": False,
        "frozen_cnn_stages": 1,
    }
    changes: dict[str, Any] = {"cnn": str(resnet), "overrides": overrides, "epochs": 1}
    best = shop.trainer(tmp_path, keep_maps=True, joint_share=0.5, **changes).run()
    weights, pretrained = (load_file(x / "model.safetensors") for x in (best, resnet))
    for name, value in pretrained.items():
        frozen = name.startswith(("embedder", "encoder.stages.0")) or "running" in name
        same = torch.equal(weights[f"patch_network.cnn.{name}"], value)
        assert same == (frozen or "num_batches" in name), name
