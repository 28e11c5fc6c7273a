"""Rows of a feed become products: views are joined, pictures looked into, bad rows reported."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice, tee
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress

from model.attribute_cells import attribute_columns, attribute_of, doubts, split_lists
from model.errors import CatalogueError, ImageError
from model.feed import Feed, cell_text
from model.feed_report import BadRow, BadRows, FeedReport
from model.on_disk import DiskTable
from model.pictures import Pictures
from model.preprocess import ImageLimits, is_written, verify_image
from model.processor import cores
from model.product import (
    MAX_ID_CHARACTERS,
    Attribute,
    Catalogue,
    ColumnMapping,
    Product,
    Products,
    as_attributes,
)
from model.template import TextTemplate

_BATCH = 64  # pictures that a thread takes at a time
_BATCHES_AHEAD = 4  # for each thread
#: Pictures of which it is known for a while what they are: colours of a shoe may share theirs.
_REMEMBERED = 1 << 16
#: A larger file, which no limit takes as a picture, is told by its size alone.
_MOST_BYTES = 1 << 28
_SHOWN = 3  # bad rows that an error message quotes

_Found = TypeVar("_Found")


def assemble_catalogue(
    feed: Feed,
    template: TextTemplate,
    columns: ColumnMapping,
    pictures: Pictures,
    *,
    limits: ImageLimits | None,
    max_bad: float,
    report_path: Path | None,
    progress: bool = False,
) -> Catalogue:
    """A catalogue of a feed's rows; it owns `pictures`, which are closed if this fails.

    Args:
        feed: the rows, and those that could not be read.
        template: makes the texts.
        columns: which columns mean something.
        pictures: what the image cells name.
        limits: decode every picture within these; None only sees that it is there.
        max_bad: the share of rows that may be bad (0 to 1).
        report_path: where to write the bad rows, also when there are too many.
        progress: show a progress bar on standard error.

    Raises:
        CatalogueError: there is nothing usable, or too many rows are bad.
    """
    try:
        if not 0 <= max_bad <= 1:
            raise CatalogueError(f"max_bad is {max_bad}: it is a share of the rows, from 0 to 1")
        rows = len(feed.rows) + len(feed.bad)
        drafts = _collect(feed, template, columns, pictures)
        looked_into = _looked_into(drafts, pictures, limits, progress)
        products, count = _finish(looked_into, feed.bad)
        report = FeedReport(
            feed=feed.path,
            rows=rows,
            products=len(products),
            pictures=count,
            bad=feed.bad,
            doubts=tuple(doubts(feed, columns)),
        )
        if report_path is not None:
            report.write(report_path)
        _refuse_too_bad(report, max_bad, report_path)
        return Catalogue(
            products,
            pictures,
            report,
            *_fingerprints(products, count, pictures, progress),
            template.renamed(_roles(template, columns)),
        )
    except BaseException:
        pictures.close()
        raise


@dataclass(slots=True)
class _Draft:
    """A product whose pictures have not been looked into; `views`: name to line, feed order."""

    id: str
    text: str
    title: str
    attributes: dict[str, Attribute]
    views: dict[str, int] = field(default_factory=dict)

    def encoded(self) -> Any:
        """As JSON has it."""
        return self.id, self.text, self.title, self.attributes, self.views

    @classmethod
    def decoded(cls, stored: Any) -> _Draft:
        """Of what `encoded` gave."""
        id, text, title, attributes, views = stored
        return cls(id, text, title, as_attributes(attributes), views)


def _collect(
    feed: Feed, template: TextTemplate, columns: ColumnMapping, pictures: Pictures
) -> DiskTable[_Draft]:
    """Rows to products, by their ids, also such without a picture that is there.

    The rows that cannot be one, and the pictures that are not there, go to the feed's bad ones.
    """
    others = attribute_columns(feed, columns)
    drafts = DiskTable(_Draft.encoded, _Draft.decoded)
    bad = feed.bad
    for row in feed.rows:
        cells = split_lists(row.cells, columns)
        id = _id(cells.get(columns.id))
        if not id:
            bad.add(BadRow(row.line, "", "missing_id", f"nothing in column {columns.id!r}"))
            continue
        if len(id) > MAX_ID_CHARACTERS:
            detail = f"it has {len(id):,} characters, at most {MAX_ID_CHARACTERS} are taken"
            bad.add(BadRow(row.line, f"{id[:79]}…", "id_too_long", detail))
            continue
        text = template.render({name: cell_text(cells.get(name)) for name in template.columns})
        draft = drafts.get(id)
        if draft is not None and not is_written(text):
            text = draft.text  # Shopify leaves empty what a product's first row has said
            if not cell_text(cells.get(columns.image)):
                continue  # a variant without a picture of its own
        if not is_written(text):
            detail = f"nothing in {', '.join(template.columns)}"
            bad.add(BadRow(row.line, id, "empty_text", detail))
            continue
        if draft is not None and draft.text != text and not draft.views:
            draft = None  # of the row before nothing but its text was any good
        if draft is not None and draft.text != text:
            first = next(iter(draft.views.values()))
            shown = draft.text if len(draft.text) <= 80 else f"{draft.text[:79]}…"
            detail = f"the text that came first, at {first}, is another: {shown!r}"
            bad.add(BadRow(row.line, id, "repeated_id", detail))
            continue
        views, defects = _views(cells.get(columns.image), columns.separator, pictures)
        for error in defects:
            bad.add(BadRow(row.line, id, str(error.code), str(error)))
        if draft is None:  # also without a picture: the next row may have one, and no text
            title = cell_text(cells.get(columns.title)) or text
            attributes = {
                name: value
                for name in others
                if (value := attribute_of(cells.get(name), feed.types.get(name, str))) is not None
            }
            draft = _Draft(id, text, title, attributes)
        for view in views:
            draft.views.setdefault(view, row.line)
        drafts.put(id, draft)
    return drafts


def _id(cell: object) -> str:
    return "" if isinstance(cell, bool | list | dict) else cell_text(cell)


def _roles(template: TextTemplate, columns: ColumnMapping) -> dict[str, str]:
    """What the columns of a template stand for, by the feed's names.

    A column keeps its name where the template has another column of that one.
    """
    roles = {columns.id: "id", columns.title: "title", columns.description: "description"}
    return {name: role for name, role in roles.items() if role not in template.columns}


def _views(
    cell: object, separator: str, pictures: Pictures
) -> tuple[list[str], list[CatalogueError]]:
    """The names of the pictures that an image cell means, and what is wrong with the others."""
    entries: list[object]
    if isinstance(cell, str):
        entries = [*cell.split(separator)] if separator else [cell]
    else:
        entries = cell if isinstance(cell, list) else [] if cell is None else [cell]
    found: list[str] = []
    defects: list[CatalogueError] = []
    for entry in entries:
        try:
            if not isinstance(entry, str | None):
                raise CatalogueError(
                    "the image cell holds something that is not the name of a file",
                    code="missing_picture",
                )
            if entry and entry.strip():
                found.append(pictures.resolve(entry.strip()))
        except CatalogueError as error:
            defects.append(error)
    if not found and not defects:
        defects.append(CatalogueError("the image cell is empty", code="missing_picture"))
    return found, defects


#: A picture's name, its line in the feed, and what is wrong with it; empty if nothing is.
_View = tuple[str, int, str]


def _looked_into(
    drafts: DiskTable[_Draft], pictures: Pictures, limits: ImageLimits | None, progress: bool
) -> Iterator[tuple[_Draft, list[_View]]]:
    """Each product with its pictures, decoded once if there are limits to be kept."""
    if limits is None:
        for draft in drafts:
            yield draft, [(name, line, "") for name, line in draft.views.items()]
        return
    ahead, behind = tee(drafts)  # of which few are between them
    defects = _of_each(
        (name for draft in ahead for name in draft.views),
        lambda name: _defect(name, pictures, limits),
        "Checking pictures" if progress else "",
        sum(len(draft.views) for draft in drafts) if progress else None,
    )
    with closing(defects):
        for draft in behind:
            yield draft, [(name, line, next(defects)) for name, line in draft.views.items()]


def _of_each(
    names: Iterable[str], look: Callable[[str], _Found], title: str, total: int | None
) -> Generator[_Found, None, None]:
    """What is found in each picture, in order, on all cores; few are looked at ahead.

    With a title a progress bar is shown, whose end is `total`.
    """
    remembered = lru_cache(_REMEMBERED)(look)
    source = iter(names)
    pending: deque[Future[list[_Found]]] = deque()
    ahead = _BATCHES_AHEAD * cores()
    threads = ThreadPoolExecutor(cores())
    try:
        with Progress(console=Console(stderr=True), disable=not title) as bar:
            task = bar.add_task(title, total=total)
            while True:
                while len(pending) < ahead and (batch := list(islice(source, _BATCH))):
                    pending.append(threads.submit(lambda names: [*map(remembered, names)], batch))
                if not pending:
                    return
                found = pending.popleft().result()
                bar.advance(task, len(found))
                yield from found
    finally:
        threads.shutdown(cancel_futures=True)


def _defect(name: str, pictures: Pictures, limits: ImageLimits) -> str:
    """What is wrong with a picture; empty if nothing is."""
    try:
        size = pictures.size(name)
        if size > limits.max_bytes:  # found out before it fills the memory
            return f"{name!r} has {size:,} bytes, at most {limits.max_bytes:,} are taken"
        verify_image(pictures.read(name), limits)
    except (CatalogueError, ImageError) as error:
        return f"{name!r}: {error}"
    return ""


def _finish(drafts: Iterable[tuple[_Draft, list[_View]]], bad: BadRows) -> tuple[Products, int]:
    """Products with the views that are good, and how many these are; the others go to `bad`."""
    products, pictures = Products(), 0
    for draft, views in drafts:
        good = {}
        for name, line, defect in views:
            if defect:
                bad.add(BadRow(line, draft.id, "unreadable_picture", defect))
            else:
                good[name] = line
        if good:
            images, lines = tuple(good), tuple(good.values())
            products.append(
                Product(draft.id, draft.text, draft.title, images, draft.attributes, lines)
            )
            pictures += len(good)
    return products, pictures


def refuse_without_rows(feed: Feed, report_path: Path | None) -> None:
    """Refuse a feed of which no row could be read, before it is asked for columns.

    Args:
        feed: the rows, and those that could not be read.
        report_path: where to write the bad rows.

    Raises:
        CatalogueError: it has no rows.
    """
    if feed.rows:
        return
    report = FeedReport(feed.path, len(feed.bad), products=0, pictures=0, bad=feed.bad)
    if report_path is not None:
        report.write(report_path)
    _refuse_too_bad(report, 0, report_path)


def _refuse_too_bad(report: FeedReport, max_bad: float, report_path: Path | None) -> None:
    share = report.bad_rows / report.rows
    if report.products and share <= max_bad:
        return
    first = report.bad.first(_SHOWN)
    examples = "; ".join(f"{row.line}: {row.code}, {row.detail}" for row in first)
    where = (
        f"all of them are in {report_path}"
        if report_path is not None
        else f"the first are, by line, {examples}"
    )
    what = (
        f"{share:.1%} of the rows of {report.feed} are bad, more than the {max_bad:.1%} allowed"
        if report.products
        else f"no row of {report.feed} can be used"
    )
    raise CatalogueError(
        f"{what} ({report.bad_rows:,} of {report.rows:,}: {report.reasons()}); {where}. "
        + ("Mend the feed, or allow more with --max-bad." if report.products else "Mend the feed.")
    )


def _fingerprints(
    products: Products, count: int, pictures: Pictures, progress: bool
) -> tuple[str, str]:
    """Of all that was taken, `count` pictures, and of the pictures alone."""
    ahead, behind = tee(products)  # of which few are between them
    stamps = _of_each(
        (name for product in ahead for name in product.images),
        lambda name: _stamp(name, pictures),
        "Reading pictures" if progress else "",
        count,
    )
    everything, seen = hashlib.sha256(), hashlib.sha256()
    with closing(stamps):
        for product in behind:
            own = [next(stamps) for _ in product.images]
            record = (
                product.id,
                product.text,
                product.title,
                [(name, *stamp) for name, stamp in zip(product.images, own, strict=True)],
                sorted(product.attributes.items()),
            )
            everything.update(json.dumps(record).encode() + b"\n")
            seen.update(json.dumps(own).encode() + b"\n")
    return everything.hexdigest(), seen.hexdigest()


def _stamp(name: str, pictures: Pictures) -> tuple[int | None, int | None]:
    """A picture's size and checksum; None where it cannot be read, which is told of elsewhere."""
    size = None
    try:
        size = pictures.size(name)
        return size, pictures.checksum(name) if size <= _MOST_BYTES else None
    except CatalogueError:
        return size, None
