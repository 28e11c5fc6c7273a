from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, BertModel, DistilBertConfig

from model.backbones import known_preset, load_bert, new_config, new_model
from model.errors import TrainingError
from model.layers import additive_mask
from model.network import FashionBertModel
from model.patches import _normalise


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def small_config(**overrides: Any) -> Any:
    return new_config("tiny", vocab_size=100, **{"image_size": 64, **overrides})


def test_the_text_backbone_sets_the_widths(bert: Path, resnet: Path) -> None:
    config = new_config("small", text_backbone=str(bert), cnn=str(resnet), joint_from=1)
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (1000, 32, 3)
    assert (config.num_attention_heads, config.intermediate_size) == (4, 48)
    assert (config.max_position_embeddings, config.layer_norm_eps) == (512, 1e-7)
    assert config.patch_feature_size == 16
    assert (config.joint_from, config.recall_size, config.max_text_tokens) == (1, 256, 64)
    assert config.attention_probs_dropout_prob == 0  # the preset's word, not the backbone's
    assert config.cnn_config is not None
    assert config.cnn_config["model_type"] == "resnet"
    assert "id2label" not in config.cnn_config


def test_the_preset_paper_is_the_papers(bert: Path, resnet: Path) -> None:
    config = new_config("paper", text_backbone=str(bert), cnn=str(resnet), cnn_image_size=32)
    model = new_model(config, str(bert))
    assert (config.joint_from, config.patches, config.max_text_tokens) == (0, "crop", 448)
    assert (config.num_patches, config.freeze_cnn, config.stack_recall) == (64, True, False)
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.1
    assert model.recall_head is None
    assert not any(parameter.requires_grad for parameter in model.patch_network.parameters())
    learnt = {name.split(".")[0] for name, one in model.named_parameters() if one.requires_grad}
    heads = {"match_head", "masked_language_head", "masked_patch_head"}  # its three tasks
    assert learnt == {"text_embeddings", "patch_embeddings", "layers"} | heads


@torch.inference_mode()
def test_a_loaded_bert_computes_what_transformers_does(bert: Path, resnet: Path) -> None:
    theirs = BertModel.from_pretrained(bert).eval()
    config = new_config("paper", text_backbone=str(bert), cnn=str(resnet), cnn_image_size=32)
    ours = new_model(config, str(bert)).eval()
    ids = torch.randint(1, 1000, (4, 30))
    mask = (torch.arange(30)[None, :] < torch.tensor([30, 2, 17, 29])[:, None]).long()
    states = ours.text_embeddings(ids)
    assert (states - theirs.embeddings(ids)).abs().max() <= 1e-5
    for layer in ours.layers:
        states = layer(states, additive_mask(mask))
    wanted = theirs(input_ids=ids, attention_mask=mask)
    assert (states - wanted.last_hidden_state)[mask.bool()].abs().max() <= 1e-5
    pooled = torch.tanh(ours.match_head.pooler(states[:, 0]))
    assert (pooled - wanted.pooler_output).abs().max() <= 1e-5
    types = theirs.embeddings.token_type_embeddings.weight
    assert torch.equal(ours.patch_embeddings.modality, types[1])


@torch.inference_mode()
def test_the_cnn_is_loaded(resnet: Path) -> None:
    model = new_model(small_config(cnn=str(resnet), patches="grid", freeze_cnn=True))
    theirs = AutoModel.from_pretrained(resnet).state_dict()
    ours = model.patch_network.cnn.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        (None, *IMAGENET),
        ({}, *IMAGENET),
        ({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2] * 3}, [0.5, 0.4, 0.3], [0.2] * 3),
        (
            {"image_mean": [1, 1, 1], "image_std": [1, 2, 4], "rescale_factor": 1 / 127.5},
            [0.5] * 3,
            [0.5, 1, 2],
        ),
        ({"image_mean": [51] * 3, "image_std": [255] * 3, "do_rescale": False}, [0.2] * 3, [1] * 3),
        ({"image_mean": [9] * 3, "do_normalize": False}, [0] * 3, [1] * 3),
    ],
)
def test_the_cnn_says_how_its_pictures_are_normalised(
    settings: Any, mean: list[float], std: list[float], resnet: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(resnet, tmp_path / "resnet")
    if settings is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    network: Any = new_model(
        small_config(cnn=str(folder), patches="grid", freeze_cnn=True)
    ).patch_network
    torch.testing.assert_close(network.mean.flatten(), torch.tensor(mean, dtype=torch.float32))
    torch.testing.assert_close(network.std.flatten(), torch.tensor(std, dtype=torch.float32))
    white = torch.full((1, 4, 4, 3), 255, dtype=torch.uint8)
    expected = ((1 - torch.tensor(mean)) / torch.tensor(std)).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    torch.testing.assert_close(_normalise(white, network.mean, network.std), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"image_mean": 0.5},
        {"image_mean": [0.5, 0.5]},
        {"image_mean": [0.5, "a", 0.5]},
        {"image_mean": [0.5, float("nan"), 0.5]},
        {"image_std": [0.2, 0, 0.2]},
        {"rescale_factor": 0},
        {"rescale_factor": None},
    ],
)
def test_pictures_that_cannot_be_normalised(settings: Any, resnet: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(resnet, tmp_path / "resnet")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(TrainingError, match=r"preprocessor_config\.json of the CNN .*normalised"):
        new_model(small_config(cnn=str(folder), patches="grid", freeze_cnn=True))


def test_a_preprocessor_config_that_is_no_json(resnet: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(resnet, tmp_path / "resnet")
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5')
    with pytest.raises(
        TrainingError, match=r"preprocessor_config\.json of the CNN .*cannot be read"
    ):
        new_model(small_config(cnn=str(folder), patches="grid", freeze_cnn=True))


def test_the_seed_draws_the_rest() -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(new_model(small_config()).layers[0].qkv.weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_an_unknown_preset() -> None:
    for ask in (known_preset, new_config):
        with pytest.raises(TrainingError, match="no preset 'smal': choose one of paper, base"):
            ask("smal")


@pytest.mark.parametrize("option", ["text_backbone", "cnn"])
@pytest.mark.parametrize("source", ["nobody/has-this", "/no/such/folder", ""])
def test_a_backbone_that_cannot_be_reached(
    option: str, source: str, bert: Path, resnet: Path, tmp_path: Path
) -> None:
    backbones = {"text_backbone": str(bert), "cnn": str(resnet)}
    if not source:  # a folder, but nothing in it
        source = str(tmp_path)
    with pytest.raises(TrainingError) as caught:
        new_config("small", **{**backbones, option: source}, joint_from=1)
    message = str(caught.value)
    assert message.startswith(f"the {'CNN' if option == 'cnn' else 'text backbone'} {source!r}")
    assert "give a hub id that can be reached, or a local directory" in message
    assert "\n" not in message


def test_a_backbone_of_another_kind(bert: Path, resnet: Path, tmp_path: Path) -> None:
    DistilBertConfig(dim=32, n_layers=1, n_heads=2).save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match="is a distilbert, not a BERT"):
        new_config("small", text_backbone=str(tmp_path), cnn=str(resnet))
    with pytest.raises(TrainingError, match="is a bert, which is no vision model"):
        new_config("small", text_backbone=str(bert), cnn=str(bert))


def test_a_backbone_of_another_size_than_the_presets(bert: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        new_config("tiny", text_backbone=str(bert))
    message = str(caught.value)
    assert message.startswith("the preset 'tiny' is a network of its own size (hidden_size=128)")
    assert f"{str(bert)!r} does not fit (32): leave --text-backbone out" in message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_act": "relu"}, r"hidden_act='relu', .* give one with 'gelu'"),
        ({"hidden_act": "silu"}, "hidden_act='silu'"),
        ({"position_embedding_type": "relative_key"}, r"='relative_key', .* with 'absolute'"),
        ({"hidden_act": "gelu_new", "position_embedding_type": "absolute"}, None),
    ],
)
def test_a_bert_that_computes_something_else(
    changes: dict[str, str], told: str | None, bert: Path, resnet: Path, tmp_path: Path
) -> None:
    config = json.loads((bert / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    make = partial(new_config, "small", text_backbone=str(tmp_path), cnn=str(resnet), joint_from=1)
    if told is None:
        assert make().vocab_size == 1000
        return
    with pytest.raises(TrainingError, match=told):
        make()


def test_a_cnn_of_a_library_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_timm_available", lambda: False)
    fields = {"architecture": "resnet18", "num_classes": 10, "num_features": 512}
    (tmp_path / "config.json").write_text(json.dumps({**fields, "pretrained_cfg": {"tag": "x"}}))
    told = r"the CNN .* cannot be loaded \(.* requires the timm library .*\): install that, or give"
    with pytest.raises(TrainingError, match=told):
        small_config(cnn=str(tmp_path), patches="grid")


def test_grid_and_crop_need_a_cnn() -> None:
    with pytest.raises(TrainingError, match="patches='grid' needs a CNN: give one with --cnn"):
        small_config(patches="grid")


def test_a_bert_with_one_type_of_token(bert: Path, resnet: Path, tmp_path: Path) -> None:
    BertModel(BertConfig.from_pretrained(bert, type_vocab_size=1)).save_pretrained(tmp_path)
    config = new_config("paper", text_backbone=str(tmp_path), cnn=str(resnet), cnn_image_size=32)
    model = new_model(config, str(tmp_path))
    assert torch.equal(model.patch_embeddings.modality, model.text_embeddings.modality)


def test_weights_that_a_backbone_lacks(bert: Path, resnet: Path, tmp_path: Path) -> None:
    for source, least in ((bert, "encoder.layer.1.output.dense.bias"), (resnet, "embedder")):
        folder = tmp_path / source.name
        shutil.copytree(source, folder)
        weights = load_file(source / "model.safetensors")
        kept = {name: value for name, value in weights.items() if not name.startswith(least)}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
    lacking = str(tmp_path / bert.name)
    config = new_config("paper", text_backbone=lacking, cnn=str(resnet), cnn_image_size=32)
    with pytest.raises(
        TrainingError, match=r"text backbone .* lack 1 .*, such as encoder\.layer\.1"
    ):
        new_model(config, lacking)
    with pytest.raises(TrainingError, match=r"the CNN .* lack \d+ .*, such as embedder\."):
        new_model(small_config(cnn=str(tmp_path / resnet.name), patches="grid"))


def test_a_bert_without_pooler(bert: Path, resnet: Path, tmp_path: Path) -> None:
    BertModel.from_pretrained(bert, add_pooling_layer=False).save_pretrained(tmp_path)
    config = new_config("paper", text_backbone=str(tmp_path), cnn=str(resnet), cnn_image_size=32)
    new_model(config, str(tmp_path))


def test_weights_that_are_missing_or_damaged(resnet: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cnn"
    shutil.copytree(resnet, folder)
    config = small_config(cnn=str(folder), patches="grid")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(TrainingError, match=r"the weights of the CNN .* cannot be loaded"):
        new_model(config)
    weights.unlink()
    with pytest.raises(TrainingError, match=r"the weights of the CNN .* cannot be loaded"):
        new_model(config)


def test_a_cnn_that_does_not_take_the_pictures(resnet: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    torch.manual_seed(0)
    from transformers import ViTConfig, ViTModel

    ViTModel(
        ViTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            image_size=32,
            patch_size=8,
        )
    ).save_pretrained(folder)
    told = r"does not take pictures of 64×64 pixels .* set cnn_image_size"
    with pytest.raises(TrainingError, match=told):
        new_model(small_config(cnn=str(folder), patches="grid", cnn_image_size=64))
    new_model(small_config(cnn=str(folder), patches="grid", cnn_image_size=32))
    # A configuration that claims another width than the network has.
    config = small_config(cnn=str(resnet), patches="grid")
    config.patch_feature_size = 17
    with pytest.raises(TrainingError, match="gives features 16 wide, not 17"):
        new_model(config)


def test_weights_of_another_shape(bert: Path, resnet: Path) -> None:
    weights = BertModel.from_pretrained(bert).state_dict()

    def narrow(**changes: int) -> FashionBertModel:
        config = new_config("paper", text_backbone=str(bert), cnn=str(resnet), cnn_image_size=32)
        for name, value in changes.items():
            setattr(config, name, value)
        return FashionBertModel(config)

    before = narrow(hidden_size=16)
    with pytest.raises(TrainingError, match=r"has shape \(1000, 32\), the configuration wants"):
        load_bert(before, weights)
    with pytest.raises(
        TrainingError, match=r"no weight 'encoder\.layer\.3\.attention\.self\.query"
    ):
        load_bert(narrow(num_hidden_layers=4), weights)
    with pytest.raises(TrainingError, match=r"no weight 'embeddings\.word_embeddings\.weight'"):
        load_bert(narrow(), {})


def test_a_bert_without_a_pooler(bert: Path, resnet: Path) -> None:
    weights = {
        name: value
        for name, value in BertModel.from_pretrained(bert).state_dict().items()
        if not name.startswith("pooler")
    }
    config = new_config("paper", text_backbone=str(bert), cnn=str(resnet), cnn_image_size=32)
    model = FashionBertModel(config)
    before = model.match_head.pooler.weight.clone()
    load_bert(model, weights)
    assert torch.equal(model.match_head.pooler.weight, before)
    assert torch.equal(
        model.text_embeddings.word.weight, weights["embeddings.word_embeddings.weight"]
    )


def test_an_old_bert_by_its_name_only(bert: Path, resnet: Path, tmp_path: Path) -> None:
    """A config.json of years ago says little more than what differs from BERT-base."""
    fields = json.loads((bert / "config.json").read_text())
    kept = {"model_type", "hidden_size", "num_hidden_layers", "num_attention_heads"}
    (tmp_path / "config.json").write_text(json.dumps({n: fields[n] for n in kept}))
    config = new_config("small", text_backbone=str(tmp_path), cnn=str(resnet), joint_from=1)
    assert config.vocab_size == BertConfig().vocab_size
