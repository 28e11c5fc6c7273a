"""What is compared, made on the spot: our bundles, the peers' cross-encoder, words, a catalogue.

    catalogue/        a demo catalogue, to calibrate int8 on and to index
    k0/               joint from the first layer on, 64 patches: fp32
    khalf/            the lower half of the layers apart, 64 patches: fp32, int8
    small/            the preset as it ships, 25 patches: fp32, int8
    cross-encoder/    a BERT for pairs of texts in transformers' format and as ONNX

All are of the same depth and width, the preset `small`'s; their scores mean nothing, and what they
cost does not depend on that. Those of 64 patches are for comparisons with who reads 64 tokens.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.settings import ROOT, Settings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from model.config import FashionBertConfig

#: Depth, width and heads of all-MiniLM-L6-v2, which `small` starts from.
SHAPE: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
}
TINY_SHAPE = SHAPE | {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


@dataclass(frozen=True, slots=True)
class _Ours:
    """A model of ours: its patches, by side, and the precisions that it is exported in."""

    apart: bool  # the lower half of the layers, each modality's
    patch_grid: int
    image_size: int
    precisions: tuple[str, ...]


_MODELS = {
    "k0": _Ours(False, 8, 256, ("fp32",)),
    "khalf": _Ours(True, 8, 256, ("fp32", "int8")),
    "small": _Ours(True, 5, 160, ("fp32", "int8")),
}
_CROSS_ENCODER = "cross-encoder"
#: The modules of `model/` whose code decides what a bundle's graphs are.
_GRAPH_MAKERS = (
    "assembly",
    "config",
    "export",
    "fuse",
    "graphs",
    "half",
    "heads",
    "layers",
    "network",
    "onnx_graph",
    "patches",
    "precision",
    "quantise_graph",
    "quantise_products",
    "smooth_values",
)
#: Those that read as much as the peers.
OURS = ("k0-fp32", "khalf-fp32", "khalf-int8")
#: The one that ships.
SHIPPED = "small-int8"


def bundle(settings: Settings, name: str) -> Path:
    """The folder of a bundle, such as `khalf-int8`."""
    model, _, precision = name.partition("-")
    folder = settings.work / "models" / model
    return folder / precision if len(_MODELS[model].precisions) > 1 else folder


def checkpoint(settings: Settings, name: str) -> Path:
    """The folder of the checkpoint that a bundle comes from."""
    return settings.work / "models" / f"{name.partition('-')[0]}-checkpoint"


def cross_encoder(settings: Settings) -> Path:
    """The folder of the peers' model."""
    return settings.work / "models" / _CROSS_ENCODER


def catalogue(settings: Settings) -> Path:
    """The folder of the demo catalogue."""
    return settings.work / "models" / "catalogue"


def words(settings: Settings) -> list[str]:
    """Words that are one token each."""
    listed: list[str] = json.loads((settings.work / "models" / "words.json").read_bytes())
    return listed


def ensure(settings: Settings) -> None:
    """Make what is missing, in a process of its own: torch would stay in the harness's."""
    if all(_is_made(settings, name) for name in (*_MODELS, _CROSS_ENCODER)):
        return
    fields = {"text_backbone": settings.text_backbone, "cnn": settings.cnn, "quick": settings.quick}
    given = json.dumps({**fields, "work": str(settings.work.resolve())})
    subprocess.run([sys.executable, "-m", "benchmarks.models", given], check=True, cwd=ROOT)


def _wanted(settings: Settings, name: str) -> dict[str, Any]:
    """What a model depends on: where it starts from, and the code that makes its graphs."""
    makers = [ROOT / "model" / f"{one}.py" for one in _GRAPH_MAKERS]
    if name == _CROSS_ENCODER:
        makers = [ROOT / "benchmarks" / "cross_encoder.py"]
    code = b"".join(path.read_bytes() for path in makers)
    return {
        "text_backbone": settings.text_backbone,
        "cnn": settings.cnn,
        "quick": settings.quick,
        "made_by": hashlib.sha256(code).hexdigest(),
    }


def _stamp(settings: Settings, name: str) -> Path:
    return settings.work / "models" / f"{name}.json"


def _is_made(settings: Settings, name: str) -> bool:
    stamp = _stamp(settings, name)
    return stamp.is_file() and json.loads(stamp.read_bytes()) == _wanted(settings, name)


def _make(settings: Settings) -> None:
    import os

    import torch

    from benchmarks.cross_encoder import write_cross_encoder
    from model.demo import write_demo_catalogue

    folder = settings.work / "models"
    folder.mkdir(parents=True, exist_ok=True)
    if not (catalogue(settings) / "train.csv").is_file():
        _say("drawing the catalogue")
        write_demo_catalogue(
            catalogue(settings),
            products=48 if settings.quick else 1024,
            held_out=16,
            seed=0,
            processes=os.cpu_count() or 1,
        )
    tokenizer = _tokenizer(settings)
    (folder / "words.json").write_text(json.dumps(_single_tokens(tokenizer)), encoding="utf-8")
    for name in (*_MODELS, _CROSS_ENCODER):
        if _is_made(settings, name):
            continue
        _say(f"exporting {name}")
        wanted = _wanted(settings, name)  # now: the code may change while it runs
        _stamp(settings, name).unlink(missing_ok=True)
        torch.manual_seed(0)
        if name == _CROSS_ENCODER:
            shape = TINY_SHAPE if settings.quick else SHAPE
            write_cross_encoder(cross_encoder(settings), tokenizer, shape)
        else:
            _export(settings, tokenizer, name)
        _stamp(settings, name).write_text(json.dumps(wanted), encoding="utf-8")


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _tokenizer(settings: Settings) -> Tokenizer:
    from model.catalogue import read_catalogue
    from model.wordpiece import backbone_tokenizer, train_wordpiece

    if settings.text_backbone is not None:
        return backbone_tokenizer(settings.text_backbone)
    with read_catalogue(catalogue(settings) / "train.csv") as feed:
        return train_wordpiece(product.text for product in feed.products)


def _single_tokens(tokenizer: Tokenizer, most: int = 4000) -> list[str]:
    tokenizer.no_padding()
    tokenizer.no_truncation()
    found = [
        token
        for token in sorted(tokenizer.get_vocab())
        if token.isascii() and token.isalpha() and len(token) > 2
    ]
    found = [token for token in found if len(tokenizer.encode(token).ids) == 3]
    return found[:: max(1, len(found) // most)]


def _config(settings: Settings, tokenizer: Tokenizer, name: str) -> FashionBertConfig:
    from model.backbones import new_config

    ours = _MODELS[name]
    shape = TINY_SHAPE if settings.quick else SHAPE
    fields: dict[str, Any] = {
        "joint_from": shape["num_hidden_layers"] // 2 if ours.apart else 0,
        "patch_grid": ours.patch_grid,
        "image_size": ours.image_size,
        "cnn_image_size": ours.image_size,
    }
    if not ours.apart:  # nothing to pool, so no stacked score
        fields |= {"stack_recall": False, "alignment_size": 0}
    if settings.text_backbone is None:
        fields |= shape
    if settings.quick:
        fields |= {"max_text_tokens": 64}
        return new_config("tiny", vocab_size=tokenizer.get_vocab_size(), **fields)
    backbone = settings.text_backbone or str(_random_bert(settings, tokenizer))
    return new_config(
        "small", text_backbone=backbone, cnn=settings.cnn or str(_random_cnn(settings)), **fields
    )


def _random_bert(settings: Settings, tokenizer: Tokenizer) -> Path:
    from transformers import BertConfig

    folder = settings.work / "models" / "random-bert"
    config: Any = BertConfig(vocab_size=tokenizer.get_vocab_size(), **SHAPE)
    config.save_pretrained(folder)
    return folder


def _random_cnn(settings: Settings) -> Path:
    """A ResNet-50 in transformers' format, untrained."""
    from transformers import ResNetConfig, ResNetModel

    folder = settings.work / "models" / "random-cnn"
    if not (folder / "config.json").is_file():
        model: Any = ResNetModel(ResNetConfig())
        model.save_pretrained(folder)
    return folder


def _export(settings: Settings, tokenizer: Tokenizer, name: str) -> None:
    """A checkpoint of random joint layers, and its bundles by the command that users have."""
    from model.backbones import new_model
    from model.wordpiece import save_tokenizer

    folder = checkpoint(settings, name)
    model: Any = new_model(_config(settings, tokenizer, name), settings.text_backbone)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    out = settings.work / "models" / name
    command = [sys.executable, "-m", "service.cli", "export", str(folder), "--out", str(out)]
    for precision in _MODELS[name].precisions:
        command += ["--precision", precision]
    if "int8" in _MODELS[name].precisions:
        command += ["--calibrate", str(catalogue(settings) / "train.csv")]
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    _make(Settings(**{**given, **dict.fromkeys(("work", "peers", "results"), Path(given["work"]))}))
