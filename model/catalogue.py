"""A shop's product feed and the pictures beside it, as `Product` records.

A row that is no good is left out and reported, and the rest goes on: see `FeedReport`.
"""

from __future__ import annotations

from pathlib import Path

from model.assembly import assemble_catalogue, refuse_without_rows
from model.errors import CatalogueError
from model.fashiongen import SUFFIXES as FASHION_GEN
from model.fashiongen import read_fashiongen
from model.feed import Feed, read_feed
from model.pictures import open_pictures
from model.preprocess import ImageLimits
from model.product import Catalogue, ColumnMapping
from model.template import TextTemplate


def read_catalogue(
    feed: Path,
    *,
    images: Path | None = None,
    text: str | None = None,
    columns: ColumnMapping = ColumnMapping(),  # noqa: B008 (frozen)
    max_bad: float = 0.05,
    report_path: Path | None = None,
    check_images: bool = True,
    limits: ImageLimits = ImageLimits(),  # noqa: B008 (frozen)
    progress: bool = False,
) -> Catalogue:
    """Read a feed and its pictures.

    A product's views stand as a list in its image cell, or in several rows with one id, of which
    those after the first have the same text or none; then its title and attributes are the first
    row's. A product keeps the views that are good, and is left out if there are none.

    Args:
        feed: CSV, JSONL or Parquet, see `read_feed`; or Fashion-Gen's HDF5, see
            `model.fashiongen`, which has its own columns and holds its pictures.
        images: a directory or an uncompressed tar. By default `images.tar` or `images/` beside
            the feed, else the feed's own folder.
        text: what a product's text is made of; see `TextTemplate`. By default
            `{title}. {description}`, or the one of them that the feed has.
        columns: the feed's names for the columns that mean something here.
        max_bad: the share of rows that may be bad (0 to 1), a row being bad when anything of it
            was left out. More than that is an error.
        report_path: where to write the bad rows, also when that error is raised.
        check_images: decode every picture, rather than only see that it is there.
        limits: what a picture may weigh, when they are checked.
        progress: show a progress bar on standard error.

    Raises:
        CatalogueError: there is nothing usable, or too many rows are bad.
        TemporaryFileError: what does not fit into memory cannot be put on disk.
    """
    if feed.suffix.lower() in FASHION_GEN:
        if images is not None or columns != ColumnMapping():
            raise CatalogueError(
                f"{feed} holds its pictures and has columns of its own: leave out the options "
                "about pictures and columns (all but --text and --group-by)"
            )
        return read_fashiongen(feed, text=text, max_bad=max_bad, report_path=report_path)
    source = read_feed(feed, id_column=columns.id)
    refuse_without_rows(source, report_path)
    template = _template(source, text, columns)
    _check_lists(source, columns)
    return assemble_catalogue(
        source,
        template,
        columns,
        open_pictures(images if images is not None else _beside(feed)),
        limits=limits if check_images else None,
        max_bad=max_bad,
        report_path=report_path,
        progress=progress,
    )


def _beside(feed: Path) -> Path:
    for name in ("images.tar", "images"):
        if (feed.parent / name).exists():
            return feed.parent / name
    return feed.parent


def _check_lists(feed: Feed, columns: ColumnMapping) -> None:
    meant = {
        columns.id: "id",
        columns.image: "image",
        columns.title: "title",
        columns.description: "description",
    }
    for name in columns.lists:
        if name not in feed.columns:
            raise CatalogueError(
                f"--list-column {name}: {feed.path} has no such column; "
                f"its columns are {', '.join(feed.columns) or 'none'}"
            )
        if name in meant:
            raise CatalogueError(
                f"--list-column {name}: this column is the {meant[name]}, and only attributes "
                "can be lists"
            )


def _template(feed: Feed, text: str | None, columns: ColumnMapping) -> TextTemplate:
    """The template, after a look at whether the feed has the columns that are asked for."""
    there = f"its columns are {', '.join(feed.columns) or 'none'}"
    usual = ColumnMapping()
    needed = [("id", columns.id), ("image", columns.image)]
    # The title and the description may be lacking, but not under a name that the user gave.
    needed += [("title", columns.title)] if columns.title != usual.title else []
    needed += (
        [("description", columns.description)] if columns.description != usual.description else []
    )
    for role, name in needed:
        if name not in feed.columns:
            raise CatalogueError(
                f"{feed.path} has no column {name!r}; {there}: "
                f"say with --{role}-column which one is the {role}"
            )
    if text is None:
        parts = [name for name in (columns.title, columns.description) if name in feed.columns]
        if not parts:
            raise CatalogueError(
                f"{feed.path} has neither a column {columns.title!r} nor "
                f"{columns.description!r}; {there}: "
                'say what describes a product, as in --text "{name}. {details}"'
            )
        text = ". ".join(f"{{{name}}}" for name in parts)
    template = TextTemplate(text)
    for name in template.columns:
        if name not in feed.columns:
            raise CatalogueError(
                f"the text template {text!r} names {{{name}}}, which {feed.path} does not have; "
                f"{there}"
            )
    return template
