"""Patch networks: a picture becomes P patch features.

All three take uint8 pixels [B, S, S, 3] and give float features [B, P, F], row-major over the
grid; normalisation and resizing are part of the network, so they are part of the exported graph.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from model.config import FashionBertConfig
from model.errors import TrainingError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] → float [B, 3, S, S]."""
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def _pool(features: Tensor, grid: int) -> Tensor:
    """[B, F, h, w] → [B, F, grid, grid]: adaptive average pooling, of any h and w.

    As matrix products, since the exporter has no adaptive pooling where h or w is no multiple.
    """
    height, width = (int(side) for side in features.shape[-2:])
    if (height, width) == (grid, grid):
        return features
    rows, columns = (_cells(side, grid).to(features) for side in (height, width))
    return rows @ features @ columns.T


def _cells(side: int, grid: int) -> Tensor:
    """[grid, side]: row i averages the places that lie in cell i."""
    weights = np.zeros((grid, side), dtype=np.float32)
    for i in range(grid):
        start, stop = i * side // grid, -(-(i + 1) * side // grid)
        weights[i, start:stop] = 1 / (stop - start)
    return torch.from_numpy(weights)


class _CnnPatches(nn.Module):
    """What `crop` and `grid` share: the CNN and its input."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: FashionBertConfig) -> None:
        super().__init__()
        self.grid = config.patch_grid
        self.input_size = config.cnn_image_size
        self.frozen = config.freeze_cnn
        self.frozen_stages = 0 if config.freeze_cnn else config.frozen_cnn_stages
        self.cnn = build_cnn(config)
        self.cnn.eval()
        # Persistent: from_pretrained builds on the meta device and fills only what was saved.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.freeze()

    def freeze(self) -> None:
        """Mark what no training changes: the CNN, or its first stages."""
        if self.frozen:
            self.cnn.requires_grad_(False)
        elif self.frozen_stages:
            freeze_stages(self.cnn, self.frozen_stages)

    def train(self, mode: bool = True) -> _CnnPatches:
        """The CNN stays in evaluation mode: its batch-norm statistics must not move.

        Of a CNN that is trained, too: batches of one sub-category are no sample of the pictures.
        """
        super().train(mode)
        self.cnn.eval()
        return self

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, S, S] → [B, F, h, w], resized to the CNN's input before."""
        pixels = self._resized(pixels)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            states: Tensor = self.cnn(pixel_values=pixels).last_hidden_state
        if states.dim() == 4:
            return states
        # A vision transformer: [B, prefix + n², F]; the prefix ([CLS], registers) is no patch.
        side = math.isqrt(states.shape[1])
        patches = states[:, -side * side :].transpose(1, 2)
        return patches.reshape(pixels.shape[0], states.shape[2], side, side)

    def _resized(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] → the CNN's input."""
        if pixels.shape[-1] == self.input_size:
            return pixels
        size = (self.input_size, self.input_size)
        return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)


class GridPatches(_CnnPatches):
    """The whole picture once through the CNN; cells of its feature map are the patches."""

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] → [B, P, F]."""
        return self._patches(self.feature_map(_normalise(pixels, self.mean, self.std)))

    def frozen_maps(self, pixels: Tensor) -> Tensor:
        """What the frozen stages make of uint8 [B, S, S, 3]: [B, h, w, C], channels last.

        Raises:
            TrainingError: the CNN is no ResNet, or none of its stages are frozen.
        """
        embedder, stages, count = self._stages()
        states = embedder(self._resized(_normalise(pixels, self.mean, self.std)))
        for stage in stages[:count]:
            states = stage(states)
        maps: Tensor = states.permute(0, 2, 3, 1)
        return maps

    def from_maps(self, maps: Tensor) -> Tensor:
        """The trained stages: what `frozen_maps` gave, [B, h, w, C] → [B, P, F]."""
        _, stages, count = self._stages()
        states = maps.permute(0, 3, 1, 2)
        for stage in stages[count:]:
            states = stage(states)
        return self._patches(states)

    def _stages(self) -> tuple[nn.Module, nn.ModuleList, int]:
        cnn: Any = self.cnn
        stages = getattr(getattr(cnn, "encoder", None), "stages", None)
        if not (self.frozen_stages and hasattr(cnn, "embedder") and stages is not None):
            raise TrainingError(
                "the maps of frozen stages can be kept of a ResNet with frozen_cnn_stages of at "
                f"least 1, and this is a {type(cnn).__name__} with {self.frozen_stages}: train it "
                "with --no-keep-maps"
            )
        return cnn.embedder, stages, self.frozen_stages

    def _patches(self, states: Tensor) -> Tensor:
        return _pool(states, self.grid).flatten(2).transpose(1, 2)


class CropPatches(_CnnPatches):
    """The paper's: every patch is cut out, resized to the CNN's input, and average-pooled."""

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] → [B, P, F]."""
        images = _normalise(pixels, self.mean, self.std)
        side = images.shape[-1] // self.grid
        crops = images.unflatten(2, (self.grid, side)).unflatten(4, (self.grid, side))
        # [B, 3, rows, side, columns, side] → [B · P, 3, side, side]
        crops = crops.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, side, side)
        pooled = self.feature_map(crops).mean((2, 3))
        # With −1 for the batch, the exported graph would have the example's batch size.
        return pooled.reshape(pixels.shape[0], self.grid * self.grid, pooled.shape[1])


class ConvPatches(nn.Module):
    """A small stem learnt from scratch: stride-2 convolutions down to one cell a patch."""

    def __init__(self, config: FashionBertConfig) -> None:
        super().__init__()
        steps = int(math.log2(config.image_size // config.patch_grid))
        if config.patch_grid << steps != config.image_size:
            raise TrainingError(
                f"patches='conv' halves the picture until it is the grid: image_size="
                f"{config.image_size} must be patch_grid={config.patch_grid} times a power of 2"
            )
        widths = [3] + [max(24, config.patch_feature_size >> (steps - 1 - i)) for i in range(steps)]
        widths[-1] = config.patch_feature_size
        layers: list[nn.Module] = []
        for i in range(steps):
            layers += [
                nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(widths[i + 1]),
                nn.ReLU(),
            ]
        self.stem = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] → [B, P, F]."""
        images = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        features: Tensor = self.stem(images.contiguous(memory_format=torch.channels_last))
        return features.flatten(2).transpose(1, 2)


def freeze_stages(cnn: nn.Module, count: int) -> None:
    """Keep what comes before a vision model's stage `count` as it is, in place.

    Stages are a ResNet's or ConvNeXt's stages, or a vision transformer's layers; its stem counts
    with the first, whatever follows the last with the last.

    Raises:
        TrainingError: there are not that many, or it has none that are known.
    """
    encoder: Any = getattr(cnn, "encoder", cnn)
    stages = next(
        (
            getattr(encoder, name)
            for name in ("stages", "layer", "layers")
            if isinstance(getattr(encoder, name, None), nn.ModuleList)
        ),
        None,
    )
    if stages is None:
        raise TrainingError(
            f"frozen_cnn_stages={count}: a {type(cnn).__name__} has no stages that can be told "
            "apart; set it to 0 to train all of it"
        )
    if not count < len(stages):
        raise TrainingError(
            f"frozen_cnn_stages={count}: the CNN has {len(stages)} stages, and at least one must "
            "be left to train; freeze_cnn keeps all of them"
        )
    trained = {id(parameter) for parameter in stages[count:].parameters()}
    for name, module in cnn.named_children():
        if "norm" in name:  # a vision transformer's last
            trained.update(id(parameter) for parameter in module.parameters())
    for parameter in cnn.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def frozen_state(network: nn.Module) -> dict[str, Tensor]:
    """The weights and statistics of a patch network that no training changes, by name."""
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    return {name: value for name, value in network.state_dict().items() if name not in trained}


def build_cnn(config: FashionBertConfig) -> nn.Module:
    """The CNN's architecture from `config.cnn_config`, weights not loaded."""
    if config.cnn_config is None:
        raise TrainingError("cnn_config is not set: make the configuration with `new_config`")
    settings: dict[str, Any] = dict(config.cnn_config)
    model_type = settings.pop("model_type")
    cnn: nn.Module = AutoModel.from_config(AutoConfig.for_model(model_type, **settings))
    return cnn


def build_patch_network(config: FashionBertConfig) -> nn.Module:
    """The patch network that `config.patches` names."""
    networks = {"crop": CropPatches, "grid": GridPatches, "conv": ConvPatches}
    return networks[config.patches](config)
