"""Catalogues of any size without encoding one: random states, vectors that lie as real ones do.

The vectors' distribution was fitted to the recall embeddings that a trained `small` gives 1,001
products of a real catalogue (medians over products; embeddings of 256):

====================================  ======  ======
cosine to                             real    drawn
====================================  ======  ======
the nearest picture                   0.90    0.90
the 10th, the 64th, the 256th         0.72, 0.47, 0.20    0.73, 0.48, 0.22
the 99th percentile of random pairs   0.74    0.80
the picture nearest to a text         0.84    0.84
participation ratio of the variance   12      10
====================================  ======  ======
"""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index.items import Item, write_items
from index.manifest import Manifest, Sizes, describe_files, write_manifest
from index.parts import Parts, Progress
from index.recall import write_index
from index.recall_rules import Rule, choose_rule
from index.snapshot_folder import next_name, publish
from model.bundle import Bundle
from model.engine import EncodedImages, EncodedTexts
from model.product import Attribute
from model.states import QuantisedStates

#: Share of the variance by principal component, at the powers of two from 1 to 256.
_SPECTRUM = (0.138, 0.117, 0.087, 0.062, 0.0048, 0.0006, 0.0002, 0.00005, 0.00002)
_KINDS = 100  # kinds of product, the n-th as frequent as n^-0.7
_KIND_EXPONENT = 0.7
_WITHIN_KIND = 0.5  # spread around a kind's centre, that of the centres being 1
_QUERY_AWAY = 0.9  # and of a query around its product
_BLOCK = 1 << 16

Vectors = NDArray[np.float32]


def _deviations(size: int) -> Vectors:
    """Standard deviation of each dimension; the first ones are the principal components."""
    at = np.log2(np.arange(1, size + 1))
    shares = np.exp(np.interp(at, np.arange(len(_SPECTRUM)), np.log(_SPECTRUM)))
    deviations: Vectors = np.sqrt(shares / shares.sum()).astype(np.float32)
    return deviations


def _unit(vectors: Vectors) -> Vectors:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _blocks(count: int, size: int) -> Iterator[Vectors]:
    """Vectors float32 [≤ 65536, size]; a larger count begins with the vectors of a smaller one."""
    deviations = _deviations(size)
    # Not along the axes, where product quantisation would find them too easily.
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((size, size)))[0]
    turn = turn.astype(np.float32)
    centres = np.random.default_rng(2).standard_normal((_KINDS, size), dtype=np.float32)
    frequency = np.arange(1, _KINDS + 1) ** -_KIND_EXPONENT
    for number, start in enumerate(range(0, count, _BLOCK)):
        rng = np.random.default_rng((3, number))
        kinds = rng.choice(_KINDS, _BLOCK, p=frequency / frequency.sum())
        drawn = rng.standard_normal((_BLOCK, size), dtype=np.float32)
        block = (centres[kinds] + np.float32(_WITHIN_KIND) * drawn) * deviations
        yield _unit(block[: count - start] @ turn)


def vectors(work: Path, count: int, size: int) -> Vectors:
    """Unit vectors float32 [count, size], memory-mapped; drawn into a file where there is none."""
    folder = work / "vectors"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{count}-{size}.npy"
    if not path.is_file():
        part = path.with_suffix(".part")
        array = np.lib.format.open_memmap(part, "w+", np.float32, (count, size))
        for number, block in enumerate(_blocks(count, size)):
            array[number * _BLOCK : number * _BLOCK + len(block)] = block
        array.flush()
        os.replace(part, path)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def queries(work: Path, count: int, size: int, number: int) -> Vectors:
    """Unit vectors float32 [number, size], each beside one of `vectors`, as a text beside its
    picture.
    """
    rng = np.random.default_rng(4)
    stored = vectors(work, count, size)
    rows = np.sort(rng.choice(count, number, replace=number > count))
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((size, size)))[0]
    drawn = rng.standard_normal((number, size), dtype=np.float32) * _deviations(size)
    return _unit(stored[rows] + np.float32(_QUERY_AWAY) * (drawn @ turn.astype(np.float32)))


def recall_index(work: Path, count: int, size: int, rule: Rule) -> tuple[Path, dict[str, Any]]:
    """A recall index over `vectors`, built where there is none; and what building it took."""
    path = work / "vectors" / f"{count}-{size}-{rule}.faiss"
    about = path.with_suffix(".json")
    if not about.is_file():
        stored = vectors(work, count, size)
        start = time.perf_counter()
        write_index(stored, rule, path)
        seconds = time.perf_counter() - start
        about.write_text(
            json.dumps({"seconds": seconds, "bytes": path.stat().st_size}), encoding="utf-8"
        )
    found: dict[str, Any] = json.loads(about.read_bytes())
    return path, found


def states(count: int, length: int, width: int, seed: int = 0) -> QuantisedStates:
    """Random states [count, length, width] of the size that a layer norm gives."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-127, 128, (count, length, width), dtype=np.int8)
    return QuantisedStates(values, np.full((count, length), 1 / 73, dtype=np.float32))


def picture(side: int = 96) -> bytes:
    """A small JPEG."""
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((side, side)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def snapshot_bytes(bundle: Bundle, products: int, text_tokens: int) -> int:
    """About how much disk a synthetic snapshot takes, its vectors in `work` included."""
    manifest = bundle.manifest
    state = manifest.hidden_size + 4
    each = manifest.patches * state + text_tokens * state + 6 * 4 * manifest.recall_size + 1500
    return products * each


def snapshot(work: Path, bundle: Bundle, products: int, text_tokens: int = 24) -> Path:
    """A folder of snapshots with one of so many products, made where there is none.

    Args:
        work: the harness's folder.
        bundle: whose model the snapshot says it is of; the shapes are its.
        products: each has one picture.
        text_tokens: of every product's text.
    """
    root = work / "snapshots" / f"{bundle.model_id}-{products}-{text_tokens}"
    if (root / "CURRENT").is_file():
        return root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    folder = root / ".building-synthetic"
    folder.mkdir()
    manifest = bundle.manifest
    size = manifest.recall_size
    sizes = _write_arrays(work, bundle, products, text_tokens, folder)
    rule = choose_rule(products)
    source, _ = recall_index(work, products, size, rule)
    for modality in ("image", "text"):  # the texts have the same embeddings
        os.link(source, folder / f"{modality}.faiss")
    write_items(map(_item, range(products)), folder / "items.parquet")
    name = next_name(root)
    write_manifest(
        folder,
        Manifest(
            name=name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            model_id=bundle.model_id,
            text_template=None,
            catalogue="synthetic",
            key="synthetic",
            sizes=sizes,
            recall={"image": rule, "text": rule},
            truncated_texts=0,
            skipped_pictures=0,
            dropped_products=0,
            files=describe_files(folder),
        ),
    )
    publish(root, folder, name)
    return root


def _write_arrays(
    work: Path, bundle: Bundle, products: int, text_tokens: int, folder: Path
) -> Sizes:
    manifest = bundle.manifest
    width, size = manifest.hidden_size, manifest.recall_size
    parts = Parts(folder, Progress("synthetic"), Sizes(0, 0, 0, width, manifest.patches, size))
    block = min(products, 4096)
    # The same random block again and again: what is in it costs nothing else.
    images = states(block, manifest.patches, width, seed=5)
    texts = states(block, text_tokens, width, seed=6)
    served = [picture()] * block
    embeddings = vectors(work, products, size)
    for start in range(0, products, block):
        rows = slice(0, min(block, products - start))
        own = np.ascontiguousarray(embeddings[start : start + block])
        numbers = range(start, start + len(own))
        parts.add_images(numbers, EncodedImages(images[rows], own), served[rows])
        lengths = np.full(len(own), text_tokens, dtype=np.int32)
        cut = np.zeros(len(own), dtype=np.bool_)
        parts.add_texts(EncodedTexts(texts[rows], lengths, own, cut))
    parts.finish()
    return parts.sizes()


def product_id(row: int) -> str:
    """The id of a synthetic product."""
    return f"{row:08d}"


def _item(row: int) -> Item:
    attributes: dict[str, Attribute] = {"colour": f"colour {row % 50}", "price": (row % 9973) / 10}
    return Item(product_id(row), f"Product {row}", f"Product {row}", (f"{row}.jpg",), attributes)
