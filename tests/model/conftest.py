"""Small real things for the tests of the network and its training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel

from model.catalogue import Catalogue, read_catalogue
from model.config import FashionBertConfig
from model.dataset import TrainingSet
from model.inputs import prepare_inputs
from model.network import FashionBertModel
from model.wordpiece import save_tokenizer, train_wordpiece


@pytest.fixture(scope="session")
def learn(demo_catalogue: Path) -> Iterator[Catalogue]:
    """96 products, some with two views."""
    with read_catalogue(demo_catalogue / "train.csv") as catalogue:
        yield catalogue


@pytest.fixture(scope="session")
def unseen(demo_catalogue: Path) -> Iterator[Catalogue]:
    """32 products that nothing is trained on."""
    with read_catalogue(demo_catalogue / "val.csv") as catalogue:
        yield catalogue


@pytest.fixture(scope="session")
def tokenizer(learn: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json of `learn`'s texts."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    save_tokenizer(train_wordpiece(product.text for product in learn.products), path)
    return path


@pytest.fixture(scope="session")
def bert(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random BERT and a tokenizer.json."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=1000,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=512,
        layer_norm_eps=1e-7,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return folder


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random ResNet; its feature map is an eighth of its input's side."""
    folder = tmp_path_factory.mktemp("resnet")
    torch.manual_seed(4)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    model = ResNetModel(config)
    with torch.no_grad():  # batch norm with statistics that are not the neutral ones
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small() -> FashionBertConfig:
    """A network of 4 layers, the first two alone, on pictures of 64 × 64."""
    return FashionBertConfig(
        vocab_size=1000,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        max_text_tokens=48,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-5,
        initializer_range=0.2,
        joint_from=2,
        recall_size=16,
        stack_recall=True,
        patches="conv",
        patch_feature_size=32,
        image_size=64,
        freeze_cnn=False,
    )


@pytest.fixture(scope="session")
def unseen_set(
    unseen: Catalogue,
    small: FashionBertConfig,
    tokenizer: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> TrainingSet:
    """`unseen` prepared for `small`, grouped by product type."""
    inputs = prepare_inputs(FashionBertModel(small), unseen, tmp_path_factory.mktemp("cache"))
    return TrainingSet(unseen, inputs, tokenizer, small.max_text_tokens, "product_type")
