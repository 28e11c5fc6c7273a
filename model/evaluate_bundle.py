"""A bundle under evaluation: encoded and matched as it is served, through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from model.bundle import Bundle
from model.engine import Engine
from model.evaluate import EncodedCatalogue, first_images, groups_of
from model.preprocess import decode_image
from model.product import Catalogue
from model.ranking import number_by_value
from model.states import QuantisedStates

#: Pictures decoded, and texts encoded, together; the engine cuts its passes out of them.
_PICTURES = 32
_TEXTS = 512


class EvaluatedBundle:
    """An exported model for `model.evaluate.evaluate`.

    Attributes:
        about: what was evaluated, for JSON.
        text_template: what the model was trained on, if it says.
        has_recall: whether it has a recall head.
        fitted: as of `EvaluatedCheckpoint`, told by the calibration that is fitted with them.

    Raises:
        BundleError: the bundle is missing or damaged.
        FashionBertError: the device is not there.
    """

    def __init__(
        self, folder: Path, *, threads: int | None = None, device: str | None = None
    ) -> None:
        bundle = Bundle.open(folder)
        self.engine = Engine(bundle, threads=threads, device=device or "cpu")
        self.about: dict[str, Any] = {
            "model_id": bundle.model_id,
            "precision": bundle.manifest.precision,
        }
        self.name = f"{bundle.model_id} ({bundle.manifest.precision})"
        self.text_template = bundle.manifest.text_template
        self.has_recall = self.engine.recall_size > 0
        manifest = bundle.manifest
        # A fit can end at (1, 0) too, where the logits tell no better than chance.
        fitted = "stacking" in manifest.metrics or tuple(manifest.calibration) != (1.0, 0.0)
        self.fitted = fitted or not manifest.config.get("stack_recall", False)

    def encode(
        self, catalogue: Catalogue, group_by: str | None = None, progress: Progress | None = None
    ) -> EncodedCatalogue:
        """Encode a catalogue, small enough for memory."""
        return encode_catalogue(self.engine, catalogue, group_by=group_by, progress=progress)

    def match(self, texts: QuantisedStates, images: QuantisedStates) -> NDArray[np.float32]:
        """Match logits of pairs."""
        return self.engine.match(texts, images)


def encode_catalogue(
    engine: Engine,
    catalogue: Catalogue,
    *,
    group_by: str | None = None,
    progress: Progress | None = None,
) -> EncodedCatalogue:
    """Encode a catalogue, small enough for memory, through ONNX Runtime."""
    names = [name for product in catalogue.products for name in product.images]
    texts = [product.text for product in catalogue.products]
    text_states, text_embeddings = _encode_texts(engine, texts)
    values, scales, embeddings = [], [], []
    task = progress.add_task("encoding", total=len(names)) if progress is not None else None
    for start in range(0, len(names), _PICTURES):
        batch = names[start : start + _PICTURES]
        pixels = np.stack(
            [decode_image(catalogue.pictures.read(name), engine.image_size) for name in batch]
        )
        images = engine.encode_images(pixels)
        values.append(images.states.values)
        scales.append(images.states.scales)
        embeddings.append(images.embeddings)
        if progress is not None and task is not None:
            progress.advance(task, len(batch))
    return EncodedCatalogue(
        texts=text_states,
        text_embeddings=text_embeddings,
        images=QuantisedStates(np.concatenate(values), np.concatenate(scales)),
        image_embeddings=np.concatenate(embeddings),
        first_image=first_images(catalogue),
        text_numbers=number_by_value(texts),
        groups=groups_of(catalogue, group_by),
    )


def _encode_texts(engine: Engine, texts: list[str]) -> tuple[QuantisedStates, NDArray[np.float32]]:
    """States [N, T, H] and embeddings [N, E]; only a part is ever there in float32."""
    parts = [
        (slice(start, start + _TEXTS), engine.encode_texts(texts[start : start + _TEXTS]))
        for start in range(0, len(texts), _TEXTS)
    ]
    longest = max(part.states.scales.shape[1] for _, part in parts)
    values = np.zeros((len(texts), longest, engine.hidden_size), dtype=np.int8)
    scales = np.zeros((len(texts), longest), dtype=np.float32)
    embeddings = np.empty((len(texts), engine.recall_size), dtype=np.float32)
    for rows, part in parts:
        length = part.states.scales.shape[1]
        values[rows, :length] = part.states.values
        scales[rows, :length] = part.states.scales
        embeddings[rows] = part.embeddings
    return QuantisedStates(values, scales), embeddings
