from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from model.config import PRESETS, FashionBertConfig, check_config
from model.errors import TrainingError
from model.train_settings import TrainSettings

#: Field values of the servable presets, and the sentence that refuses one wrong value.
SERVABLE: dict[str, Any] = {"joint_from": 6, "recall_size": 256, "stack_recall": True}


def test_the_defaults_are_the_papers() -> None:
    config = FashionBertConfig()
    check_config(config)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (
        12,
        768,
        12,
    )
    assert (config.joint_from, config.recall_size, config.stack_recall) == (0, 0, False)
    assert (config.patches, config.num_patches, config.freeze_cnn) == ("crop", 64, True)
    assert config.max_text_tokens + config.num_patches == 512


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"patches": "tiles"}, "patches='tiles': choose one of crop, grid, conv"),
        ({"joint_from": 12}, "joint_from=12: at least one of the 12 layers must be joint"),
        ({"joint_from": -1}, "joint_from=-1"),
        ({"hidden_size": 770}, "hidden_size=770 is not a multiple of num_attention_heads=12"),
        ({"num_attention_heads": 0}, "num_attention_heads=0: give 1 or more"),
        ({"patch_grid": 0}, "patch_grid=0: give 1 or more"),
        ({"recall_size": 0}, "stack_recall needs a recall head"),
        ({"joint_from": 0}, "set joint_from above 0"),
        ({"max_text_tokens": 513}, "more than the text backbone's 512 positions"),
        ({"image_size": 250}, "image_size=250 is not a multiple of patch_grid=8"),
        ({"patches": "conv", "image_size": 8}, "image_size=8 is patch_grid=8, so a patch would be"),
        ({"hidden_dropout_prob": 2.0}, "hidden_dropout_prob=2: give a share, 0 or more and below"),
        ({"hidden_dropout_prob": float("nan")}, "hidden_dropout_prob=nan: give a share"),
        ({"attention_probs_dropout_prob": -0.1}, "attention_probs_dropout_prob=-0.1: give"),
    ],
)
def test_what_cannot_be_built_is_refused(change: dict[str, Any], told: str) -> None:
    check_config(FashionBertConfig(**SERVABLE))
    with pytest.raises(TrainingError) as caught:
        check_config(FashionBertConfig(**{**SERVABLE, **change}))
    assert told in str(caught.value)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    config = FashionBertConfig(**SERVABLE, cnn_config={"model_type": "resnet", "depths": [1, 2]})
    config.save_pretrained(tmp_path)
    loaded = FashionBertConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_fields_that_there_are(preset: str) -> None:
    fields = FashionBertConfig().to_dict()
    assert set(PRESETS[preset]["config"]) <= set(fields)
    assert set(PRESETS[preset]) - {"training"} == {"text_backbone", "cnn", "config"}
    settings = {field.name for field in dataclasses.fields(TrainSettings)}
    assert set(PRESETS[preset].get("training", {})) <= settings


def test_the_masked_tasks_are_the_papers() -> None:
    on = {
        name: [preset["config"].get(task, False) for task in ("mlm", "mpm")]
        for name, preset in PRESETS.items()
    }
    assert on.pop("paper") == [True, True]
    assert on.pop("small") == [True, False]
    assert on == {name: [False, False] for name in ("base", "tiny")}
