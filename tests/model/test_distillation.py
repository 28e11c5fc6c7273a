from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ResNetModel

from model.checkpoint import load_checkpoint
from model.config import FashionBertConfig
from model.dataset import Batch, TrainingSet
from model.distil import Teacher, load_teacher
from model.errors import TrainingError
from model.network import FashionBertModel
from model.objective import TrainingModel
from model.train_settings import preset_settings

if TYPE_CHECKING:
    from tests.model.conftest import Shop

#: Every layer joint, and of another width and depth than what it teaches.
DEEP = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "joint_from": 0,
    "stack_recall": False,
    "patch_feature_size": 32,
}


@pytest.fixture(scope="module")
def shop(shop: Shop) -> Shop:
    """The same shop with runs of three steps."""
    settings = dataclasses.replace(
        shop.settings, epochs=1, negatives=2, joint_share=0.5, checkpoint_steps=2
    )
    return dataclasses.replace(shop, settings=settings)


@pytest.fixture(scope="module")
def teacher(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained checkpoint with k = 0; not to be written to."""
    return shop.trainer(tmp_path_factory.mktemp("teacher"), overrides={**shop.small, **DEEP}).run()


@pytest.fixture(scope="module")
def taught(shop: Shop, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps with that teacher; not to be written to."""
    out = tmp_path_factory.mktemp("taught") / "run"
    before = (teacher / "model.safetensors").read_bytes()
    trainer = shop.trainer(out, teacher=str(teacher))
    held = trainer.model.teacher.network
    trainer.run()
    assert (teacher / "model.safetensors").read_bytes() == before
    weights = load_file(teacher / "model.safetensors")
    for name, value in held.state_dict().items():
        assert torch.equal(value.cpu(), weights[name]), name
    assert not held.training
    return out


def network(config: FashionBertConfig, seed: int = 0, **changes: Any) -> FashionBertModel:
    config = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    return FashionBertModel(config).eval()


@pytest.fixture(scope="module")
def batch(unseen_set: TrainingSet) -> Batch:
    return unseen_set.batch(np.arange(6), np.random.default_rng(1))


def loss_with(student: FashionBertModel, teacher: FashionBertModel, batch: Batch) -> float:
    model = TrainingModel(student, 2, teacher=Teacher(teacher)).eval()  # a stem's norms stay
    losses = model(batch, 0.5, torch.Generator().manual_seed(0), 0)
    return float(losses["distillation"].detach())


def test_a_run_with_a_teacher_learns_from_it(taught: Path, shop: Shop) -> None:
    log = shop.steps(taught)
    assert len(log) == 3
    for line in log:
        assert line["distillation"] > 0
        assert line["weights"].keys() == {"recall", "match", "distillation"}
    best = load_checkpoint(taught / "best")
    (state,) = (taught / "checkpoints").iterdir()
    saved = load_file(state / "model.safetensors")
    assert saved.keys() == {f"network.{name}" for name in best.state_dict()}


def test_the_teacher_moves_the_student(
    taught: Path, shop: Shop, teacher: Path, tmp_path: Path
) -> None:
    shop.trainer(tmp_path, weighting="fixed", task_weights={"recall": 1 / 3, "match": 1 / 3}).run()
    alone, together = shop.steps(tmp_path), shop.steps(taught)
    # The same start and the same pairs: what differs is what the teacher taught in the first step.
    assert alone[0]["recall"] == pytest.approx(together[0]["recall"], rel=0.05)
    ours, theirs = (load_file(out / "best" / "model.safetensors") for out in (taught, tmp_path))
    assert not torch.equal(ours["match_head.pooler.weight"], theirs["match_head.pooler.weight"])


def test_what_is_taught_is_the_served_score(small: FashionBertConfig, batch: Batch) -> None:
    model = network(small, alignment_size=16)
    head = model.match_head
    for value, weight in ((3.0, head.recall_weight), (0.5, head.match_weight)):
        weight.fill_(value)
    head.alignment_weight.fill_(2.0)
    head.shift.fill_(-1.0)
    text_rows, image_rows = torch.tensor([0, 0, 4, 5]), torch.tensor([0, 3, 4, 1])
    wanted = []
    with torch.inference_mode():
        for text, image in zip(text_rows.tolist(), image_rows.tolist(), strict=True):
            mask = batch.attention_mask[text][None]
            texts, _ = model.encode_text(batch.input_ids[text][None], mask)
            images, _ = model.encode_image(batch.images["pixels"][image][None])
            wanted.append(model.match(texts, mask, images))
    found = Teacher(model).scores(batch, text_rows, image_rows)
    assert not found.requires_grad
    torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-4, atol=1e-4)
    head.alignment_weight.fill_(0.0)
    assert not torch.allclose(Teacher(model).scores(batch, text_rows, image_rows), found)


def test_a_network_has_nothing_to_learn_from_itself(small: FashionBertConfig, batch: Batch) -> None:
    student = network(small)
    assert loss_with(student, network(small), batch) == pytest.approx(0, abs=1e-6)
    assert loss_with(student, network(small, seed=1), batch) > 1e-3
    stacked = network(small)  # whose recall knows more than the student's match
    stacked.match_head.recall_weight.fill_(20.0)
    assert loss_with(student, stacked, batch) > 1e-3


def test_a_teacher_is_no_part_of_the_model(small: FashionBertConfig, batch: Batch) -> None:
    deep = network(small, joint_from=0, stack_recall=False)
    plain = network(small)
    model = TrainingModel(plain, 2, teacher=Teacher(deep))
    alone = TrainingModel(plain, 2)
    assert model.state_dict().keys() == alone.state_dict().keys()
    assert len(list(model.parameters())) == len(list(alone.parameters()))
    model.train()
    assert not deep.training
    model(batch, 0.5, torch.Generator().manual_seed(0), 0)["distillation"].backward()
    assert all(value.grad is None and not value.requires_grad for value in deep.parameters())
    reached = {name for name, value in plain.named_parameters() if value.grad is not None}
    assert {"match_head.pooler.weight", "text_embeddings.word.weight"} <= reached


def test_it_goes_on_to_the_bit_with_the_same_teacher_only(
    taught: Path, shop: Shop, teacher: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shop.interrupt(out, before=2, teacher=str(teacher))
    other = Path(shutil.copytree(teacher, tmp_path / "other"))
    with pytest.raises(TrainingError, match=r"other settings \(teacher\): choose another folder"):
        shop.trainer(out, teacher=str(other))
    with pytest.raises(TrainingError, match=r"other settings \(teacher\): choose another folder"):
        shop.trainer(out)
    torch.manual_seed(5)
    shop.trainer(out, teacher=str(teacher)).run()
    for name in ("best/model.safetensors", "best/training.json", "log.jsonl"):
        assert (out / name).read_bytes() == (taught / name).read_bytes(), name


def test_a_teacher_that_has_changed_is_refused(shop: Shop, teacher: Path, tmp_path: Path) -> None:
    changing = Path(shutil.copytree(teacher, tmp_path / "changing"))
    shop.interrupt(tmp_path / "run", before=2, teacher=str(changing))
    weights = load_file(changing / "model.safetensors")
    weights["match_head.classifier.bias"] += 1
    save_file(weights, changing / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"other settings \(teacher_weights\)"):
        shop.trainer(tmp_path / "run", teacher=str(changing))


def test_without_a_backbone_the_teachers_words_are_taken(
    shop: Shop, teacher: Path, tmp_path: Path
) -> None:
    shop.trainer(tmp_path, teacher=str(teacher), vocab_size=120)
    assert (tmp_path / "tokenizer.json").read_bytes() == (teacher / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_size": 128}, r"given as pixels: of the two differ image_size 64 and 128"),
        ({"max_text_tokens": 50}, r"reads 48 tokens of a text, this run 50"),
        (
            {"freeze_cnn": True, "patches": "grid", "cnn_image_size": 64},
            r"given as features: .* freeze_cnn False and True.* on pixels \(",
        ),
    ],
)
def test_a_teacher_that_reads_something_else_is_refused(
    changes: dict[str, Any], told: str, shop: Shop, teacher: Path, resnet: Path, tmp_path: Path
) -> None:
    cnn = str(resnet) if "patches" in changes else None
    with pytest.raises(TrainingError, match=told):
        shop.trainer(tmp_path, teacher=str(teacher), cnn=cnn, overrides={**shop.small, **changes})


def test_a_teacher_of_other_words_is_refused(
    shop: Shop, bert: Path, teacher: Path, tmp_path: Path
) -> None:
    overrides = {"image_size": 64, "joint_from": 1, "num_hidden_layers": 3, "hidden_size": 32}
    overrides |= {"intermediate_size": 48, "max_position_embeddings": 512}
    model = load_checkpoint(teacher)
    words = Path(shutil.copytree(bert, tmp_path / "bert"))
    text = (words / "tokenizer.json").read_text().replace('"lowercase": true', '"lowercase": false')
    (words / "tokenizer.json").write_text(text)
    told = rf"reads other tokens than this run \(vocab_size {model.config.vocab_size} and 1000\)"
    with pytest.raises(TrainingError, match=told):
        shop.trainer(
            tmp_path / "run", teacher=str(teacher), text_backbone=str(words), overrides=overrides
        )


@pytest.mark.parametrize("kept", ["features", "maps"])
def test_what_is_computed_once_is_shared(
    kept: str, shop: Shop, resnet: Path, tmp_path: Path
) -> None:
    overrides = {
        **shop.small,
        "patches": "grid",
        "cnn_image_size": 64,
        "freeze_cnn": kept == "features",
    }
    if kept == "maps":
        overrides["frozen_cnn_stages"] = 1
    changes: dict[str, Any] = {"cnn": str(resnet), "keep_maps": kept == "maps"}
    deep = {**overrides, **DEEP, "patch_feature_size": 16}
    best = shop.trainer(tmp_path / "deep", overrides=deep, **changes).run()
    shop.trainer(tmp_path / "run", overrides=overrides, teacher=str(best), **changes).run()
    assert shop.steps(tmp_path / "run")[0]["distillation"] > 0

    torch.manual_seed(9)  # the same shape from elsewhere
    other = tmp_path / "other"
    ResNetModel(ResNetModel.from_pretrained(resnet).config).save_pretrained(other)
    changes["cnn"] = str(other)
    told = rf"given as {kept}: of the two differ the weights patch_network\.cnn\.embedder"
    with pytest.raises(TrainingError, match=told):
        shop.trainer(tmp_path / "else", overrides=overrides, teacher=str(best), **changes)
    # On pixels each has a CNN of its own.
    pixels = {**overrides, "freeze_cnn": False}
    trainer = shop.trainer(
        tmp_path / "pixels", overrides=pixels, teacher=str(best), cnn=str(other), keep_maps=False
    )
    trainer.run()
    assert shop.steps(tmp_path / "pixels")[0]["distillation"] > 0


def test_a_folder_that_is_no_checkpoint(shop: Shop, teacher: Path, tmp_path: Path) -> None:
    for folder, name in ((tmp_path / "none", "config.json"), (teacher.parent, "config.json")):
        with pytest.raises(TrainingError, match=f"is no checkpoint .it has no {name}.: give a run"):
            shop.trainer(tmp_path / "run", teacher=str(folder))
    assert not (tmp_path / "run").exists()


def test_a_student_on_the_device_it_is_given(teacher: Path) -> None:
    student = load_checkpoint(teacher)
    loaded = load_teacher(teacher, student, teacher / "tokenizer.json", device=torch.device("meta"))
    assert {value.device.type for value in loaded.network.parameters()} == {"meta"}


def test_the_presets_weights_are_of_the_tasks_that_there_are() -> None:
    weights = {"recall": 1.0, "alignment": 1.0, "match": 1.0, "mlm": 0.2}
    assert preset_settings("small").task_weights == weights
    taught = preset_settings("small", teacher="runs/deep/best")
    assert taught.task_weights == {**weights, "distillation": 1.0}
    deep = preset_settings("small", overrides={"alignment_size": 0, "mlm": False})
    assert deep.task_weights == {"recall": 1.0, "match": 1.0}
    patches = preset_settings("small", overrides={"mpm": True})
    assert patches.task_weights == {**weights, "mpm": 0.2}
    equal = preset_settings("small", teacher="runs/deep/best", weighting="equal")
    assert equal.task_weights is None
    assert preset_settings("tiny", teacher="runs/deep/best").task_weights is None
