from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.backbones import new_config, new_model
from model.config import FashionBertConfig
from model.layers import additive_mask
from model.network import FashionBertModel


def altered(config: FashionBertConfig, **changes: Any) -> FashionBertConfig:
    config = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def network(config: FashionBertConfig, seed: int = 0) -> FashionBertModel:
    """A network in evaluation mode whose match head has something to say."""
    torch.manual_seed(seed)
    model = FashionBertModel(config).eval()
    with torch.no_grad():
        model.match_head.classifier.weight.normal_()
    return model


def texts(count: int = 3, length: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 1000, (count, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, count):
        mask[row, length - row :] = 0  # texts of different lengths
    return ids, mask


def pictures(count: int = 3, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def reference(model: FashionBertModel, ids: Tensor, mask: Tensor, pixels: Tensor) -> Tensor:
    """States of all layers over the joined sequence, kept apart below k by the mask alone."""
    embedded = [
        model.text_embeddings(ids),
        model.patch_embeddings(model.patch_network(pixels)),
    ]
    states = torch.cat(embedded, dim=1)
    length = ids.shape[1]
    present = torch.cat([mask, mask.new_ones(len(ids), model.config.num_patches)], dim=1)
    joint = additive_mask(present)
    side = (torch.arange(states.shape[1]) >= length).float()
    apart = joint - 1e4 * (side[:, None] != side[None, :]).float()
    outputs = [states]
    for number, layer in enumerate(model.layers):
        states = layer(states, apart if number < model.config.joint_from else joint)
        outputs.append(states)
    return torch.stack(outputs)


@pytest.mark.parametrize("k", [0, 1, 3])
@torch.inference_mode()
def test_split_and_whole_encoder_agree(small: FashionBertConfig, k: int) -> None:
    model = network(altered(small, joint_from=k, stack_recall=False))
    (ids, mask), pixels = texts(), pictures()
    states = reference(model, ids, mask, pixels)
    text_states, _ = model.encode_text(ids, mask)
    image_states, _ = model.encode_image(pixels)
    real = mask.bool()
    torch.testing.assert_close(text_states[real], states[k][:, : ids.shape[1]][real])
    torch.testing.assert_close(image_states, states[k][:, ids.shape[1] :])
    logits = model.match(text_states, mask, image_states)
    torch.testing.assert_close(logits, model.match_head(states[-1][:, 0]))
    # The joint layers do see the picture.
    others = model.match(text_states, mask, image_states.flip(0))
    assert (logits[[0, 2]] - others[[0, 2]]).abs().min() > 1e-3
    assert torch.allclose(logits[1], others[1])


@torch.inference_mode()
def test_with_k_0_states_are_the_embeddings(small: FashionBertConfig) -> None:
    model = network(altered(small, joint_from=0, stack_recall=False))
    ids, mask = texts()
    states, embedding = model.encode_text(ids, mask)
    assert torch.equal(states, model.text_embeddings(ids))
    features = model.patch_network(pictures())
    image_states, image_embedding = model.encode_image(features=features)
    assert torch.equal(image_states, model.patch_embeddings(features))
    # The recall head still reads something contextual: a word's neighbours change its weight.
    assert embedding is not None
    assert image_embedding is not None
    swapped = ids.clone()
    swapped[0, [2, 3]] = ids[0, [3, 2]]
    assert not torch.allclose(embedding[0], model.encode_text(swapped, mask)[1][0], atol=1e-4)


@torch.inference_mode()
def test_recall_embeddings_are_unit_vectors(small: FashionBertConfig) -> None:
    model = network(small)
    for embedding in (model.encode_text(*texts())[1], model.encode_image(pictures())[1]):
        assert embedding is not None
        assert embedding.shape == (3, 16)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))
    assert model.encode_text(*texts())[0].shape == (3, 7, 32)
    assert model.encode_image(pictures())[0].shape == (3, 64, 32)


def test_without_a_recall_head(small: FashionBertConfig) -> None:
    model = network(altered(small, recall_size=0, stack_recall=False))
    assert model.recall_head is None
    assert not [name for name in model.state_dict() if "recall" in name]
    assert model.encode_text(*texts())[1] is None
    assert model.encode_image(pictures())[1] is None


@torch.inference_mode()
def test_pixels_and_their_features_are_the_same(small: FashionBertConfig) -> None:
    model = network(small)
    features = model.patch_network(pictures())
    for ours, theirs in zip(
        model.encode_image(pictures()), model.encode_image(features=features), strict=True
    ):
        assert torch.equal(ours, theirs)


@torch.inference_mode()
def test_the_first_row_alone_is_the_same(small: FashionBertConfig) -> None:
    model = network(small)
    with torch.no_grad():
        for layer in model.layers:
            layer.qkv.bias.normal_()
    states = torch.randn(3, 20, 32)
    mask = additive_mask((torch.arange(20) < 15).long().expand(3, -1))
    for layer in model.layers:
        whole = layer(states, mask)
        torch.testing.assert_close(layer.first_row(states, mask), whole[:, :1])


@pytest.mark.parametrize("k", [0, 2])
@torch.inference_mode()
def test_padding_changes_nothing(small: FashionBertConfig, k: int) -> None:
    model = network(altered(small, joint_from=k, stack_recall=k > 0))
    ids, mask = texts()
    junk = torch.randint(5, 1000, (3, 9))
    padded, padded_mask = torch.cat([ids, junk], 1), torch.cat([mask, torch.zeros_like(junk)], 1)
    states, embedding = model.encode_text(ids, mask)
    more, same = model.encode_text(padded, padded_mask)
    real = mask.bool()
    torch.testing.assert_close(more[:, :7][real], states[real])
    torch.testing.assert_close(same, embedding)
    images, _ = model.encode_image(pictures())
    torch.testing.assert_close(
        model.match(more, padded_mask, images), model.match(states, mask, images)
    )


@torch.inference_mode()
def test_the_recall_similarity_is_stacked(small: FashionBertConfig) -> None:
    model = network(small)
    ids, mask = texts(1)
    text_states, text_embedding = model.encode_text(ids, mask)
    image_states, image_embeddings = model.encode_image(pictures(12))
    assert text_embedding is not None
    assert image_embeddings is not None
    similarity = image_embeddings @ text_embedding[0]

    def match(one: FashionBertModel) -> Tensor:
        return one.match(text_states.expand(12, -1, -1), mask.expand(12, -1), image_states)

    # Nothing of it while training: the joint layers learn to match by themselves.
    alone = match(model)
    plain = network(altered(small, stack_recall=False))
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(alone, match(plain))
    model.match_head.recall_weight.fill_(7)
    torch.testing.assert_close(match(model), alone + 7 * similarity)
    model.match_head.classifier.weight.zero_()
    assert match(model).argsort().tolist() == similarity.argsort().tolist()


@pytest.mark.parametrize("k", [0, 2, 3])
@torch.inference_mode()
def test_one_text_or_picture_stands_for_all(small: FashionBertConfig, k: int) -> None:
    config = altered(small, joint_from=k, stack_recall=k > 0, alignment_size=8 * (k > 0))
    model = network(config)
    if k:
        model.match_head.recall_weight.fill_(5)
        model.match_head.alignment_weight.fill_(3)
    ids, mask = texts()
    words, patches = model.encode_text(ids, mask)[0], model.encode_image(pictures())[0]
    for one in range(3):
        row = slice(one, one + 1)
        torch.testing.assert_close(
            model.match(words[row], mask[row], patches),
            model.match(words[row].expand(3, -1, -1), mask[row].expand(3, -1), patches),
        )
        torch.testing.assert_close(
            model.match(words, mask, patches[row]),
            model.match(words, mask, patches[row].expand(3, -1, -1)),
        )


@torch.inference_mode()
def test_while_training_the_logits_are_the_same(small: FashionBertConfig) -> None:
    model = network(altered(small, stack_recall=False))
    (ids, mask), pixels = texts(), pictures()
    words, patches = model.encode_text(ids, mask)[0], model.encode_image(pixels)[0]
    logits = model.match(words, mask, patches)
    torch.testing.assert_close(model.train().match(words, mask, patches), logits)


def test_stacking_is_not_learnt(small: FashionBertConfig) -> None:
    stacked, plain = (
        FashionBertModel(altered(small, stack_recall=stacks)) for stacks in (True, False)
    )
    assert stacked.state_dict().keys() - plain.state_dict().keys() == {
        "match_head.match_weight",
        "match_head.recall_weight",
        "match_head.shift",
    }
    assert [name for name, _ in stacked.named_parameters()] == [
        name for name, _ in plain.named_parameters()
    ]


def test_the_temperature_is_bounded(small: FashionBertConfig) -> None:
    head = FashionBertModel(small).recall_head
    assert head is not None
    assert head.scale.item() == pytest.approx(1 / 0.07, rel=0.01)
    with torch.no_grad():
        head.log_scale.fill_(50)
    assert head.scale.item() == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize("k", [0, 2])
@torch.inference_mode()
def test_joint_states_are_all_rows_of_the_last_layer(small: FashionBertConfig, k: int) -> None:
    model = network(altered(small, joint_from=k, stack_recall=False))
    (ids, mask), pixels = texts(), pictures()
    texts_alone, images_alone = model.encode_text(ids, mask)[0], model.encode_image(pixels)[0]
    states = model.joint_states(texts_alone, mask, images_alone)
    wanted = reference(model, ids, mask, pixels)[-1]
    assert states.shape == (3, 7 + 64, 32)
    real = torch.cat([mask, mask.new_ones(3, 64)], dim=1).bool()
    torch.testing.assert_close(states[real], wanted[real])
    logits = model.match(texts_alone, mask, images_alone)
    torch.testing.assert_close(logits, model.match_head(states[:, 0]))


def test_heads_of_the_masked_tasks(small: FashionBertConfig, tmp_path: Path) -> None:
    plain, both = (network(altered(small, mlm=on, mpm=on)) for on in (False, True))
    ours, theirs = both.state_dict(), plain.state_dict()
    assert {name: tuple(ours[name].shape) for name in ours.keys() - theirs.keys()} == {
        "masked_language_head.dense.weight": (32, 32),
        "masked_language_head.dense.bias": (32,),
        "masked_language_head.norm.weight": (32,),
        "masked_language_head.norm.bias": (32,),
        "masked_language_head.bias": (1000,),
        "masked_patch_head.decoder.weight": (32, 32),
    }
    assert not theirs.keys() - ours.keys()
    with torch.no_grad():
        assert both.masked_language_head is not None
        both.masked_language_head.bias.normal_()
    both.save_pretrained(tmp_path)
    loaded = FashionBertModel.from_pretrained(tmp_path)
    assert [n for n, v in loaded.state_dict().items() if not torch.equal(v, ours[n])] == []
    assert network(altered(small, mpm=True)).masked_language_head is None


def test_the_decoder_is_the_word_embeddings(small: FashionBertConfig) -> None:
    model = network(altered(small, mlm=True))
    head, words = model.masked_language_head, model.text_embeddings.word.weight
    assert head is not None
    with torch.no_grad():
        head.bias.normal_()
    states = torch.randn(5, 32)
    logits = head(states, words)
    inner = torch.nn.functional.gelu(states @ head.dense.weight.T + head.dense.bias)
    inner = (inner - inner.mean(1, keepdim=True)) / (inner.var(1, correction=0, keepdim=True)
        + 1e-5).sqrt()  # fmt: skip
    torch.testing.assert_close(logits, inner @ words.T + head.bias, rtol=1e-4, atol=1e-4)
    logits[:, 7].sum().backward()
    assert words.grad is not None
    assert words.grad.abs().sum(1).nonzero().flatten().tolist() == [7]


def test_saved_and_loaded_it_is_the_same(resnet: Path, tmp_path: Path) -> None:
    cnn = tmp_path / "cnn"
    cnn.mkdir()
    for file in resnet.iterdir():
        (cnn / file.name).write_bytes(file.read_bytes())
    config = new_config(
        "tiny", vocab_size=1000, cnn=str(cnn), patches="grid", image_size=64, freeze_cnn=True
    )
    model = new_model(config).eval()
    model.match_head.recall_weight.fill_(7)
    model.save_pretrained(tmp_path / "saved")
    for file in cnn.iterdir():
        file.unlink()  # a checkpoint needs nothing else
    loaded = FashionBertModel.from_pretrained(tmp_path / "saved")
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert not loaded.training
    with torch.inference_mode():
        images = [one.encode_image(pictures())[0] for one in (model, loaded)]
        states = [one.encode_text(*texts())[0] for one in (model, loaded)]
        mask = texts()[1]
        logits = [
            one.match(text, mask, image)
            for one, text, image in zip((model, loaded), states, images, strict=True)
        ]
    for pair in (images, states, logits):
        torch.testing.assert_close(*pair)
