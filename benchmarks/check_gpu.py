"""The first thing to run on a GPU: whether it computes what the processor does, and how fast.

    fashionbert export CHECKPOINT --out OUT --precision fp32 --precision fp16
    python -m benchmarks.check_gpu OUT/fp32 OUT/fp16

Nothing is left out: without the device it says so and ends with status 2. There is a line for each
check, `ok` or `FAILED`, and one that failed makes the status 1. `--device cpu` runs the same code,
all but FAISS on the GPU, on the processor.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.filters import clustered
from index.recall import RecallIndex, write_index
from index.recall_device import check_device
from index.recall_rules import Rule
from model.bundle import Bundle
from model.engine import EncodedImages, EncodedTexts, Engine
from model.errors import FashionBertError
from model.passes import PassPool
from model.pinned import Allocate, host_memory, plain
from model.samples import noise
from model.states import QuantisedStates
from model.tables import Table, TableRows, rows_of

#: Largest difference of a logit: absolute in fp32, of the spread of the logits in other precisions.
LOGITS = {"fp32": 1e-4, "fp16": 0.05, "int8": 0.05}
#: Largest 1 − cosine of a state or an embedding.
VECTORS = {"fp32": 1e-5, "fp16": 1e-3, "int8": 1e-3}
_TEXTS = 24
_COPIED = 16 << 20  # bytes


class Checks:
    """Lines, and whether one of them is that something failed."""

    def __init__(self) -> None:
        self.failed = 0

    def below(self, what: str, value: float, most: float) -> None:
        """One line: a value that must not be above another; NaN is."""
        fine = bool(value <= most)
        self.failed += not fine
        print(
            f"{'ok' if fine else 'FAILED':<7} {what}: {value:.2e} (at most {most:.2e})", flush=True
        )


def apart(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Largest 1 − cosine of the vectors along the last axis; those of nought count not."""
    a, b = (one.reshape(-1, one.shape[-1]).astype(np.float64) for one in (ours, theirs))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    real = lengths > 0
    return float((1 - (a * b).sum(1)[real] / lengths[real]).max(initial=0.0))


def check_bundle(checks: Checks, bundle: Bundle, device: str) -> None:
    """Encoders, matcher, tables and shared passes of one bundle, against the processor's."""
    precision = bundle.manifest.precision
    print(f"\n{bundle.path}: {precision}, {bundle.model_id}")
    here, there = Engine(bundle), Engine(bundle, device=device)
    if device == "cpu" and there.takes_rows:
        there.passes = PassPool(1, there.match_tokens)  # as on a GPU
    samples = noise(bundle.manifest.image_size, _TEXTS)
    texts, images = here.encode_texts(samples.texts), here.encode_images(samples.pixels)
    theirs = there.encode_texts(samples.texts), there.encode_images(samples.pixels)
    for name, ours, other in (("texts", texts, theirs[0]), ("pictures", images, theirs[1])):
        _check_vectors(checks, name, ours, other, VECTORS[precision])
    wanted = np.stack(
        [here.match(texts.states[n : n + 1], images.states) for n in range(len(samples))]
    )
    spread = float(wanted.std())
    most = LOGITS[precision] * (1 if precision == "fp32" else max(spread, 1e-3))
    print(f"        logits spread by {spread:.3f}")
    _check_matcher(checks, there, texts.states, images.states, wanted, most)
    if there.takes_rows:
        _check_tables(checks, there, device, texts.states, images.states, wanted, most)
    else:
        print(
            "        its matcher takes no rows: states cannot stay on the GPU, passes not be shared"
        )
    _time(there, device, texts.states, images.states)


def _check_vectors(
    checks: Checks,
    name: str,
    ours: EncodedTexts | EncodedImages,
    theirs: EncodedTexts | EncodedImages,
    most: float,
) -> None:
    states = apart(ours.states.dequantise(), theirs.states.dequantise())
    checks.below(f"states of {name}, 1 - cosine", states, max(most, 1e-3))  # rounded to int8
    if ours.embeddings.size:
        checks.below(
            f"embeddings of {name}, 1 - cosine", apart(ours.embeddings, theirs.embeddings), most
        )


def _check_matcher(
    checks: Checks,
    engine: Engine,
    texts: QuantisedStates,
    images: QuantisedStates,
    wanted: NDArray[np.float32],
    most: float,
) -> None:
    for name, found, right in (
        ("pairs", engine.match(texts, images), wanted.diagonal()),
        ("a text and all pictures", engine.match(texts[3:4], images), wanted[3]),
        ("a picture and all texts", engine.match(texts, images[3:4]), wanted[:, 3]),
    ):
        checks.below(f"logits of {name}", float(np.abs(found - right).max()), most)

    def search(number: int) -> float:
        found = engine.match(texts[number : number + 1], images)
        return float(np.abs(found - wanted[number]).max())

    with ThreadPoolExecutor(16) as threads:
        worst = max(threads.map(search, [*range(len(texts))] * 4))
    checks.below("logits of 16 searches at a time", worst, most)


def _check_tables(
    checks: Checks,
    engine: Engine,
    device: str,
    texts: QuantisedStates,
    images: QuantisedStates,
    wanted: NDArray[np.float32],
    most: float,
) -> None:
    every = np.arange(len(images))
    for share, stored in (("all", len(images)), ("half", len(images) // 2)):
        text_table = Table.of(texts[:stored], device)
        image_table = Table.of(images[:stored], device)
        some_texts = rows_of(text_table, every, lambda rows: texts[rows])
        some_images = rows_of(image_table, every, lambda rows: images[rows])
        for name, found, right in (
            ("a text and pictures", engine.match(texts[3:4], some_images), wanted[3]),
            ("a picture and texts", engine.match(some_texts, images[3:4]), wanted[:, 3]),
            ("pairs", engine.match(some_texts, some_images), wanted.diagonal()),
        ):
            worst = float(np.abs(found - right).max())
            checks.below(f"logits of {name}, {share} on the device", worst, most)


def _time(engine: Engine, device: str, texts: QuantisedStates, images: QuantisedStates) -> None:
    """Print milliseconds of a text against pictures, from the host and from the device."""
    sizes = (64, 256, 1000) if device == "cuda" else (64,)
    for pairs in sizes:
        rows = np.arange(pairs) % len(images)
        plain = images[rows]
        sides: dict[str, Any] = {"host": plain}
        if engine.takes_rows:
            sides["device"] = TableRows(Table.of(plain, device), np.arange(pairs), plain[:0])
        for where, side in sides.items():
            spent = []
            for _ in range(12):
                start = time.perf_counter()
                engine.match(texts[5:6], side)
                spent.append(time.perf_counter() - start)
            middle = sorted(spent[2:])[5]
            print(
                f"        {pairs:>5} pictures from the {where}: {1000 * middle:.2f} ms, "
                f"{pairs / middle:,.0f} pairs/s"
            )


def check_copies(checks: Checks, device: str) -> None:
    """Whether copies arrive, and what page-locked memory gains; the log says if there is none."""
    print("\ncopies from the host")
    own = host_memory(device)
    ways: tuple[tuple[str, Allocate], ...] = (("plain", plain), ("the engine's", own))
    for name, allocate in ways:
        values = allocate(_COPIED).reshape(-1, 1024)
        values[:] = np.arange(1024) % 251
        there = ort.OrtValue.ortvalue_from_numpy(np.zeros_like(values), device)
        spent = []
        for _ in range(12):
            start = time.perf_counter()
            there.update_inplace(values)
            spent.append(time.perf_counter() - start)
        wrong = np.count_nonzero(there.numpy() != values)
        checks.below(f"from {name} memory: bytes that are others", wrong, 0)
        print(f"        from {name} memory: {_COPIED / sorted(spent)[6] / 1e9:.1f} GB/s")
    if device == "cuda":
        checks.below("page-locked memory that cannot be had", float(own is plain), 0)


def check_recall(checks: Checks, folder: Path) -> None:
    """FAISS on the GPU against FAISS on the processor: the same rows, with a filter and without."""
    print("\nFAISS")
    vectors, _ = clustered(50_000, 256, 500, 1)
    queries, _ = clustered(20, 256, 500, 2)
    rules: tuple[tuple[Rule, float], ...] = (("exact", 0.01), ("ivfpq", 0.1))
    for rule, most in rules:
        file = folder / f"{rule}.faiss"
        write_index(vectors, rule, file)
        ours = RecallIndex(file, vectors, rule)
        theirs = RecallIndex(file, vectors, rule, device="cuda")
        checks.below(f"{rule}: not on the GPU", float(theirs._gpu is None), 0)
        among = np.random.default_rng(0).random(len(vectors)) < 0.5
        for name, mask, rows in (
            ("", None, 64),
            (" with a filter", among, 64),
            (" beyond a GPU's rows", None, 3000),
        ):
            missed = wanted = 0
            for query in queries:
                right = ours.search(query, rows, among=mask)[0]
                found = theirs.search(query, rows, among=mask)[0]
                missed += len(np.setdiff1d(right, found))
                wanted += len(right)
            checks.below(f"{rule}{name}: rows that are others", missed / wanted, most)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundles", nargs="+", type=Path, help="in fp32 and in fp16")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    given = parser.parse_args(arguments)
    print(f"onnxruntime {ort.__version__}: {', '.join(ort.get_available_providers())}")
    checks = Checks()
    try:
        if given.device == "cuda":
            check_device("cuda")
        for path in given.bundles:
            check_bundle(checks, Bundle.open(path), given.device)
        check_copies(checks, given.device)
        if given.device == "cuda":
            with tempfile.TemporaryDirectory() as folder:
                check_recall(checks, Path(folder))
    except FashionBertError as error:
        print(f"cannot be checked: {error}", file=sys.stderr)
        return 2
    print(f"\n{checks.failed} of the checks failed" if checks.failed else "\nall is well")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
