from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle, write_manifest
from model.engine import Engine
from model.errors import BundleError
from model.evaluate import evaluate
from model.evaluate_bundle import EvaluatedBundle, encode_catalogue
from model.preprocess import decode_image
from model.product import Catalogue


def test_a_catalogue_is_encoded_as_it_is_served(
    unseen: Catalogue, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.evaluate_bundle._TEXTS", 24)  # in two parts
    encoded = encode_catalogue(engine, unseen, group_by="product_type")
    assert len(encoded) == len(unseen) == 32
    assert len(encoded.images) == len(encoded.image_embeddings) == encoded.first_image[-1]
    assert len(encoded.images) > 32, "some product has two views"
    assert len(set(encoded.groups.tolist())) > 1
    row = int(encoded.first_image[4]) - 1
    picture = unseen.pictures.read(unseen.products[3].images[-1])
    image = engine.encode_images(decode_image(picture, engine.image_size)[None])
    np.testing.assert_allclose(encoded.image_embeddings[row], image.embeddings[0], atol=1e-5)
    texts = engine.encode_texts([product.text for product in unseen.products])
    np.testing.assert_array_equal(encoded.texts.scales > 0, texts.states.scales > 0)
    np.testing.assert_allclose(
        encoded.texts.dequantise(), texts.states.dequantise(), atol=0.05
    )  # a step of int8
    np.testing.assert_allclose(encoded.text_embeddings, texts.embeddings, atol=1e-5)


def test_a_bundle_is_evaluated(bundle: Bundle, unseen: Catalogue) -> None:
    evaluated = EvaluatedBundle(bundle.path, threads=1)
    assert evaluated.about == {"model_id": bundle.model_id, "precision": "fp32"}
    assert evaluated.name == f"{bundle.model_id} (fp32)"
    assert evaluated.has_recall
    result = evaluate(evaluated.encode(unseen), evaluated.match, queries=8, candidates=10)
    for direction in ("text_to_image", "image_to_text"):
        assert set(result.figures[direction]["sampled"]) == {"recall", "rerank", "two_stage"}
        for protocol in ("sampled", "full"):
            for stage in result.figures[direction][protocol].values():
                assert (stage["queries"], stage["candidates"]) == (8, 32)
                assert stage["rank_last"] == 100


def test_a_fit_that_changed_nothing_is_a_fit(bundle: Bundle, tmp_path: Path) -> None:
    """Where logits tell no better than chance, their calibration is that of no fit."""
    for metrics, fitted in (({}, False), ({"stacking": [3.5, 0.0]}, True)):
        own = Path(shutil.copytree(bundle.path, tmp_path / str(fitted)))
        fields = dataclasses.asdict(bundle.manifest) | {"metrics": metrics}
        for name in ("model_id", "files", "format", "checksum"):
            fields.pop(name, None)
        write_manifest(own, **fields)
        assert EvaluatedBundle(own, threads=1).fitted == fitted


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no model bundle"):
        EvaluatedBundle(tmp_path)
