"""Fashion-Gen (arXiv 1806.08317), the paper's data, read from its HDF5 files as they stand.

A file such as `fashiongen_256_256_train.h5` has a row a picture: `input_image`, uint8
(N, 256, 256, 3), and beside it columns of shape (N, 1), `input_name`, `input_description`,
`input_productID`, `input_subcategory` and so on: byte strings in latin-1, or numbers.
"""

from __future__ import annotations

import importlib
import io
import math
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.assembly import assemble_catalogue
from model.errors import CatalogueError
from model.feed import Feed, Row, Rows, cell_text
from model.feed_report import BadRow, BadRows
from model.pictures import Pictures
from model.product import Catalogue, ColumnMapping
from model.template import TextTemplate

#: What a Fashion-Gen file's name ends in.
SUFFIXES = (".h5", ".hdf5")
DEFAULT_TEXT = "{name}. {description}"

_IMAGES = "input_image"
_PREFIX = "input_"
_COLUMNS = ColumnMapping(
    id="productID", image="image", title="name", description="description", separator=""
)
# No attributes of a product: the first repeats the other texts, the second is of a view.
_LEFT_OUT = ("concat_description", "pose")
_BLOCK = 8192  # rows of a column read at a time: the texts are padded to the longest one
# A chunk that does not fit into the cache is decompressed anew for each of its rows.
_CHUNK_CACHE = 64 * 1024 * 1024


def read_fashiongen(
    path: Path,
    *,
    text: str | None = None,
    max_bad: float = 0.05,
    report_path: Path | None = None,
) -> Catalogue:
    """Read a Fashion-Gen file: a product is its rows with one `input_productID`, each a view.

    A column goes by its name without `input_`, so `subcategory` is the attribute to group by. The
    id is the product's ID, the title its name; text and attributes are those of its first row,
    and a later row with another text is a bad one (`repeated_id`), as in a feed. Every other
    column is an attribute, but for the description, `concat_description` and `pose`; the last two
    may stand in the template. Bad rows are numbered from 1. The pixels stay in the file until
    they are asked for, and are not looked into.

    Args:
        path: the `.h5` file.
        text: what a product's text is made of, `DEFAULT_TEXT` if nothing is said.
        max_bad: the share of rows that may be bad (0 to 1); more is an error.
        report_path: where to write the bad rows, also when that error is raised.

    Raises:
        CatalogueError: h5py is not installed, the file is not laid out like that, there is
            nothing usable in it, or too many rows are bad.
    """
    pictures = FashionGenPictures(path)
    try:
        template = TextTemplate(text or DEFAULT_TEXT)
        feed = pictures.read_columns(template)
    except BaseException:
        pictures.close()
        raise
    return assemble_catalogue(
        feed,
        template,
        _COLUMNS,
        pictures,
        limits=None,  # pixels, not files: there is nothing to decode
        max_bad=max_bad,
        report_path=report_path,
    )


class FashionGenPictures(Pictures):
    """The rows of `input_image`, each a PNG made when it is read: `input_image/0` is the first.

    HDF5 is read under a lock, as its library is not for several threads at once; the PNG is made
    outside of it.

    Raises:
        CatalogueError: h5py is not installed, or the file is not of that layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = _open(path)
        try:
            self._images = self._dataset(_IMAGES)
            self._shape: tuple[int, ...] = self._images.shape
            kind = self._images.dtype
            if len(self._shape) != 4 or self._shape[3] != 3 or kind != "uint8":
                raise _wrong_layout(
                    path, f"{_IMAGES} is {kind} {self._shape}, not uint8 (N, height, width, 3)"
                )
            if not all(self._shape):
                raise CatalogueError(f"{path} has no rows: there is nothing to read")
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return self._shape[0]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._row(name) is not None

    def _row(self, name: str) -> int | None:
        """The row that a name means, None if it is none; only `str(row)` counts, not `007`."""
        number = name.removeprefix(f"{_IMAGES}/")
        if number == name or not (number.isascii() and number.isdecimal()) or len(number) > 18:
            return None
        row = int(number)
        return row if str(row) == number and row < len(self) else None

    def size(self, name: str) -> int:
        """Bytes of a picture's pixels, which are known without making the PNG."""
        self._existing(name)
        return math.prod(self._shape[1:])

    def _existing(self, name: str) -> int:
        row = self._row(name)
        if row is None:
            raise CatalogueError(
                f"{name!r} is not in {self.path}, whose pictures are {_IMAGES}/0 to "
                f"{_IMAGES}/{len(self) - 1}",
                code="missing_picture",
            )
        return row

    def read(self, name: str) -> bytes:
        """A picture as PNG; CatalogueError as `Pictures.read`."""
        png = io.BytesIO()
        # Level 1: three times as fast as the usual 6, and hardly larger on plain backgrounds.
        Image.fromarray(self._pixels(name)).save(png, "PNG", compress_level=1)
        return png.getvalue()

    def checksum(self, name: str) -> int:
        """CRC-32 of a picture's pixels; CatalogueError as `Pictures.read`."""
        return zlib.crc32(self._pixels(name).tobytes())

    def _pixels(self, name: str) -> NDArray[np.uint8]:
        row = self._existing(name)
        with self._lock:
            if not self._file:
                raise CatalogueError(
                    f"{self.path} was closed: open it again", code="unreadable_picture"
                )
            try:
                return np.ascontiguousarray(self._images[row])
            except OSError as error:
                raise CatalogueError(
                    f"{name!r} in {self.path} cannot be read, the file is damaged ({error})",
                    code="unreadable_picture",
                ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def read_columns(self, template: TextTemplate) -> Feed:
        """The rows as those of a feed, each with the name of its picture.

        Args:
            template: names columns that must be there.

        Raises:
            CatalogueError: a column is lacking, or not of the layout.
        """
        there = sorted(
            name.removeprefix(_PREFIX)
            for name in self._file
            if name.startswith(_PREFIX) and name != _IMAGES
        )
        if _COLUMNS.id not in there:
            raise _wrong_layout(self.path, f"there is no dataset '{_PREFIX}{_COLUMNS.id}'")
        for name in template.columns:
            if name not in there:
                raise CatalogueError(
                    f"the text template {template.template!r} names {{{name}}}, but {self.path} "
                    f"has no {_PREFIX}{name}; its columns are {', '.join(there)}"
                )
        names = [name for name in there if name in template.columns or name not in _LEFT_OUT]
        columns = [self._cells(name) for name in names]
        rows, bad = Rows(), BadRows()
        for at, cells in enumerate(zip(*columns, strict=True)):
            row = Row(at + 1, dict(zip(names, cells, strict=True)))
            broken = [n for n, cell in row.cells.items() if isinstance(cell, str) and "\0" in cell]
            if broken:
                id = cell_text(row.cells[_COLUMNS.id]).replace("\0", "\N{REPLACEMENT CHARACTER}")
                detail = f"a NUL character in {_PREFIX}{broken[0]}"
                bad.add(BadRow(row.line, id, "wrong_encoding", detail))
                continue
            row.cells[_COLUMNS.image] = f"{_IMAGES}/{at}"
            rows.append(row)
        # Every column named here becomes an attribute; what only the template needs does not.
        attributes = [name for name in names if name not in _LEFT_OUT]
        return Feed(self.path, (*attributes, _COLUMNS.image), rows, bad, {})

    def _cells(self, name: str) -> Iterator[str | int | float]:
        """A column's cells."""
        dataset = self._dataset(_PREFIX + name)
        rows = len(self)
        if dataset.shape not in ((rows,), (rows, 1)):
            raise _wrong_layout(
                self.path, f"{_PREFIX}{name} is of shape {dataset.shape}, not ({rows}, 1)"
            )
        kind = dataset.dtype.kind
        if kind not in "Siuf":
            raise _wrong_layout(
                self.path,
                f"{_PREFIX}{name} is of type {dataset.dtype}, not of byte strings or numbers",
            )
        return self._read_cells(dataset, kind)

    def _read_cells(self, dataset: Any, kind: str) -> Iterator[str | int | float]:
        for start in range(0, len(self), _BLOCK):
            try:
                values = dataset[start : start + _BLOCK].reshape(-1)
            except OSError as error:
                raise CatalogueError(
                    f"{dataset.name[1:]} of {self.path} cannot be read, the file is damaged "
                    f"({error}): download it again"
                ) from error
            if kind == "S":
                yield from (value.decode("latin-1") for value in values.tolist())
            elif kind == "f":
                # By way of text, so that float32's 99.95 is not 99.94999694824219.
                yield from (float(str(value)) for value in values)
            else:
                yield from values.tolist()

    def _dataset(self, name: str) -> Any:
        dataset = self._file.get(name)
        if not hasattr(dataset, "dtype"):  # nothing, or a group
            raise _wrong_layout(self.path, f"there is no dataset {name!r}")
        return dataset


def _wrong_layout(path: Path, what: str) -> CatalogueError:
    return CatalogueError(
        f"{path} is not laid out like Fashion-Gen: {what}. "
        "Give fashiongen_256_256_train.h5 or fashiongen_256_256_validation.h5"
    )


def _open(path: Path) -> Any:
    """An h5py.File for reading."""
    if not path.is_file():
        raise CatalogueError(f"there is no file {path}: name a Fashion-Gen .h5 file")
    try:
        # By name: h5py has no types, and only who has the dataset needs it.
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise CatalogueError(
            f"{path} is read with h5py, which is not installed: pip install h5py"
        ) from error
    try:
        return h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE)
    except OSError as error:
        raise CatalogueError(
            f"{path} cannot be opened as HDF5 ({error}): it is another file, or cut short"
        ) from error
