"""The matcher with row inputs, on the CPU: as a GPU runs it, but for the name of the device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import onnx
import pytest
import torch

from model.backbones import new_config, new_model
from model.bundle import Bundle
from model.catalogue import read_catalogue
from model.engine import EncodedImages, EncodedTexts, Engine
from model.errors import OutOfMemoryError
from model.export import export_bundle
from model.graphs import Graphs
from model.passes import Limits, PassPool
from model.precision import convert_bundle
from model.preprocess import decode_image
from model.row_matcher import Pairs, takes_rows
from model.samples import noise
from model.states import QuantisedStates
from model.tables import Table, TableRows, rows_of

PAIRS = 21


@pytest.fixture(scope="module")
def single(row_bundle: Bundle) -> Engine:
    """fp32, with row inputs: to the rounding what one without them computes."""
    return Engine(row_bundle, threads=1)


@pytest.fixture(scope="module")
def half(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """What is served on CUDA."""
    return Engine(
        convert_bundle(bundle, tmp_path_factory.mktemp("half") / "fp16", "fp16")[0], threads=1
    )


@pytest.fixture(scope="module")
def texts(engine: Engine, demo_catalogue: Path) -> EncodedTexts:
    with read_catalogue(demo_catalogue / "train.csv") as catalogue:
        found = [product.text for product in catalogue.products[: PAIRS - 1]]
    return engine.encode_texts(["x", *found])


@pytest.fixture(scope="module")
def images(engine: Engine, demo_catalogue: Path) -> EncodedImages:
    with read_catalogue(demo_catalogue / "train.csv") as catalogue:
        names = [product.images[0] for product in catalogue.products[:PAIRS]]
        pictures = [catalogue.pictures.read(name) for name in names]
    return engine.encode_images(
        np.stack([decode_image(data, engine.image_size) for data in pictures])
    )


Sides = tuple[QuantisedStates, QuantisedStates]


@pytest.fixture(params=["pairs", "one text", "one picture", "one pair", "a text again"])
def sides(request: pytest.FixtureRequest, texts: EncodedTexts, images: EncodedImages) -> Sides:
    again = np.full(PAIRS, 3, dtype=np.int64)
    return {
        "pairs": (texts.states, images.states),
        "one text": (texts.states[2:3], images.states),
        "one picture": (texts.states, images.states[2:3]),
        "one pair": (texts.states[:1], images.states[:1]),
        "a text again": (texts.states[again], images.states[again]),
    }[request.param]


def test_only_fp16_bundles_have_row_inputs(engine: Engine, half: Engine, single: Engine) -> None:
    assert (engine.takes_rows, half.takes_rows, single.takes_rows) == (False, True, True)
    assert not takes_rows(half._text_encoder)


def test_all_rows_give_what_the_matcher_gave(
    engine: Engine, single: Engine, half: Engine, sides: Sides
) -> None:
    wanted = engine.match(*sides)
    np.testing.assert_allclose(single.match(*sides), wanted, atol=1e-4)
    np.testing.assert_allclose(half.match(*sides), wanted, atol=0.05)


def test_an_older_fp16_bundle_still_runs(
    bundle: Bundle, half: Engine, sides: Sides, tmp_path: Path
) -> None:
    """One whose matcher has no row inputs."""
    own = Path(copytree(half.bundle.path, tmp_path / "old"))
    model = onnx.load(str(own / "matcher.onnx"))
    chosen = {"text_states_chosen": "text_states", "text_scales_chosen": "text_scales"}
    chosen |= {"image_states_chosen": "image_states", "image_scales_chosen": "image_scales"}
    nodes = [n for n in model.graph.node if n.op_type != "Slice" or n.output[0] not in chosen]
    nodes = [n for n in nodes if not any(o in chosen or o.endswith("_whole") for o in n.output)]
    for node in nodes:
        for place, name in enumerate(node.input):
            node.input[place] = chosen.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    inputs = [e for e in model.graph.input if not e.name.endswith(("_rows", "_length"))]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    onnx.save(model, str(own / "matcher.onnx"))
    old = Engine(Bundle.open(own, verify=False), threads=1)
    assert not old.takes_rows
    np.testing.assert_allclose(old.match(*sides), half.match(*sides), atol=1e-3)


def test_against_torch(bundle: Bundle, tmp_path: Path) -> None:
    """fp16 with row inputs against the network itself, of several joint layers."""
    torch.manual_seed(0)
    config = new_config(
        "tiny",
        vocab_size=bundle.manifest.config["vocab_size"],
        image_size=64,
        num_hidden_layers=3,
        joint_from=1,
    )
    model = new_model(config)
    reference, _ = export_bundle(model, bundle.path / "tokenizer.json", tmp_path / "fp32")
    half = Engine(convert_bundle(reference, tmp_path / "fp16", "fp16")[0], threads=1)
    samples = noise(64, 5)
    texts = half.encode_texts(samples.texts).states
    images = half.encode_images(samples.pixels).states
    with torch.inference_mode():
        wanted = model.match(
            torch.from_numpy(texts.dequantise()),
            torch.from_numpy((texts.scales > 0).astype(np.float32)),
            torch.from_numpy(images.dequantise()),
        )
    np.testing.assert_allclose(half.match(texts, images), wanted.numpy(), atol=0.02)
    assert np.isfinite(Graphs(half.bundle).trace(samples).logits).all()


def partly(states: QuantisedStates, stored: int) -> TableRows:
    """Rows of which the first so many are in a table, in another order than there."""
    order = np.random.default_rng(0).permutation(len(states))
    back = np.argsort(order)
    shuffled = states[order]
    here = back < stored
    found = TableRows(
        Table.of(shuffled[:stored], "cpu"), np.where(here, back, -1), shuffled[back[~here]]
    )
    np.testing.assert_array_equal(found.lengths, states.lengths)
    return found


@pytest.mark.parametrize("stored", [1, 12, PAIRS])
def test_rows_of_tables_score_as_they_do_by_themselves(
    stored: int, single: Engine, half: Engine, texts: EncodedTexts, images: EncodedImages
) -> None:
    for engine in (single, half):
        tolerance = 1e-4 if engine is single else 1e-2
        text, image = texts.states, images.states
        for left, right in (
            (text[4:5], partly(image, stored)),
            (text, partly(image, stored)),
            (partly(text, stored), image[4:5]),
            (partly(text, stored), image),
            (partly(text, stored), partly(image, stored)),
        ):
            plain = [
                text[4:5] if len(left) == 1 else text,
                image[4:5] if len(right) == 1 else image,
            ]
            np.testing.assert_allclose(
                engine.match(left, right), engine.match(*plain), atol=tolerance
            )


def test_a_text_and_a_picture_of_tables_alone(
    single: Engine, texts: EncodedTexts, images: EncodedImages
) -> None:
    text, image = texts.states, images.states
    table = Table.of(text, "cpu")
    one = rows_of(table, np.array([5]), lambda rows: text[rows])
    np.testing.assert_allclose(single.match(one, image), single.match(text[5:6], image), atol=1e-4)
    tables = partly(image, PAIRS)
    np.testing.assert_allclose(single.match(one, tables), single.match(text[5:6], image), atol=1e-4)


def test_what_a_table_does_not_have_is_gathered(images: EncodedImages) -> None:
    states = images.states
    table = Table.of(states[:4], "cpu")
    assert len(table) == 4
    assert table.nbytes == states[:4].values.nbytes + states[:4].scales.nbytes
    asked: list[list[int]] = []

    def gather(rows: np.ndarray) -> QuantisedStates:
        asked.append(rows.tolist())
        return states[rows]

    assert isinstance(rows_of(table, np.array([7, 4]), gather), QuantisedStates)
    assert isinstance(rows_of(None, np.array([0]), gather), QuantisedStates)
    assert isinstance(rows_of(table, np.array([7, 3, 5]), gather), QuantisedStates), "too few"
    mixed = rows_of(table, np.array([7, 3, 5, 0]), gather)
    assert isinstance(mixed, TableRows)
    assert mixed.rows.tolist() == [-1, 3, -1, 0]
    assert asked == [[7, 4], [0], [7, 3, 5], [7, 5]]


def test_rows_of_tables_are_refused_where_the_matcher_takes_none(
    engine: Engine, texts: EncodedTexts, images: EncodedImages
) -> None:
    with pytest.raises(ValueError, match="takes no rows"):
        engine.match(texts.states, partly(images.states, 3))


@pytest.fixture
def shared(single: Engine) -> Engine:
    """Searches share passes, as on CUDA, of 4,000 tokens at most."""
    engine = Engine(single.bundle, threads=1)
    engine.match_tokens = 4000
    engine.passes = PassPool(1, 4000)
    return engine


def all_at_once(engine: Engine, work: list[Callable[[], object]]) -> None:
    """Start calls while the only worker is busy, so that all of them wait at the same time."""
    go, busy = threading.Event(), threading.Event()

    def hold(rows: object) -> None:
        busy.set()
        go.wait()

    threads = [
        threading.Thread(target=engine.passes.run, args=([np.zeros(1)], [1], hold), daemon=True)
    ]
    threads[0].start()
    busy.wait()
    for number, each in enumerate(work, start=1):
        threads.append(threading.Thread(target=each, daemon=True))
        threads[-1].start()
        while len(engine.passes._jobs) < number:
            time.sleep(0.001)
    go.set()
    for thread in threads:
        thread.join()


def test_searches_that_wait_share_a_pass(
    shared: Engine, engine: Engine, texts: EncodedTexts, images: EncodedImages
) -> None:
    assert shared._rows is not None
    passes: list[list[int]] = []
    run = shared._rows.run

    def counted(parts: list[tuple[Pairs, np.ndarray]]) -> None:
        passes.append([len(rows) for _, rows in parts])
        run(parts)

    shared._rows.run = counted  # type: ignore[method-assign,assignment]
    text, image = texts.states, images.states
    found: dict[int, np.ndarray] = {}

    def search(number: int) -> Callable[[], object]:
        def work() -> None:
            found[number] = shared.match(text[number : number + 1], image[: 3 + number])

        return work

    all_at_once(shared, [search(number) for number in range(4)])
    assert passes == [[3, 4, 5, 6]]
    for number, logits in found.items():
        wanted = engine.match(text[number : number + 1], image[: 3 + number])
        np.testing.assert_allclose(logits, wanted, atol=1e-4)


def test_of_the_same_table_and_of_none(
    shared: Engine, engine: Engine, texts: EncodedTexts, images: EncodedImages
) -> None:
    """Those who read a table share passes, whichever rows they want; who reads none does not."""
    text, image = texts.states, images.states
    table = Table.of(image[:10], "cpu")
    wanted_rows = [np.array([1, 15, 3]), np.array([8, 2]), np.array([12, 20, 5, 9])]
    found: dict[int, np.ndarray] = {}

    def search(number: int) -> Callable[[], object]:
        def work() -> None:
            rows = rows_of(table, wanted_rows[number], lambda rows: image[rows])
            found[number] = shared.match(text[number : number + 1], rows)

        return work

    def plain() -> None:
        found[3] = shared.match(text[3:4], image[:5])

    all_at_once(shared, [search(0), plain, search(1), search(2)])
    for number, rows in enumerate([*wanted_rows, np.arange(5)]):
        wanted = engine.match(text[number : number + 1], image[rows])
        np.testing.assert_allclose(found[number], wanted, atol=1e-4)


def test_of_two_tables(
    shared: Engine, engine: Engine, texts: EncodedTexts, images: EncodedImages
) -> None:
    """As while one snapshot takes the place of another."""
    text, image = texts.states, images.states
    stored = (image, image[np.arange(PAIRS)[::-1]])
    rows = np.array([1, 8, 3])
    found: dict[int, np.ndarray] = {}

    def search(number: int) -> Callable[[], object]:
        table = Table.of(stored[number][:10], "cpu")

        def work() -> None:
            chosen = rows_of(table, rows, lambda rows: stored[number][rows])
            found[number] = shared.match(text[number : number + 1], chosen)

        return work

    all_at_once(shared, [search(0), search(1)])
    for number, states in enumerate(stored):
        wanted = engine.match(text[number : number + 1], states[rows])
        np.testing.assert_allclose(found[number], wanted, atol=1e-4)


def test_beside_a_long_text_a_short_one_has_nothing_of_the_pass_before(
    single: Engine, engine: Engine, texts: EncodedTexts, images: EncodedImages
) -> None:
    assert single._rows is not None
    rows = np.arange(3)

    def pairs(text: int) -> Pairs:
        length = texts.lengths[text]
        states = texts.states[text : text + 1]
        alone = QuantisedStates(states.values[:, :length], states.scales[:, :length])
        return Pairs(alone, images.states[:3], np.zeros(3, np.float32), np.repeat(length, 3))

    short, long = int(texts.lengths.argmin()), int(texts.lengths.argmax())
    for run in ((long, long), (short, long)):
        both = [pairs(text) for text in run]
        single._rows.run([(each, rows) for each in both])
        for text, each in zip(run, both, strict=True):
            wanted = engine.match(texts.states[text : text + 1], images.states[:3])
            np.testing.assert_allclose(each.logits, wanted, atol=1e-4)


class Small:
    """A GPU on which no pass of more than so many pairs fits."""

    def __init__(self, run: Callable[..., None], most: int) -> None:
        self.run, self.most = run, most
        self.tried: list[int] = []

    def __call__(self, parts: list[tuple[Pairs, np.ndarray]]) -> None:
        self.tried.append(sum(len(rows) for _, rows in parts))
        if self.tried[-1] > self.most:
            raise RuntimeError("CUDA failure 2: out of memory")
        self.run(parts)


def test_a_shared_pass_that_does_not_fit_is_each_ones_own(
    shared: Engine, engine: Engine, texts: EncodedTexts, images: EncodedImages
) -> None:
    """Then each is halved; what does not fit even so is refused, and only that."""
    assert shared._rows is not None
    small = Small(shared._rows.run, 3)
    shared._rows.run = small  # type: ignore[method-assign]
    text, image = texts.states, images.states
    found: dict[int, object] = {}

    def search(number: int, pairs: int) -> Callable[[], object]:
        def work() -> None:
            try:
                found[number] = shared.match(text[number : number + 1], image[:pairs])
            except OutOfMemoryError as error:
                found[number] = error

        return work

    all_at_once(shared, [search(0, 3), search(1, 8), search(2, 6)])
    assert small.tried == [17, 3, 8, 4, 6, 3, 3]
    assert isinstance(found[1], OutOfMemoryError)
    for number, pairs in ((0, 3), (2, 6)):
        logits = found[number]
        assert isinstance(logits, np.ndarray)
        wanted = engine.match(text[number : number + 1], image[:pairs])
        np.testing.assert_allclose(logits, wanted, atol=1e-4)
    assert not shared.memory.exhausted, "once is not always"


def test_who_has_left_is_in_no_shared_pass(
    shared: Engine, texts: EncodedTexts, images: EncodedImages
) -> None:
    text, image = texts.states, images.states
    done: dict[int, np.ndarray] = {}
    gone = Limits(cancelled=lambda: True)
    late = Limits(deadline=0.0)

    def search(number: int, limits: Limits) -> Callable[[], object]:
        def work() -> None:
            done[number] = shared.match_within(text[number : number + 1], image[:4], limits)[1]

        return work

    all_at_once(
        shared, [search(0, Limits()), search(1, gone), search(2, late), search(3, Limits())]
    )
    assert [bool(done[number].all()) for number in range(4)] == [True, False, False, True]
    assert not done[1].any()
    assert not done[2].any()
