from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from model.bundle import Bundle
from model.engine import Engine
from model.native import choice
from model.native.choice import compare, open_native
from model.native.library import NotCompiledError
from model.native.matcher import NativeMatcher
from model.native.reading import MatcherWeights, read_matcher
from model.samples import noise
from model.sessions import open_session, providers

Bundles = Callable[[str], Bundle]


def session_of(bundle: Bundle) -> Any:
    return open_session(bundle.path / "matcher.onnx", providers("cpu"), 1)


@pytest.mark.usefixtures("compiled")
def test_it_is_taken_for_every_form(form_bundle: Bundles, form: str) -> None:
    bundle = form_bundle(form)
    matcher = open_native(bundle.path / "matcher.onnx", session_of(bundle), bundle.manifest.patches)
    assert matcher is not None
    assert compare(matcher, session_of(bundle), bundle.manifest.patches) < choice.TOLERANCE


def test_one_change_that_moves_nothing_is_not_all_that_rounding_does() -> None:
    """In a small int8 network it may fall on no step, where another order of sums does."""
    base = np.random.default_rng(0).standard_normal(48).astype(np.float32)

    class Steps:
        moved = iter([0.0] * 3 + [0.0] * 3 + [0.002] * 6)

        def run(self, names: object, feeds: dict[str, Any]) -> list[Any]:
            return [base + np.float32(next(self.moved))]

    class Matcher:
        hidden_size = 32
        by = 0.002

        def match(self, *given: Any) -> Any:
            return base + np.float32(self.by)

    matcher: Any = Matcher()
    assert compare(matcher, Steps(), 4) == pytest.approx(1, rel=0.01)
    # And no number of changes explains what a misread graph gives.
    matcher.by = 0.02
    Steps.moved = iter([0.0] * 6 + [0.002] * 9)
    assert compare(matcher, Steps(), 4) == pytest.approx(10, rel=0.01)


@pytest.mark.usefixtures("compiled")
def test_an_engine_scores_the_same_with_it(form_bundle: Bundles) -> None:
    bundle = form_bundle("released")
    native, plain = Engine(bundle, threads=2), Engine(bundle, threads=2, native=False)
    assert native.is_native
    assert not plain.is_native
    samples = noise(bundle.manifest.image_size, 12)
    texts, images = native.encode_texts(samples.texts), native.encode_images(samples.pixels)
    for some in (texts.states, texts.states[:1]):
        expected = plain.match(some, images.states)
        found = native.match(some, images.states)
        assert np.abs(found - expected).max() < 0.05 * expected.std()


@pytest.mark.usefixtures("compiled")
def test_fewer_passes_than_cores_are_warned_of(
    form_bundle: Bundles, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fashionbert.engine"):
        Engine(form_bundle("split"), threads=2, workers=1)
    assert "takes one core each" in caplog.text


@pytest.mark.usefixtures("compiled")
def test_a_pass_without_memory_is_halved(
    form_bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(form_bundle("split"), threads=1)
    samples = noise(engine.image_size, 8)
    texts, images = engine.encode_texts(samples.texts), engine.encode_images(samples.pixels)
    expected = engine.match(texts.states[:1], images.states)
    match, sizes = NativeMatcher.match, []

    def poor(self: NativeMatcher, *given: Any) -> Any:
        sizes.append(len(given[-1]))
        if sizes[-1] > 4:
            raise MemoryError
        return match(self, *given)

    monkeypatch.setattr(NativeMatcher, "match", poor)
    np.testing.assert_array_equal(engine.match(texts.states[:1], images.states), expected)
    assert sizes == [8, 4, 4]


@pytest.mark.usefixtures("compiled")
def test_one_that_gives_other_logits_is_not_taken(
    form_bundle: Bundles,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Wrong(NativeMatcher):
        def match(self, *args: Any) -> Any:
            return super().match(*args)[::-1]

    monkeypatch.setattr(choice, "NativeMatcher", Wrong)
    with caplog.at_level(logging.WARNING, "fashionbert.engine"):
        engine = Engine(form_bundle("released"), threads=1)
    assert not engine.is_native
    assert "differ from ONNX Runtime's" in caplog.text
    samples = noise(engine.image_size, 2)
    texts, images = engine.encode_texts(samples.texts), engine.encode_images(samples.pixels)
    assert np.isfinite(engine.match(texts.states, images.states)).all()


@pytest.mark.usefixtures("compiled")
def test_a_graph_that_it_does_not_know_is_left_to_onnx_runtime(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fashionbert.engine"):
        file = bundle.path / "matcher.onnx"
        assert open_native(file, session_of(bundle), bundle.manifest.patches) is None
    assert "does not know" in caplog.text


def test_a_machine_without_it_says_why(
    form_bundle: Bundles,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def missing(file: object) -> None:
        raise NotCompiledError("it was not compiled")

    monkeypatch.setattr(choice, "NativeMatcher", missing)
    with caplog.at_level(logging.INFO, "fashionbert.engine"):
        assert not Engine(form_bundle("split"), threads=1).is_native
    assert "it was not compiled" in caplog.text


@pytest.mark.usefixtures("compiled")
def test_logits_that_are_not_numbers_are_not_taken(form_bundle: Bundles) -> None:
    bundle = form_bundle("split")
    matcher = NativeMatcher(bundle.path / "matcher.onnx")

    class Nothing:
        def run(self, names: object, feeds: dict[str, Any]) -> list[Any]:
            return [np.full(48, np.nan, dtype=np.float32)]

    assert not compare(matcher, Nothing(), bundle.manifest.patches) <= choice.TOLERANCE


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("part", ["bias", "keys", "salience"])
def test_a_part_that_was_misread_shows(
    form_bundle: Bundles, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = form_bundle("aligned, fp32")

    def misread(file: Path) -> MatcherWeights:
        weights = read_matcher(file)
        if part == "bias":
            first = weights.layers[0].products[2]
            first.bias = first.bias + np.float32(0.05)
        elif part == "keys":
            weights.keys = weights.keys[::-1]
        else:
            assert weights.alignment is not None
            weights.alignment.salience = np.zeros(weights.hidden, dtype=np.float32)
        return weights

    monkeypatch.setattr("model.native.matcher.read_matcher", misread)
    file = bundle.path / "matcher.onnx"
    assert open_native(file, session_of(bundle), bundle.manifest.patches) is None


@pytest.mark.usefixtures("compiled")
def test_whatever_reading_fails_by_is_left_to_onnx_runtime(
    form_bundle: Bundles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """ONNX lets a norm leave out its epsilon, which no export of ours does."""
    bundle = form_bundle("split")
    model = onnx.load(str(bundle.path / "matcher.onnx"))
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            kept = [entry for entry in node.attribute if entry.name != "epsilon"]
            del node.attribute[:]
            node.attribute.extend(kept)
    onnx.save(model, str(tmp_path / "matcher.onnx"))
    session = open_session(tmp_path / "matcher.onnx", providers("cpu"), 1)
    with caplog.at_level(logging.INFO, "fashionbert.engine"):
        assert open_native(tmp_path / "matcher.onnx", session, bundle.manifest.patches) is None
    assert "cannot read" in caplog.text
