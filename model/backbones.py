"""Where a new model starts: pretrained text and picture backbones, by hub id or local directory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModel, ImageProcessingMixin, PreTrainedModel

from model.config import PRESETS, FashionBertConfig, check_config
from model.errors import TrainingError
from model.network import FashionBertModel

#: FashionBertConfig field ← BERT configuration field, taken over from the text backbone.
_TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "layer_norm_eps",
    "pad_token_id",
)


#: Of these, what the shapes of a backbone's weights go by.
_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)

#: What `model.layers` computes, and those with a tanh, which differ from it by 5e-4 at most.
_ACTIVATIONS = ("gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")


def _load_config(source: str, what: str) -> Any:
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"the {what} {source!r} cannot be loaded ({str(error).splitlines()[0]}): give a hub id "
            "that can be reached, or a local directory in transformers' format"
        ) from error
    except ImportError as error:  # such as timm's
        raise TrainingError(
            f"the {what} {source!r} cannot be loaded ({str(error).strip().splitlines()[0]}): "
            "install that, or give one that transformers has itself"
        ) from error


def _load_weights(source: str, what: str) -> PreTrainedModel:
    try:
        loaded: Any = AutoModel.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"the weights of the {what} {source!r} cannot be loaded "
            f"({str(error).splitlines()[0]}): download it again"
        ) from error
    model: PreTrainedModel
    model, found = loaded
    # transformers draws what is missing at random, and says so in a log line only. Many have no
    # pooler, and can do without.
    lacking = sorted(name for name in found["missing_keys"] if "pooler" not in name)
    if lacking:
        raise TrainingError(
            f"the weights of the {what} {source!r} lack {len(lacking)} that its config.json asks "
            f"for, such as {lacking[0]}: put the config.json there that belongs to them, or "
            "download it again"
        )
    return model


def _load_bert_config(source: str) -> Any:
    bert = _load_config(source, "text backbone")
    if bert.model_type != "bert":
        raise TrainingError(f"the text backbone {source!r} is a {bert.model_type}, not a BERT")
    if bert.hidden_act not in _ACTIVATIONS:
        raise TrainingError(
            f"the text backbone {source!r} computes with hidden_act={bert.hidden_act!r}, which "
            "would become another function here: give one with 'gelu'"
        )
    positions = getattr(bert, "position_embedding_type", None) or "absolute"
    if positions != "absolute":
        raise TrainingError(
            f"the text backbone {source!r} has position_embedding_type={positions!r}, which would "
            "be left out here: give one with 'absolute'"
        )
    return bert


def check_tokenizer(tokenizer: Tokenizer, text_backbone: str) -> None:
    """See that a text backbone has a vector for each token of its tokenizer.

    Raises:
        TrainingError: it has fewer, or cannot be loaded.
    """
    tokens = 1 + max(tokenizer.get_vocab().values())
    vectors = _load_bert_config(text_backbone).vocab_size
    if tokens > vectors:
        raise TrainingError(
            f"the tokenizer of the text backbone {text_backbone!r} has {tokens} tokens, its word "
            f"embeddings only {vectors} (vocab_size): put the tokenizer there that it was trained "
            "with"
        )


def _feature_width(cnn: str, cnn_config: Any) -> int:
    if hasattr(cnn_config, "num_channels"):
        if hasattr(cnn_config, "hidden_sizes"):
            return int(cnn_config.hidden_sizes[-1])
        if hasattr(cnn_config, "hidden_size"):
            return int(cnn_config.hidden_size)
    raise TrainingError(
        f"the CNN {cnn!r} is a {cnn_config.model_type}, which is no vision model with one hidden "
        "width: give a ResNet, ConvNeXt, ViT or the like"
    )


def known_preset(preset: str) -> dict[str, Any]:
    """An entry of `PRESETS`.

    Raises:
        TrainingError: there is none of that name; it lists those that there are.
    """
    if preset not in PRESETS:
        raise TrainingError(f"there is no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[preset]


def new_config(
    preset: str,
    *,
    text_backbone: str | None = None,
    cnn: str | None = None,
    vocab_size: int | None = None,
    **overrides: Any,
) -> FashionBertConfig:
    """A preset, with the widths of its backbones filled in.

    Args:
        preset: a key of `PRESETS`.
        text_backbone: hub id or directory instead of the preset's; must be a BERT.
        cnn: hub id or directory instead of the preset's; any transformers vision model.
        vocab_size: for a preset without a text backbone, the size of its own WordPiece.
        overrides: other fields of `FashionBertConfig`.

    Raises:
        TrainingError: unknown preset, a backbone that cannot be loaded, an impossible mix.
    """
    start = known_preset(preset)
    fields: dict[str, Any] = {}
    text_backbone = text_backbone or start["text_backbone"]
    if text_backbone is not None:
        bert = _load_bert_config(text_backbone)
        fields.update({name: getattr(bert, name) for name in _TEXT_FIELDS})
    elif vocab_size is not None:
        fields["vocab_size"] = vocab_size
    fields.update(start["config"])
    fields.update(overrides)
    if text_backbone is not None:
        _check_sizes(preset, text_backbone, bert, fields)
    if fields["patches"] == "grid" and "image_size" in overrides:
        # The CNN sees the whole picture, as it is unless something else was asked for.
        fields["cnn_image_size"] = overrides.get("cnn_image_size", overrides["image_size"])
    cnn = cnn or start["cnn"]
    if fields["patches"] == "conv":
        fields["patch_feature_size"] = fields["hidden_size"]
    elif cnn is None:
        raise TrainingError(f"patches={fields['patches']!r} needs a CNN: give one with --cnn")
    else:
        vision = _load_config(cnn, "CNN")
        cnn_config = {**vision.to_diff_dict(), "model_type": vision.model_type}
        # `dtype` is the stored weights'; the network is made in fp32. Class names are not ours.
        for name in ("dtype", "id2label", "label2id"):
            cnn_config.pop(name, None)
        fields.update(
            cnn=cnn, cnn_config=cnn_config, patch_feature_size=_feature_width(cnn, vision)
        )
    config = FashionBertConfig(**fields)
    check_config(config)
    return config


def _check_sizes(preset: str, text_backbone: str, bert: Any, fields: dict[str, Any]) -> None:
    """Refuse weights for a preset that is of another size, as `tiny` is of any BERT's."""
    for name in _SIZES:
        if fields[name] != getattr(bert, name):
            raise TrainingError(
                f"the preset {preset!r} is a network of its own size ({name}={fields[name]}), "
                f"which the text backbone {text_backbone!r} does not fit ({getattr(bert, name)}): "
                "leave --text-backbone out, or choose the preset small, which takes a "
                "backbone's size"
            )


def new_model(config: FashionBertConfig, text_backbone: str | None = None) -> FashionBertModel:
    """A model with its backbones' weights loaded and the rest freshly drawn (torch's seed).

    Raises:
        TrainingError: a backbone's weights cannot be loaded, or the CNN does not take what the
            configuration gives it.
    """
    model = FashionBertModel(config)
    if text_backbone is not None:
        load_bert(model, _load_weights(text_backbone, "text backbone").state_dict())
    if config.cnn is not None:
        cnn: Any = model.patch_network.cnn
        missing, unexpected = cnn.load_state_dict(
            _load_weights(config.cnn, "CNN").state_dict(), strict=False
        )
        missing = [name for name in missing if "num_batches_tracked" not in name]
        if missing or unexpected:
            raise TrainingError(
                f"the CNN {config.cnn!r} does not fit its own configuration: "
                f"missing {missing[:3]}, unexpected {unexpected[:3]}"
            )
        _normalise_as(config.cnn, model.patch_network)
        _try_cnn(model)
    return model


def _normalise_as(cnn: str, network: Any) -> None:
    """Let a patch network normalise pictures as its CNN's `preprocessor_config.json` says.

    That file computes `(v · rescale_factor − image_mean) / image_std` of v in 0…255, the network
    `(v / 255 − mean) / std`. Without the file it is ImageNet's mean and deviation.
    """
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(cnn)
    except OSError as error:
        if Path(cnn, "preprocessor_config.json").exists():
            raise TrainingError(
                f"the preprocessor_config.json of the CNN {cnn!r} cannot be read "
                f"({str(error).splitlines()[0]}): mend it, or take it away for ImageNet's values"
            ) from error
        return
    rescaled = settings.get("do_rescale", True)
    factor = settings.get("rescale_factor", 1 / 255) if rescaled else 1
    plain = not settings.get("do_normalize", True)
    for name, otherwise in (("mean", 0.0), ("std", 1.0)):
        buffer: Tensor = getattr(network, name)
        values = [otherwise] * 3 if plain else settings.get(f"image_{name}", buffer.flatten())
        try:
            numbers = [float(value) / (255 * factor) for value in values]
            fits = len(numbers) == 3 and all(map(math.isfinite, numbers))
        except (TypeError, ValueError, ZeroDivisionError):
            fits = False
        if not fits or (name == "std" and min(numbers) <= 0):
            raise TrainingError(
                f"the preprocessor_config.json of the CNN {cnn!r} has the image_{name} "
                f"{values!r:.60} and the rescale_factor {factor!r:.20}, by which no picture can be "
                "normalised: put those there that it was trained with"
            )
        buffer.copy_(torch.tensor(numbers).view_as(buffer))


def _try_cnn(model: FashionBertModel) -> None:
    config, network = model.config, model.patch_network
    side = config.cnn_image_size
    network.eval()
    try:
        with torch.inference_mode():
            width = network.feature_map(torch.zeros(1, 3, side, side)).shape[1]  # type: ignore[operator]
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"the CNN {config.cnn!r} does not take pictures of {side}×{side} pixels ({error}): "
            "set cnn_image_size to what it was trained on"
        ) from error
    finally:
        network.train()
    if width != config.patch_feature_size:
        raise TrainingError(
            f"the CNN {config.cnn!r} gives features {width} wide, not {config.patch_feature_size}"
        )


def load_bert(model: FashionBertModel, weights: dict[str, Tensor]) -> None:
    """Copy a transformers `BertModel`'s weights into the network, in place.

    The pooler goes into the match head where the backbone has one; type 0 becomes the texts'
    modality vector and type 1 the pictures'.

    Raises:
        TrainingError: a weight is missing or has another shape.
    """
    target = model.state_dict()

    def take(name: str) -> Tensor:
        if name not in weights:
            raise TrainingError(f"the text backbone has no weight {name!r}: it must be a BertModel")
        return weights[name]

    copied: dict[str, Tensor] = {
        "text_embeddings.word.weight": take("embeddings.word_embeddings.weight"),
        "text_embeddings.position.weight": take("embeddings.position_embeddings.weight"),
        "text_embeddings.modality": take("embeddings.token_type_embeddings.weight")[0],
        # Of a BERT with one type only it is that.
        "patch_embeddings.modality": take("embeddings.token_type_embeddings.weight")[:2][-1],
        "text_embeddings.norm.weight": take("embeddings.LayerNorm.weight"),
        "text_embeddings.norm.bias": take("embeddings.LayerNorm.bias"),
    }
    for i in range(model.config.num_hidden_layers):
        ours, theirs = f"layers.{i}.", f"encoder.layer.{i}."
        for kind in ("weight", "bias"):
            parts = [take(f"{theirs}attention.self.{x}.{kind}") for x in ("query", "key", "value")]
            copied[f"{ours}qkv.{kind}"] = torch.cat(parts)
            for our_name, their_name in (
                ("attention_output", "attention.output.dense"),
                ("attention_norm", "attention.output.LayerNorm"),
                ("intermediate", "intermediate.dense"),
                ("output", "output.dense"),
                ("output_norm", "output.LayerNorm"),
            ):
                copied[f"{ours}{our_name}.{kind}"] = take(f"{theirs}{their_name}.{kind}")
    for kind in ("weight", "bias"):
        if f"pooler.dense.{kind}" in weights:
            copied[f"match_head.pooler.{kind}"] = weights[f"pooler.dense.{kind}"]
    for name, value in copied.items():
        if target[name].shape != value.shape:
            raise TrainingError(
                f"the text backbone's {name} has shape {tuple(value.shape)}, the configuration "
                f"wants {tuple(target[name].shape)}"
            )
        target[name].copy_(value)
