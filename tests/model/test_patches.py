from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, ViTModel

from model.backbones import new_config, new_model
from model.config import FashionBertConfig
from model.errors import TrainingError
from model.network import FashionBertModel
from model.patches import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    build_cnn,
    build_patch_network,
    freeze_stages,
)


def model_with(patches: str, cnn: Path | None = None, **overrides: Any) -> FashionBertModel:
    torch.manual_seed(0)
    config = new_config(
        "tiny",
        vocab_size=100,
        cnn=None if cnn is None else str(cnn),
        patches=patches,
        **{"image_size": 64, "cnn_image_size": 64, **overrides},
    )
    return new_model(config)


def pictures(count: int = 2, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("patches", ["conv", "grid", "crop"])
def test_rows_of_patches_lie_as_the_grid_does(patches: str, resnet: Path) -> None:
    # A crop goes through the CNN enlarged, as the paper has it.
    size = 32 if patches == "crop" else 64
    network = model_with(patches, None if patches == "conv" else resnet, cnn_image_size=size)
    network.patch_network.eval()
    plain = torch.full((24, 64, 64, 3), 255, dtype=torch.uint8)
    noise = torch.randint(0, 256, (24, 8, 8, 3), dtype=torch.uint8)
    with torch.inference_mode():
        before = network.patch_network(plain)
        assert before.shape == (24, 64, network.config.patch_feature_size)
        assert before.dtype == torch.float32
        for row, column in ((2, 5), (6, 1), (4, 4)):
            painted = plain.clone()
            painted[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = noise
            change = (network.patch_network(painted) - before).norm(dim=2).mean(0)
            # A cell's neighbours see a little of it: where the change has its centre counts.
            weights = change.view(8, 8) / change.sum()
            places = torch.arange(8.0)
            assert abs(float(weights.sum(1) @ places) - row) < 1
            assert abs(float(weights.sum(0) @ places) - column) < 1
            if patches == "crop":
                assert int((change > 0).sum()) == 1
                assert int(change.argmax()) == row * 8 + column


def test_crops_are_the_cnns_average_pool(resnet: Path) -> None:
    network = model_with("crop", resnet, patch_grid=4, cnn_image_size=24).patch_network.eval()
    pixels = pictures()
    cnn = AutoModel.from_pretrained(resnet).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        features = network(pixels)
        assert features.shape == (2, 16, 16)
        for picture in range(2):
            image = (pixels[picture].permute(2, 0, 1) / 255 - mean) / std
            for patch in range(16):
                top, left = patch // 4 * 16, patch % 4 * 16
                crop = image[None, :, top : top + 16, left : left + 16]
                resized = F.interpolate(crop, size=(24, 24), mode="bilinear")
                wanted = cnn(pixel_values=resized).pooler_output.flatten()
                torch.testing.assert_close(features[picture, patch], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cnn_image_size", [16, 32, 40, 56, 64, 88, 128])
def test_any_feature_map_is_averaged_into_the_grid(resnet: Path, cnn_image_size: int) -> None:
    network: Any = model_with("grid", resnet, cnn_image_size=cnn_image_size).patch_network.eval()
    pixels = pictures()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        cells = network.feature_map((pixels.permute(0, 3, 1, 2) / 255 - mean) / std)
        assert cells.shape[-1] == cnn_image_size // 8
        wanted = F.adaptive_avg_pool2d(cells, 8).flatten(2).transpose(1, 2)
        torch.testing.assert_close(network(pixels), wanted)


def test_a_vision_transformer_works_as_the_cnn(vit: Path) -> None:
    model = model_with("grid", vit, cnn_image_size=28, patch_grid=4, freeze_cnn=True)
    pixels = pictures()
    with torch.inference_mode():
        features = model.patch_network(pixels)
        assert features.shape == (2, 16, 16)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        images = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
        small = F.interpolate(images, size=(28, 28), mode="bilinear")
        states = ViTModel.from_pretrained(vit).eval()(pixel_values=small).last_hidden_state
        cells = states[:, 1:].transpose(1, 2).reshape(2, 16, 7, 7)  # without [CLS], row-major
        wanted = F.adaptive_avg_pool2d(cells, 4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-4)


def statistics(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.named_buffers() if "running" in name}


def test_a_frozen_cnn_stays_as_it_is(resnet: Path) -> None:
    model = model_with("grid", resnet, freeze_cnn=True)
    network = model.patch_network
    before = statistics(network)
    assert before
    for prepare in (lambda: None, lambda: model.train()):  # from the start, and when trained
        prepare()
        states, embedding = model.encode_image(pictures())
        assert embedding is not None
        (states.sum() + embedding[:, 0].sum()).backward()
        assert all(parameter.grad is None for parameter in network.parameters())
        after = statistics(network)
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.patch_embeddings.projection.weight.grad is not None
    assert model.training
    assert not network.cnn.training


@pytest.mark.parametrize("patches", ["grid", "conv"])
def test_a_network_that_is_not_frozen_learns(patches: str, resnet: Path) -> None:
    model = model_with(patches, resnet if patches == "grid" else None, freeze_cnn=False).train()
    before = statistics(model.patch_network)
    model.encode_image(pictures())[0][:, 0, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.patch_network.parameters())
    after = statistics(model.patch_network)
    # A pretrained CNN keeps its own: batches of one sub-category are no sample of the pictures.
    kept = patches == "grid"
    assert all(torch.equal(before[name], after[name]) == kept for name in before)


def test_conv_halves_down_to_the_grid(small: FashionBertConfig) -> None:
    config = copy.deepcopy(small)
    config.image_size, config.patch_grid = 48, 6
    assert build_patch_network(config)(pictures(size=48)).shape == (2, 36, 32)
    config.patch_grid = 16
    with pytest.raises(TrainingError, match="image_size=48 must be patch_grid=16 times a power"):
        build_patch_network(config)


def test_a_cnn_needs_its_configuration(small: FashionBertConfig) -> None:
    with pytest.raises(TrainingError, match="make the configuration with `new_config`"):
        build_cnn(small)


def test_upper_stages_are_trained_and_lower_ones_stay(resnet: Path) -> None:
    network = model_with("grid", resnet, freeze_cnn=False, frozen_cnn_stages=1)
    network.train()
    cnn: Any = network.patch_network.cnn
    before = {name: value.clone() for name, value in cnn.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in cnn.parameters() if p.requires_grad], lr=1.0)
    network.patch_network(pictures()).square().mean().backward()
    optimizer.step()
    changed = {
        name for name, value in cnn.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed
    assert all(name.startswith("encoder.stages.") for name in changed)
    assert not any(name.startswith("encoder.stages.0.") for name in changed)
    # Statistics of a batch of look-alikes must not get into the network.
    assert not any("running" in name or "tracked" in name for name in changed)


def test_layers_of_a_vision_transformer_are_stages(vit: Path) -> None:
    cnn: Any = AutoModel.from_pretrained(vit)
    freeze_stages(cnn, 0)
    trained = {name.split(".")[0] for name, p in cnn.named_parameters() if p.requires_grad}
    assert "layernorm" in trained
    assert "embeddings" not in trained
    with pytest.raises(TrainingError, match="1 stages, and at least one"):
        freeze_stages(cnn, 1)


def test_a_network_without_stages_is_refused() -> None:
    with pytest.raises(TrainingError, match="no stages that can be told apart"):
        freeze_stages(torch.nn.Linear(2, 2), 1)
