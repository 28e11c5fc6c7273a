from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from model.bundle import Bundle
from model.native.matcher import NativeMatcher
from model.sessions import open_session, providers
from model.states import QuantisedStates, quantise

Bundles = Callable[[str], Bundle]

pytestmark = pytest.mark.usefixtures("compiled")


def drawn(
    seed: int, rows: int, length: int, hidden: int, lengths: NDArray[np.int64] | None = None
) -> QuantisedStates:
    """States as a layer norm gives them; of these lengths, the rest being padding."""
    states = np.random.default_rng(seed).standard_normal((rows, length, hidden))
    mask = None if lengths is None else (np.arange(length) < lengths[:, None]).astype(np.int64)
    return quantise(states.astype(np.float32), mask)


def reference(
    session: ort.InferenceSession, texts: QuantisedStates, images: QuantisedStates
) -> NDArray[np.float32]:
    feeds = {
        "text_states": texts.values,
        "text_scales": texts.scales,
        "image_states": images.values,
        "image_scales": images.scales,
    }
    logits: NDArray[np.float32] = np.asarray(session.run(["logit"], feeds)[0])
    return logits


def opened(bundle: Bundle) -> tuple[NativeMatcher, ort.InferenceSession]:
    file = bundle.path / "matcher.onnx"
    return NativeMatcher(file), open_session(file, providers("cpu"), 1)


def assert_same(found: NDArray[np.float32], expected: NDArray[np.float32], precision: str) -> None:
    """Equal, in int8 but for roundings to 8 bits that fall the other way."""
    assert found.dtype == np.float32
    assert expected.std() > 0.02  # else anything would be close
    if precision == "fp32":
        np.testing.assert_allclose(found, expected, atol=2e-5, rtol=2e-5)
    else:
        assert np.abs(found - expected).max() < 0.15 * expected.std()
        assert np.sqrt(np.mean((found - expected) ** 2)) < 0.05 * expected.std()


def test_logits_are_those_of_onnx_runtime(form_bundle: Bundles, form: str) -> None:
    bundle = form_bundle(form)
    matcher, session = opened(bundle)
    patches, hidden, pairs = bundle.manifest.patches, bundle.manifest.hidden_size, 24
    lengths = np.random.default_rng(0).integers(1, 40, pairs)
    texts = drawn(1, pairs, 40, hidden, lengths)
    images = drawn(2, pairs, patches, hidden)
    for some, others in ((texts, images), (texts[5:6], images), (texts, images[5:6])):
        counts = np.broadcast_to(some.lengths, (pairs,))
        found = matcher.match(some, others, counts, np.arange(pairs))
        assert_same(found, reference(session, some, others), bundle.manifest.precision)


@pytest.mark.parametrize("pairs", [1, 2, 3, 7, 64, 150])
def test_pairs_are_scored_alike_in_any_company(form_bundle: Bundles, pairs: int) -> None:
    bundle = form_bundle("released")
    matcher, _ = opened(bundle)
    texts = drawn(1, 1, 24, bundle.manifest.hidden_size)
    images = drawn(2, pairs, bundle.manifest.patches, bundle.manifest.hidden_size)
    lengths = np.full(pairs, 24, dtype=np.int32)
    together = matcher.match(texts, images, lengths, np.arange(pairs))
    for row in {0, pairs // 2, pairs - 1}:
        (alone,) = matcher.match(texts, images, lengths, np.array([row]))
        assert alone == together[row]


def test_the_rows_that_are_wanted_in_their_order(form_bundle: Bundles) -> None:
    bundle = form_bundle("split")
    matcher, _ = opened(bundle)
    lengths = np.array([3, 9, 1, 12, 5, 7])
    texts = drawn(1, 6, 12, bundle.manifest.hidden_size, lengths)
    images = drawn(2, 6, bundle.manifest.patches, bundle.manifest.hidden_size)
    everything = matcher.match(texts, images, texts.lengths, np.arange(6))
    rows = np.array([4, 1, 1, 5])
    found = matcher.match(texts, images, texts.lengths, rows)
    np.testing.assert_array_equal(found, everything[rows])
    assert matcher.match(texts, images, texts.lengths, rows[:0]).shape == (0,)


@pytest.mark.parametrize("length", [1, 7, 39, 55, 120, 300])
def test_texts_of_any_length(form_bundle: Bundles, length: int) -> None:
    """With 25 patches: of a whole number of vectors, and longer than what goes through together."""
    bundle = form_bundle("released")
    matcher, session = opened(bundle)
    hidden = bundle.manifest.hidden_size
    texts, images = drawn(1, 12, length, hidden), drawn(2, 12, bundle.manifest.patches, hidden)
    found = matcher.match(texts, images, texts.lengths, np.arange(12))
    assert_same(found, reference(session, texts, images), "int8")


def test_more_pairs_than_one_call_takes(
    form_bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = form_bundle("split")
    matcher, _ = opened(bundle)
    texts = drawn(1, 1, 9, bundle.manifest.hidden_size)
    images = drawn(2, 17, bundle.manifest.patches, bundle.manifest.hidden_size)
    lengths = np.full(17, 9, dtype=np.int32)
    together = matcher.match(texts, images, lengths, np.arange(17))
    monkeypatch.setattr("model.native.matcher.MOST_PAIRS", 5)
    in_parts = matcher.match(texts, images, lengths, np.arange(17))
    np.testing.assert_array_equal(in_parts, together)


def test_what_is_not_a_number_stays_so(form_bundle: Bundles) -> None:
    bundle = form_bundle("split, fp32")
    matcher, _ = opened(bundle)
    texts = drawn(1, 4, 9, bundle.manifest.hidden_size)
    images = drawn(2, 4, bundle.manifest.patches, bundle.manifest.hidden_size)
    images.scales[2, 1] = np.nan
    logits = matcher.match(texts, images, texts.lengths, np.arange(4))
    np.testing.assert_array_equal(np.isnan(logits), [False, False, True, False])


@pytest.mark.parametrize("scale", [1e4, 1e8])
@pytest.mark.parametrize("form", ["split, fp32", "split"])
def test_states_that_are_much_too_large(form_bundle: Bundles, form: str, scale: float) -> None:
    bundle = form_bundle(form)
    matcher, session = opened(bundle)
    texts = drawn(1, 6, 9, bundle.manifest.hidden_size)
    images = drawn(2, 6, bundle.manifest.patches, bundle.manifest.hidden_size)
    images.scales[:, 3] = scale
    found = matcher.match(texts, images, texts.lengths, np.arange(6))
    expected = reference(session, texts, images)
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() < (1e-3 if "fp32" in form else 0.2)


def test_padding_is_not_read(form_bundle: Bundles) -> None:
    bundle = form_bundle("aligned")
    matcher, _ = opened(bundle)
    hidden = bundle.manifest.hidden_size
    texts = drawn(1, 4, 20, hidden, np.array([20, 3, 8, 1]))
    images = drawn(2, 4, bundle.manifest.patches, hidden)
    before = matcher.match(texts, images, texts.lengths, np.arange(4))
    padding = np.arange(20) >= texts.lengths[:, None]
    texts.values[padding] = 127
    scales = np.where(padding, np.float32(np.nan), texts.scales)
    changed = QuantisedStates(texts.values, scales)
    after = matcher.match(changed, images, texts.lengths, np.arange(4))
    np.testing.assert_array_equal(after, before)


def test_threads_do_not_disturb_each_other(form_bundle: Bundles) -> None:
    bundle = form_bundle("released")
    matcher, _ = opened(bundle)
    hidden, patches = bundle.manifest.hidden_size, bundle.manifest.patches

    def score(seed: int) -> NDArray[np.float32]:
        pairs = 1 + seed % 20
        texts = drawn(seed, 1, 4 + seed % 30, hidden)
        images = drawn(seed + 1, pairs, patches, hidden)
        counts = np.broadcast_to(texts.lengths, (pairs,))
        return matcher.match(texts, images, counts, np.arange(pairs))

    alone = [score(seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(score, range(40)))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_views_of_a_memory_map_need_no_copy_to_be_right(
    form_bundle: Bundles, tmp_path: Path
) -> None:
    bundle = form_bundle("split")
    matcher, _ = opened(bundle)
    texts = drawn(1, 1, 8, bundle.manifest.hidden_size)
    images = drawn(2, 12, bundle.manifest.patches, bundle.manifest.hidden_size)
    np.save(tmp_path / "values.npy", images.values)
    values = np.load(tmp_path / "values.npy", mmap_mode="r")
    counts = np.full(6, 8, dtype=np.int32)
    expected = matcher.match(texts, images[6:], counts, np.arange(6))
    mapped = QuantisedStates(values[6:], images.scales[6:])
    np.testing.assert_array_equal(matcher.match(texts, mapped, counts, np.arange(6)), expected)
    # A view that is not in C's order has to be copied.
    swapped = np.asfortranarray(images.values[6:])
    turned = QuantisedStates(swapped, images.scales[6:])
    np.testing.assert_array_equal(matcher.match(texts, turned, counts, np.arange(6)), expected)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": [0, 4]}, "pairs 0 to 4 of 4"),
        ({"rows": [-1]}, "pairs -1 to -1 of 4"),
        ({"lengths": [3, 0, 3, 3]}, "texts of 0 to 3 states in 6"),
        ({"lengths": [7, 3, 3, 3]}, "texts of 3 to 7 states in 6"),
        ({"texts": 3}, "texts 3 of 3"),
        ({"images": 2}, "pictures 3 of 2"),
        ({"hidden": 64}, r"texts of \(4, 6, 64\)"),
        ({"texts": 1, "lengths": [3, 2, 3, 3]}, "one text of 2 and of 3 states"),
    ],
)
def test_what_does_not_fit_is_refused(
    form_bundle: Bundles, change: dict[str, list[int] | int], told: str
) -> None:
    bundle = form_bundle("split")
    matcher, _ = opened(bundle)
    given = {"rows": [0, 1, 2, 3], "lengths": [3, 3, 3, 3], "texts": 4, "images": 4} | change
    hidden = bundle.manifest.hidden_size
    texts = drawn(1, int(str(given["texts"])), 6, int(str(given.get("hidden", hidden))))
    images = drawn(2, int(str(given["images"])), bundle.manifest.patches, hidden)
    lengths = np.array(given["lengths"], dtype=np.int32)
    with pytest.raises(ValueError, match=told):
        matcher.match(texts, images, lengths, np.array(given["rows"], dtype=np.int64))


def test_other_types_are_refused(form_bundle: Bundles) -> None:
    bundle = form_bundle("split")
    matcher, _ = opened(bundle)
    texts = drawn(1, 4, 6, bundle.manifest.hidden_size)
    images = drawn(2, 4, bundle.manifest.patches, bundle.manifest.hidden_size)
    with pytest.raises(ValueError, match="rows are bool"):
        matcher.match(texts, images, texts.lengths, np.ones(4, dtype=np.bool_))  # type: ignore[arg-type]
    values: NDArray[np.int8] = images.values.astype(np.float32)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="pictures of float32"):
        matcher.match(texts, QuantisedStates(values, images.scales), texts.lengths, np.arange(4))
