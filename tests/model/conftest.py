"""Small real things for the tests of feeds, of the network and of its training."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import random
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

from model.catalogue import read_catalogue
from model.config import FashionBertConfig
from model.dataset import Batch, TrainingSet
from model.inputs import prepare_inputs
from model.network import FashionBertModel
from model.product import Catalogue
from model.train import Trainer
from model.train_settings import TrainSettings
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


def picture(seed: int, form: str = "JPEG") -> bytes:
    colour = tuple(random.Random(seed).randbytes(3))
    image = Image.effect_noise((24, 32), 60).convert("RGB")
    image.paste(colour, (4, 4, 20, 28))
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


@pytest.fixture
def feed_folder(tmp_path: Path) -> Path:
    """A folder with `images/0.jpg` to `images/9.jpg` and some files that are no good pictures."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(10):
        (images / f"{number}.jpg").write_bytes(picture(number))
    (images / "p.png").write_bytes(picture(10, "PNG"))
    (images / "w.webp").write_bytes(picture(11, "WEBP"))
    (images / "cut.jpg").write_bytes(picture(12)[:-200])
    (images / "text.jpg").write_bytes(b"this is no picture")
    (images / "empty.jpg").write_bytes(b"")
    (images / "g.gif").write_bytes(picture(13, "GIF"))
    return tmp_path


@pytest.fixture
def write_feed(feed_folder: Path) -> Callable[..., Path]:
    """Writes rows into that folder, in the format that the file's name says."""

    def cell(value: Any) -> Any:
        return "|".join(value) if isinstance(value, list) else value

    def write(rows: list[dict[str, Any]], name: str = "feed.csv") -> Path:
        path = feed_folder / name
        match path.suffix:
            case ".csv":
                with path.open("w", encoding="utf-8", newline="") as file:
                    writer = csv.DictWriter(file, list(rows[0]))
                    writer.writeheader()
                    writer.writerows({k: cell(v) for k, v in row.items()} for row in rows)
            case ".jsonl":
                path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
            case ".parquet":
                pq.write_table(pa.Table.from_pylist(rows), path)
        return path

    return write


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
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer of 28 × 28 pixels: a [CLS] and 7 × 7 patches."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(6)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=28,
        patch_size=4,
        initializer_range=0.2,
    )
    ViTModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def registers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 with registers: it can be trained, but has an operation that ONNX has not."""
    folder = tmp_path_factory.mktemp("registers")
    torch.manual_seed(7)
    config = Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=4
    )
    Dinov2WithRegistersModel(config).save_pretrained(folder)
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


#: A small network with dropout, so that the state of the random generators counts.
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "image_size": 64,
    "recall_size": 32,
    "hidden_dropout_prob": 0.1,
}
SETTINGS = TrainSettings(
    preset="tiny",
    epochs=2,
    batch_size=32,
    learning_rate=1e-3,
    checkpoint_steps=3,
    validate_queries=20,
    group_by="product_type",
    overrides=SMALL,
)


class Interrupted(Trainer):
    """A run whose process ends before one of its steps."""

    before: int

    def _step(self, batch: Batch) -> dict[str, float]:
        if self.progression.step == self.before:
            raise KeyboardInterrupt
        return super()._step(batch)


def last_state(out: Path) -> bytes:
    """The weights after the last step, as they are saved for resuming."""
    (folder,) = (out / "checkpoints").iterdir()
    return (folder / "model.safetensors").read_bytes()


@dataclasses.dataclass(frozen=True)
class Shop:
    """What every run here is made from, and what tells how it went."""

    learn: Catalogue
    unseen: Catalogue
    cache: Path
    settings: TrainSettings = SETTINGS
    open: weakref.WeakValueDictionary[Path, Trainer] = dataclasses.field(
        default_factory=weakref.WeakValueDictionary
    )

    @property
    def small(self) -> dict[str, Any]:
        """The network of these runs."""
        return dict(SMALL)

    def trainer(
        self,
        out: Path,
        kind: type[Trainer] = Trainer,
        valid: bool = True,
        note: Callable[[str], None] | None = None,
        **changes: Any,
    ) -> Trainer:
        """A new run in a folder; the one before there is at its end, as if its process were."""
        if (before := self.open.pop(out, None)) is not None:
            before.close()
        self.open[out] = trainer = kind(
            dataclasses.replace(self.settings, **changes),
            self.learn,
            self.unseen if valid else None,
            out,
            cache=self.cache,
            text_template="{title}. {description}",
            note=note,
        )
        return trainer

    def interrupt(self, out: Path, before: int = 4, **changes: Any) -> None:
        """Runs until just before a step."""
        trainer = self.trainer(out, Interrupted, **changes)
        trainer.before = before
        with pytest.raises(KeyboardInterrupt):
            trainer.run()

    @staticmethod
    def lines(out: Path) -> list[dict[str, Any]]:
        """A run's log."""
        return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]

    @classmethod
    def steps(cls, out: Path) -> list[dict[str, Any]]:
        """Its lines that are a step's."""
        return [line for line in cls.lines(out) if "validation" not in line]

    @classmethod
    def assert_same_run(cls, ours: Path, theirs: Path) -> None:
        """The same weights after the last step, the same log, and the same best checkpoint."""
        assert last_state(ours) == last_state(theirs)
        assert cls.lines(ours) == cls.lines(theirs)
        for name in ("model.safetensors", "config.json", "tokenizer.json", "training.json"):
            assert (ours / "best" / name).read_bytes() == (theirs / "best" / name).read_bytes()


@pytest.fixture(scope="session")
def shop(learn: Catalogue, unseen: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(learn, unseen, tmp_path_factory.mktemp("pixels"))


@pytest.fixture(scope="session")
def straight_run(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps; not to be written to."""
    out = tmp_path_factory.mktemp("straight") / "run"
    assert shop.trainer(out).run() == out / "best"
    return out


@pytest.fixture(scope="session")
def interrupted_run(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended after four steps, with the state of the third; not to be written to."""
    out = tmp_path_factory.mktemp("interrupted") / "run"
    shop.interrupt(out, before=4)
    return out
