from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle
from model.card import CARD, FIGURES
from model.catalogue import read_catalogue
from model.engine import Engine
from model.errors import BundleError
from model.evaluate_bundle import encode_catalogue
from model.pretrained import pretrained


def test_a_name_is_a_folder(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.pretrained.FOLDER", tmp_path)
    with pytest.raises(BundleError, match=r"no model 'small' \(it has none\): give --bundle or"):
        pretrained()
    (tmp_path / "small").mkdir()  # a folder alone is no model
    shutil.copytree(bundle.path, tmp_path / "tiny")
    assert Bundle.open(pretrained("tiny")).model_id == bundle.model_id
    for name in ("small", "../tiny", "", "."):
        with pytest.raises(BundleError, match=r"\(it has tiny\)"):
            pretrained(name)


def test_small_is_whole_and_as_small_as_promised() -> None:
    small = Bundle.open(pretrained())
    assert small.manifest.precision == "int8"
    assert sum(file.stat().st_size for file in small.path.iterdir()) <= 60_000_000
    card = (small.path / CARD).read_text(encoding="utf-8")
    assert small.model_id in card
    assert small.model_id in (small.path / FIGURES).read_text(encoding="utf-8")
    # Nothing of the machine that trained it.
    assert not str(small.manifest.config.get("cnn", "")).startswith(("/", "~"))


def test_small_finds_drawn_garments(demo_catalogue: Path) -> None:
    engine = Engine(Bundle.open(pretrained()), threads=2)
    with read_catalogue(demo_catalogue / "val.csv", text="{title}. {description}") as catalogue:
        encoded = encode_catalogue(engine, catalogue)
    first = encoded.image_embeddings[encoded.first_image[:-1]]
    similarities = encoded.text_embeddings @ first.T
    own = np.arange(len(encoded))
    # One in 32 would be chance.
    assert np.count_nonzero(similarities.argmax(axis=1) == own) >= 16
    assert np.count_nonzero(similarities.argmax(axis=0) == own) >= 16
