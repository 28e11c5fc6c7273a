"""Pictures that a build leaves out: how many are too many, the report, and what is left."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from index.items import Item
from index.parts import Skipped, SkippedPictures
from model.errors import CatalogueError
from model.files import write_atomically
from model.product import Catalogue, Product


def count_pictures(catalogue: Catalogue) -> int:
    """How many pictures all products have together."""
    return sum(len(product.images) for product in catalogue.products)


def refuse_too_bad(catalogue: Catalogue, skipped: SkippedPictures, most: int) -> None:
    """Refuse a catalogue of which more pictures than `most` are left out.

    Raises:
        CatalogueError: it names the last of them, and why.
    """
    last = skipped.last
    if last is None or len(skipped) <= most:
        return
    raise CatalogueError(
        f"{len(skipped):,} of {count_pictures(catalogue):,} pictures of the catalogue cannot be "
        f"read, more than the {most:,} allowed, the last of them {last.image!r} of product "
        f"{catalogue.products[last.product].id!r}: {last.detail}. "
        "Mend the pictures, or allow more with --max-bad."
    )


def write_report(path: Path, catalogue: Catalogue, skipped: Iterable[Skipped]) -> None:
    """Write what was left out as JSON lines: the feed's line, the product's id, the picture, why.

    Raises:
        CatalogueError: it cannot be written.
    """

    def lines() -> Iterator[bytes]:
        for each in skipped:
            product = catalogue.products[each.product]
            told = {
                "line": product.lines[product.images.index(each.image)],
                "id": product.id,
                "image": each.image,
                "detail": each.detail,
            }
            yield f"{json.dumps(told, ensure_ascii=False)}\n".encode()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lines())
    except OSError as error:
        raise CatalogueError(
            f"the report {path} cannot be written ({error.strerror}): name another place, and "
            "start again: the build goes on where it was"
        ) from error


def kept_items(products: Iterable[Product], skipped: Iterable[Skipped]) -> Iterator[Item]:
    """The products that are kept, with the pictures that are; both in the catalogue's order."""
    left_out = iter(skipped)
    next_out = next(left_out, None)
    for at, product in enumerate(products):
        without = set()
        while next_out is not None and next_out.product == at:
            without.add(next_out.image)
            next_out = next(left_out, None)
        images = tuple(name for name in product.images if name not in without)
        if images:
            yield Item(product.id, product.title, product.text, images, product.attributes)
