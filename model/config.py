"""What a FashionBERT is: its configuration, and the presets people start from."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from model.errors import TrainingError

PATCH_NETWORKS = ("crop", "grid", "conv")


@strict
class FashionBertConfig(PreTrainedConfig):
    """Shape of the network.

    The defaults are the paper's model (arXiv 2005.09801): BERT-base over a text and an 8×8 grid
    of patches, attending jointly from the first layer, without a recall head; its two masked
    tasks are off here, as they change the training and not the served model.

    Args:
        max_text_tokens: texts are cut to this many tokens, `[CLS]` and `[SEP]` included.
        max_position_embeddings: rows of the text position table.
        joint_from: k. The first k layers attend within one modality only; a product's states
            after layer k depend on nothing but the product, so they can be precomputed.
        recall_size: width E of the recall embeddings; 0 leaves the recall head out.
        stack_recall: the served match logit adds the recall similarity, with weights fitted on
            held-out products after training (`model.calibration`); needs a recall head.
        alignment_size: width D of the token-to-patch alignment; 0 leaves it out. It is a score of
            its own that the served match logit adds, weighted as the recall similarity is.
        patches: `crop` (each patch through the CNN: the paper), `grid` (the CNN's feature map of
            the whole picture), `conv` (a small stem learnt from scratch).
        patch_grid: patches a side; P = patch_grid².
        image_size: side S of the square picture, in pixels.
        cnn: where the CNN's weights come from, a hub id or a local directory; not used by `conv`.
        cnn_config: the CNN's own configuration, kept so that a checkpoint needs nothing else.
        cnn_image_size: side of what `crop` and `grid` give to the CNN, in pixels.
        freeze_cnn: the CNN is not trained, and its features may be computed once.
        frozen_cnn_stages: of a CNN that is trained, the stem and this many of its first stages
            stay as they were; 0 trains all of it.
        patch_feature_size: width F of a patch's feature.
        mlm: train masked language modelling too, with a head of its own.
        mpm: train masked patch modelling too, with a head of its own.
    """

    model_type = "fashionbert"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0

    max_text_tokens: int = 448
    joint_from: int = 0
    recall_size: int = 0
    stack_recall: bool = False
    alignment_size: int = 0

    patches: str = "crop"
    patch_grid: int = 8
    image_size: int = 256
    cnn: str | None = None
    cnn_config: dict[str, Any] | None = None
    cnn_image_size: int = 224
    freeze_cnn: bool = True
    frozen_cnn_stages: int = 0
    patch_feature_size: int = 2048

    mlm: bool = False
    mpm: bool = False

    @property
    def num_patches(self) -> int:
        """P."""
        return self.patch_grid * self.patch_grid


_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_text_tokens",
    "image_size",
    "patch_grid",
)


def check_config(config: FashionBertConfig) -> None:
    """Refuse a configuration that cannot be built.

    Raises:
        TrainingError: naming the field and what it may be.
    """
    if config.patches not in PATCH_NETWORKS:
        raise TrainingError(
            f"patches={config.patches!r}: choose one of {', '.join(PATCH_NETWORKS)}"
        )
    for name in _SIZES:
        if getattr(config, name) < 1:
            raise TrainingError(f"{name}={getattr(config, name)}: give 1 or more")
    if not 0 <= config.joint_from < config.num_hidden_layers:
        raise TrainingError(
            f"joint_from={config.joint_from}: at least one of the {config.num_hidden_layers} "
            "layers must be joint"
        )
    if config.hidden_size % config.num_attention_heads:
        raise TrainingError(
            f"hidden_size={config.hidden_size} is not a multiple of "
            f"num_attention_heads={config.num_attention_heads}"
        )
    if config.stack_recall and not config.recall_size:
        raise TrainingError("stack_recall needs a recall head: set recall_size, 256 say")
    if config.stack_recall and not config.joint_from:
        raise TrainingError("stack_recall pools the states after layer k: set joint_from above 0")
    if config.alignment_size and not config.stack_recall:
        raise TrainingError(
            f"alignment_size={config.alignment_size} is a part of the score that recall joins "
            "(stack_recall): it needs joint_from above 0 and a preset with a recall head, which "
            "paper has not"
        )
    if config.max_text_tokens > config.max_position_embeddings:
        raise TrainingError(
            f"max_text_tokens={config.max_text_tokens} is more than the text backbone's "
            f"{config.max_position_embeddings} positions"
        )
    if config.image_size % config.patch_grid:
        raise TrainingError(
            f"image_size={config.image_size} is not a multiple of patch_grid={config.patch_grid}"
        )
    if config.patches == "conv" and config.image_size == config.patch_grid:
        raise TrainingError(
            f"image_size={config.image_size} is patch_grid={config.patch_grid}, so a patch would "
            "be one pixel: patches='conv' halves the picture at least once; give a larger "
            "image_size or a smaller patch_grid"
        )
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if not 0 <= getattr(config, name) < 1:
            raise TrainingError(
                f"{name}={getattr(config, name):g}: give a share, 0 or more and below 1"
            )


# Attention dropout keeps fused attention kernels from being used, at twice the time on a CPU.
_SERVABLE: dict[str, Any] = {
    "recall_size": 256,
    "stack_recall": True,
    "attention_probs_dropout_prob": 0.0,
}

#: Where each preset starts from. A text backbone, where one is named, sets the widths itself.
PRESETS: dict[str, dict[str, Any]] = {
    # The paper's model exactly: k = 0, crops, a frozen CNN, no recall head, its three tasks.
    "paper": {
        "text_backbone": "google-bert/bert-base-uncased",
        "cnn": "microsoft/resnet-50",
        "config": {
            "patches": "crop",
            "joint_from": 0,
            "max_text_tokens": 448,
            "mlm": True,
            "mpm": True,
        },
        # Settings of `TrainSettings`, unless others are asked for.
        "training": {
            "batch_size": 64,
            "learning_rate": 2e-5,
            "betas": (0.95, 0.999),
            "weight_decay": 1e-4,
            "warmup": 5000,
            "weighting": "adaptive-loss",
            "rank_loss": False,
        },
    },
    "base": {
        "text_backbone": "google-bert/bert-base-uncased",
        "cnn": "microsoft/resnet-50",
        "config": {
            **_SERVABLE,
            "patches": "grid",
            "joint_from": 6,
            "max_text_tokens": 64,
            "cnn_image_size": 256,
        },
    },
    "small": {
        "text_backbone": "sentence-transformers/all-MiniLM-L6-v2",
        "cnn": "microsoft/resnet-50",
        "config": {
            **_SERVABLE,
            "patches": "grid",
            "joint_from": 3,
            "max_text_tokens": 64,
            "hidden_dropout_prob": 0.0,
            "alignment_size": 128,
            "mlm": True,
            "image_size": 160,
            "cnn_image_size": 160,
            "patch_grid": 5,
            "freeze_cnn": False,
            "frozen_cnn_stages": 3,
        },
        # What the released bundle was trained with in its longest run, for a machine without a GPU.
        "training": {
            "batch_size": 128,
            "learning_rate": 1.5e-4,
            "head_learning_rate": 6e-4,
            "cnn_learning_rate": 1e-4,
            "warmup": 0.04,
            "weighting": "fixed",
            # Of all tasks that can be asked for; distillation ranks the pairs of the match.
            "task_weights": {
                "recall": 1.0,
                "alignment": 1.0,
                "match": 1.0,
                "distillation": 1.0,
                "mlm": 0.2,
                "mpm": 0.2,
            },
            "negatives": 3,
            "joint_share": 0.25,
            "keep_maps": True,
        },
    },
    # From scratch, with a WordPiece of its own: tests, the demo and quick trials.
    "tiny": {
        "text_backbone": None,
        "cnn": None,
        "config": {
            **_SERVABLE,
            "patches": "conv",
            "joint_from": 2,
            "max_text_tokens": 48,
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 384,
            "max_position_embeddings": 64,
            "hidden_dropout_prob": 0.0,
            "layer_norm_eps": 1e-5,
            "image_size": 128,
            "cnn_image_size": 128,
            "freeze_cnn": False,
            "recall_size": 128,
        },
    },
}
