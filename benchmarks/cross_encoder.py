"""The peers' model: a BERT that scores pairs of texts, as transformers, torch and ONNX have it.

Imported by `benchmarks.models` in a process of its own only, for torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.settings import DOCUMENT_TOKENS, QUERY_TOKENS
from model.wordpiece import save_tokenizer


def write_cross_encoder(folder: Path, tokenizer: Tokenizer, shape: dict[str, Any]) -> None:
    """Write a cross-encoder of random weights, for texts.

    Args:
        folder: gets the weights in transformers' format, `model.onnx`, the same in `onnx/`, and
            `int8/model.onnx`.
        tokenizer: of its texts.
        shape: fields of a `BertConfig`.

    Raises:
        RuntimeError: the export computes something else.
    """
    made: Any = BertConfig
    config = made(vocab_size=tokenizer.get_vocab_size(), num_labels=1, **shape)
    config.return_dict = False
    config._attn_implementation = "eager"  # the one that the tracing exporter writes down
    model: Any = BertForSequenceClassification(config).eval()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    _describe_tokenizer(tokenizer, folder, shape["max_position_embeddings"])
    ids = torch.ones(2, QUERY_TOKENS + DOCUMENT_TOKENS, dtype=torch.int64)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    torch.onnx.export(
        model,
        (ids, ids, torch.zeros_like(ids)),
        str(folder / "model.onnx"),
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "length"} for name in names} | {"logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    _check_cross_encoder(model, folder / "model.onnx")
    _quantise(folder / "model.onnx", folder / "int8" / "model.onnx")
    (folder / "onnx").mkdir(exist_ok=True)  # where infinity looks
    (folder / "onnx" / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())


def _check_cross_encoder(model: Any, path: Path) -> None:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(1, model.config.vocab_size, (3, 17))
    mask = np.ones_like(ids)
    mask[1, 9:] = 0
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    with torch.inference_mode():
        (wanted,) = model(**{name: torch.from_numpy(value) for name, value in feeds.items()})
    difference = float(np.abs(session.run(None, feeds)[0] - wanted.numpy()).max())
    if not difference <= 1e-4:
        raise RuntimeError(f"the cross-encoder's export is {difference:.1e} away from torch")


def _quantise(source: Path, target: Path) -> None:
    """Dynamic int8, per channel: what ONNX Runtime's own tool makes of a transformer."""
    target.parent.mkdir(exist_ok=True)
    quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)


def _describe_tokenizer(tokenizer: Tokenizer, folder: Path, longest: int) -> None:
    """The files beside `tokenizer.json` that older readers want."""
    special = {
        f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")
    }
    about = {
        **special,
        "do_lower_case": True,
        "model_max_length": longest,
        "tokenizer_class": "BertTokenizer",
    }
    vocabulary = tokenizer.get_vocab()
    listed = "".join(f"{token}\n" for token in sorted(vocabulary, key=lambda one: vocabulary[one]))
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    (folder / "vocab.txt").write_text(listed, encoding="utf-8")
