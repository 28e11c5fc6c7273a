from __future__ import annotations

import dataclasses
import gc
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from model.backbones import new_config, new_model
from model.bundle import Bundle, write_manifest
from model.catalogue import read_catalogue
from model.engine import EncodedImages, EncodedTexts, Engine, offline_engine
from model.errors import BundleError, FashionBertError
from model.export import export_bundle
from model.passes import Limits
from model.preprocess import decode_image
from model.states import QuantisedStates

PAIRS = 21  # no multiple of a pass


@pytest.fixture(scope="module")
def sentences(demo_catalogue: Path) -> list[str]:
    """Texts of very different lengths, the shortest and the longest side by side."""
    with read_catalogue(demo_catalogue / "train.csv") as catalogue:
        texts = [product.text for product in catalogue.products]
    return ["x", ". ".join(texts[:4]), "red dress", *texts[: PAIRS - 3]]


@pytest.fixture(scope="module")
def pixels(demo_catalogue: Path, engine: Engine) -> np.ndarray:
    with read_catalogue(demo_catalogue / "train.csv") as catalogue:
        names = [product.images[0] for product in catalogue.products[:PAIRS]]
        pictures = [catalogue.pictures.read(name) for name in names]
    return np.stack([decode_image(data, engine.image_size) for data in pictures])


@pytest.fixture(scope="module")
def texts(engine: Engine, sentences: list[str]) -> EncodedTexts:
    return engine.encode_texts(sentences)


@pytest.fixture(scope="module")
def images(engine: Engine, pixels: np.ndarray) -> EncodedImages:
    return engine.encode_images(pixels)


@pytest.fixture(scope="module")
def one_by_one(engine: Engine, texts: EncodedTexts, images: EncodedImages) -> np.ndarray:
    """Logits of every text with every picture, a pass each, the text without padding."""
    logits = np.empty((PAIRS, PAIRS), dtype=np.float32)
    for row, length in enumerate(texts.lengths):
        states = texts.states[row : row + 1]
        alone = QuantisedStates(states.values[:, :length], states.scales[:, :length])
        for column in range(PAIRS):
            logits[row, column] = engine.match(alone, images.states[column : column + 1])[0]
    return logits


def repeated(states: QuantisedStates) -> QuantisedStates:
    return states[np.zeros(PAIRS, dtype=np.int64)]


def test_shapes_and_dtypes(
    engine: Engine, bundle: Bundle, texts: EncodedTexts, images: EncodedImages
) -> None:
    manifest = bundle.manifest
    assert engine.model_id == bundle.model_id
    longest = int(texts.lengths.max())
    assert texts.lengths.dtype == np.int32
    assert texts.states.values.shape == (PAIRS, longest, manifest.hidden_size)
    assert images.states.values.shape == (PAIRS, manifest.patches, manifest.hidden_size)
    for encoded in (texts, images):
        assert encoded.states.values.dtype == np.int8
        assert encoded.states.scales.dtype == encoded.embeddings.dtype == np.float32
        assert encoded.states.scales.shape == encoded.states.values.shape[:2]
        assert encoded.embeddings.shape == (PAIRS, manifest.recall_size)
    real = np.arange(longest) < texts.lengths[:, None]
    np.testing.assert_array_equal(texts.states.scales > 0, real)
    assert (images.states.scales > 0).all()


def test_embeddings_have_unit_length(texts: EncodedTexts, images: EncodedImages) -> None:
    for encoded in (texts, images):
        np.testing.assert_allclose(np.linalg.norm(encoded.embeddings, axis=1), 1, atol=1e-5)
        assert len(np.unique(encoded.embeddings.round(4), axis=0)) == PAIRS


def test_texts_that_are_cut_say_so(
    engine: Engine, bundle: Bundle, texts: EncodedTexts, sentences: list[str]
) -> None:
    assert np.flatnonzero(texts.truncated).tolist() == [1]
    assert texts.lengths[1] == bundle.manifest.max_text_tokens
    longer = engine.encode_texts([sentences[1] + " and much more"])
    np.testing.assert_array_equal(longer.states.values[0], texts.states.values[1])


def test_each_pair_scores_in_a_batch_as_alone(
    engine: Engine, texts: EncodedTexts, images: EncodedImages, one_by_one: np.ndarray
) -> None:
    assert one_by_one.std() > 0.01, "the scores differ, or nothing is tested here"
    logits = engine.match(texts.states, images.states)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, one_by_one.diagonal(), atol=1e-4)


@pytest.mark.parametrize("row", [0, 1, 5])
def test_one_side_of_batch_one_is_repeated(
    row: int, engine: Engine, texts: EncodedTexts, images: EncodedImages, one_by_one: np.ndarray
) -> None:
    text, image = texts.states[row : row + 1], images.states[row : row + 1]
    np.testing.assert_allclose(engine.match(text, images.states), one_by_one[row], atol=1e-4)
    np.testing.assert_allclose(engine.match(texts.states, image), one_by_one[:, row], atol=1e-4)
    np.testing.assert_allclose(
        engine.match(repeated(text), images.states), one_by_one[row], atol=1e-4
    )
    np.testing.assert_allclose(
        engine.match(texts.states, repeated(image)), one_by_one[:, row], atol=1e-4
    )


def test_as_many_as_there_is_time_for_and_the_first_first(
    bundle: Bundle, texts: EncodedTexts, images: EncodedImages, one_by_one: np.ndarray
) -> None:
    engine = Engine(bundle, threads=1)
    engine.match_tokens = 3 * (int(texts.lengths.max()) + engine.patches)  # 3 pairs a pass or more
    asked: list[bool] = []

    def after_two_passes() -> bool:
        asked.append(len(asked) > 1)
        return asked[-1]

    logits, done = engine.match_within(
        texts.states, images.states, Limits(cancelled=after_two_passes), window=4
    )
    passed = int(done.sum())
    assert 4 <= passed <= 8, "two passes of a window of 4, or of two"
    assert done[:passed].all()
    np.testing.assert_allclose(logits[done], one_by_one.diagonal()[done], atol=1e-4)
    assert not logits[~done].any()
    for limits in (Limits(deadline=0.0), Limits(cancelled=lambda: True)):
        _, done = engine.match_within(texts.states, images.states, limits)
        assert not done.any()
    assert engine.match(texts.states[:0], images.states[:0]).shape == (0,)


@pytest.mark.parametrize(("threads", "workers"), [(1, None), (2, None), (2, 1), (3, 2)])
def test_workers_share_the_passes(
    threads: int,
    workers: int | None,
    bundle: Bundle,
    texts: EncodedTexts,
    images: EncodedImages,
    one_by_one: np.ndarray,
) -> None:
    engine = Engine(bundle, threads=threads, workers=workers)
    assert engine.passes.workers == (workers or threads)
    logits = engine.match(texts.states, images.states)
    np.testing.assert_allclose(logits, one_by_one.diagonal(), atol=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_engine_for_the_offline_job_encodes_the_same(
    threads: int,
    bundle: Bundle,
    engine: Engine,
    sentences: list[str],
    pixels: np.ndarray,
) -> None:
    """In as many passes at a time as there are threads."""
    offline = offline_engine(bundle, threads=threads)
    assert not offline.is_native
    many, pictures = sentences * 4, np.concatenate([pixels] * 4)
    texts, images = engine.encode_texts(many), engine.encode_images(pictures)
    texts_too, images_too = offline.encode_texts(many), offline.encode_images(pictures)
    np.testing.assert_array_equal(texts_too.lengths, texts.lengths)
    np.testing.assert_allclose(texts_too.embeddings, texts.embeddings, atol=1e-5)
    np.testing.assert_allclose(images_too.embeddings, images.embeddings, atol=1e-5)
    for ours, theirs in ((texts_too, texts), (images_too, images)):
        difference = ours.states.dequantise() - theirs.states.dequantise()
        assert np.abs(difference).max() < 0.05


@pytest.mark.parametrize(
    ("threads", "passes", "each"), [(4, 1, 4), (4, 2, 2), (3, 2, 1), (1, 2, 1)]
)
def test_encoders_share_the_cores_between_their_passes(
    threads: int, passes: int, each: int, bundle: Bundle
) -> None:
    """More threads than cores would keep one another waiting."""
    engine = Engine(bundle, threads=threads, encoder_workers=passes)
    for session in (engine._text_encoder, engine._image_encoder):
        assert session.get_session_options().intra_op_num_threads == each


def test_the_offline_job_stops_at_what_is_raised_before_a_pass(
    bundle: Bundle, sentences: list[str]
) -> None:
    class UnwantedError(Exception):
        pass

    passes: list[str] = []

    def once() -> None:
        passes.append("")
        raise UnwantedError

    with pytest.raises(UnwantedError):
        offline_engine(bundle, threads=2).encode_texts(sentences * 50, once)
    assert len(passes) <= 2


def test_a_forgotten_engine_ends_its_threads(
    bundle: Bundle, texts: EncodedTexts, images: EncodedImages
) -> None:
    before = set(threading.enumerate())
    engine = Engine(bundle, threads=2, encoder_workers=2)
    engine.match(texts.states, images.states)
    engine.encode_texts(["red", "blue"])
    own = set(threading.enumerate()) - before
    assert len(own) == 4, "two of the matcher's and two of the encoders'"
    del engine
    gc.collect()
    for thread in own:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_the_order_within_a_batch_does_not_count(
    engine: Engine, texts: EncodedTexts, images: EncodedImages, sentences: list[str]
) -> None:
    order = np.random.default_rng(0).permutation(PAIRS)
    logits = engine.match(texts.states, images.states)
    shuffled = engine.match(texts.states[order], images.states[order])
    np.testing.assert_allclose(shuffled, logits[order], atol=1e-4)
    encoded = engine.encode_texts([sentences[row] for row in order])
    np.testing.assert_array_equal(encoded.lengths, texts.lengths[order])
    np.testing.assert_array_equal(encoded.truncated, texts.truncated[order])
    np.testing.assert_allclose(encoded.embeddings, texts.embeddings[order], atol=1e-5)
    np.testing.assert_allclose(
        encoded.states.dequantise(), texts.states.dequantise()[order], atol=0.05
    )


def test_texts_and_pictures_encode_alone_as_in_a_batch(
    engine: Engine,
    sentences: list[str],
    pixels: np.ndarray,
    texts: EncodedTexts,
    images: EncodedImages,
    one_by_one: np.ndarray,
) -> None:
    for row in range(PAIRS):
        text = engine.encode_texts([sentences[row]])
        image = engine.encode_images(pixels[row : row + 1])
        assert text.states.values.shape[1] == texts.lengths[row]
        np.testing.assert_allclose(text.embeddings[0], texts.embeddings[row], atol=1e-5)
        np.testing.assert_allclose(image.embeddings[0], images.embeddings[row], atol=1e-5)
        logit = engine.match(text.states, image.states)
        np.testing.assert_allclose(logit, one_by_one[row, row], atol=1e-4)


def test_nothing_in_nothing_out(
    engine: Engine, texts: EncodedTexts, images: EncodedImages, pixels: np.ndarray
) -> None:
    no_texts, no_images = engine.encode_texts([]), engine.encode_images(pixels[:0])
    assert no_texts.states.values.shape == (0, 0, engine.hidden_size)
    assert no_texts.embeddings.shape == no_images.embeddings.shape == (0, engine.recall_size)
    assert no_texts.lengths.shape == no_texts.truncated.shape == (0,)
    assert no_images.states.values.shape == (0, engine.patches, engine.hidden_size)
    for text in (no_texts.states, texts.states[:0], texts.states[:1]):
        assert engine.match(text, no_images.states).shape == (0,)
    assert engine.match(no_texts.states, images.states[:1]).shape == (0,)


@pytest.mark.parametrize(("left", "right"), [(2, 3), (3, 2), (0, 2), (2, 0)])
def test_numbers_that_make_no_pairs_are_refused(
    left: int, right: int, engine: Engine, texts: EncodedTexts, images: EncodedImages
) -> None:
    with pytest.raises(ValueError, match=f"{left} texts against {right} pictures"):
        engine.match(texts.states[:left], images.states[:right])


def test_the_probability_is_the_calibrated_sigmoid(bundle: Bundle, tmp_path: Path) -> None:
    own = Path(shutil.copytree(bundle.path, tmp_path / "own"))
    fields = dataclasses.asdict(bundle.manifest) | {"calibration": (2.0, -1.0)}
    write_manifest(own, **{key: fields[key] for key in fields if key not in ("files", "model_id")})
    engine = Engine(Bundle.open(own), threads=1)
    logits = np.array([-1.0, 0.0, 0.5, 3.0], dtype=np.float32)
    expected = 1 / (1 + np.exp(-(2.0 * logits.astype(np.float64) - 1.0)))
    probability = engine.probability(logits)
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, expected, rtol=1e-5)
    extreme = engine.probability(np.array([-1e30, 1e30], dtype=np.float32))
    np.testing.assert_allclose(extreme, [0, 1], atol=1e-9)


def test_threads_get_what_one_alone_gets(
    engine: Engine, sentences: list[str], pixels: np.ndarray
) -> None:
    def work(row: int) -> tuple[np.ndarray, ...]:
        text = engine.encode_texts(sentences[row : row + 3])
        image = engine.encode_images(pixels[row : row + 3])
        logits = engine.match(text.states, image.states)
        return text.states.values, text.embeddings, image.states.values, image.embeddings, logits

    rows = list(range(0, PAIRS - 3, 2)) * 4
    alone = {row: work(row) for row in set(rows)}
    with ThreadPoolExecutor(8) as threads:
        for row, together in zip(rows, threads.map(work, rows), strict=True):
            for ours, theirs in zip(together, alone[row], strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_one_thread_or_two_give_the_same(
    bundle: Bundle, texts: EncodedTexts, sentences: list[str]
) -> None:
    single = Engine(bundle, threads=1)
    assert single.threads == 1
    np.testing.assert_allclose(
        single.encode_texts(sentences).embeddings, texts.embeddings, atol=1e-5
    )


def test_an_unknown_device_is_refused(bundle: Bundle) -> None:
    with pytest.raises(FashionBertError, match="device 'tpu': choose 'cpu' or 'cuda'"):
        Engine(bundle, threads=1, device="tpu")


def test_a_graph_that_cannot_be_loaded_is_named(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("text_encoder.onnx", "image_encoder.onnx", "matcher.onnx"):
        own = Path(shutil.copytree(bundle.path, tmp_path / name))
        (own / name).write_bytes(b"no graph")
        with pytest.raises(BundleError, match=rf"{name} cannot be loaded"):
            Engine(Bundle.open(own, verify=False), threads=1)


@pytest.mark.parametrize("joint_from", [0, 1])
def test_a_model_without_recall_head_encodes_and_matches(
    joint_from: int, bundle: Bundle, sentences: list[str], pixels: np.ndarray, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = new_config(
        "tiny",
        vocab_size=bundle.manifest.config["vocab_size"],
        image_size=64,
        num_hidden_layers=2,
        joint_from=joint_from,
        recall_size=0,
        stack_recall=False,
    )
    tokenizer = bundle.path / "tokenizer.json"
    model = new_model(config)
    headless = Engine(export_bundle(model, tokenizer, tmp_path / "headless")[0], threads=1)
    assert headless.recall_size == 0
    texts, images = headless.encode_texts(sentences), headless.encode_images(pixels)
    for encoded in (texts, images):
        assert encoded.embeddings.shape == (PAIRS, 0)
        assert encoded.embeddings.dtype == np.float32
    assert texts.truncated.any()
    tokens = headless.tokenizer.encode(sentences)
    with torch.inference_mode():
        mask = torch.from_numpy(tokens.attention_mask)
        states, nothing = model.encode_text(torch.from_numpy(tokens.input_ids), mask)
        assert nothing is None
        expected = model.match(states, mask, model.encode_image(torch.from_numpy(pixels))[0])
    logits = headless.match(texts.states, images.states)
    np.testing.assert_allclose(logits, expected.numpy(), atol=0.05)  # int8 states
    with pytest.raises(
        BundleError, match=r"headless was trained without a recall head, so nothing"
    ):
        headless.require_recall()


def test_a_model_with_recall_head_may_search(engine: Engine) -> None:
    assert engine.recall_size > 0
    engine.require_recall()


def test_nobody_need_wait_for_the_end_of_an_encoding(
    engine: Engine, sentences: list[str], pixels: np.ndarray
) -> None:
    class UnwantedError(Exception):
        pass

    passes = 0

    def once() -> None:
        nonlocal passes
        passes += 1
        if passes > 1:
            raise UnwantedError

    for encode in (
        lambda: engine.encode_texts(sentences, once),
        lambda: engine.encode_images(pixels, once),
    ):
        passes = 0
        with pytest.raises(UnwantedError):
            encode()
        assert passes == 2
