"""The products of a snapshot as one Parquet file: id, title, text, pictures, attributes.

Each attribute is a column of its own, `attributes.<name>`, of the type its values have: string,
int64, double, bool, or a list of strings (`strings`), among which a string alone is a list of one;
integers among fractions are doubles. Where a catalogue mixes other types under one name (sizes "M"
and 42), the column holds them as JSON and says so in its metadata, so every value comes back with
the type it had.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from index.arrow_columns import mixed_column, plain_column
from index.columns import Column, Mask
from model.attributes import column_type, value_type
from model.errors import SnapshotError
from model.on_disk import DiskList, DiskTable
from model.parquet_cells import ONE_AFTER_THE_OTHER
from model.product import Attribute, as_attributes

# Products that are written together at most, and about what they may be together.
_GROUP, _GROUP_CHARACTERS = 1 << 13, 1 << 23
_READ_TOGETHER = 256
_COLUMNS = {
    "id": pa.string(),
    "title": pa.string(),
    "text": pa.string(),
    "images": pa.list_(pa.string()),
}
_PREFIX = "attributes."
_JSON = {b"encoding": b"json"}
#: Arrow's of each type of attribute that is not mixed.
ARROW_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "strings": pa.list_(pa.string()),
}


@dataclass(frozen=True, slots=True)
class Item:
    """A product as an answer shows it; `images` are the names its pictures had in the feed."""

    id: str
    title: str
    text: str
    images: tuple[str, ...]
    attributes: dict[str, Attribute]

    @property
    def views(self) -> int:
        """How many pictures it has."""
        return len(self.images)


def write_items(items: Iterable[Item], path: Path) -> None:
    """Save products, in order: few at a time, however many there are.

    Raises:
        OSError: they cannot be written.
        TemporaryFileError: what does not fit into memory cannot be put on disk.
    """
    # On disk meanwhile: the types of the columns are known after the last.
    stored = DiskList(_as_fields, _as_item)
    found: dict[str, set[str]] = {}
    for item in items:
        stored.append(item)
        for name, value in item.attributes.items():
            found.setdefault(name, set()).add(value_type(value))
    types = {name: column_type(there) for name, there in found.items()}
    fields = [pa.field(name, type, nullable=False) for name, type in _COLUMNS.items()]
    for name, type in types.items():
        metadata = _JSON if type == "mixed" else None
        arrow = ARROW_TYPES.get(type, pa.string())
        fields.append(pa.field(_PREFIX + name, arrow, metadata=metadata))
    schema = pa.schema(fields)
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for rows in _groups(stored):
            arrays = [
                pa.array([getattr(item, name) for item in rows], type)
                for name, type in _COLUMNS.items()
            ]
            arrays += [
                attribute_array([item.attributes.get(name) for item in rows], type)
                for name, type in types.items()
            ]
            file.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _groups(items: Iterable[Item]) -> Iterator[list[Item]]:
    group: list[Item] = []
    characters = 0
    for item in items:
        group.append(item)
        characters += len(str(_as_fields(item)))
        if len(group) == _GROUP or characters >= _GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _as_fields(item: Item) -> Any:
    return item.id, item.title, item.text, item.images, item.attributes


def _as_item(stored: Any) -> Item:
    id, title, text, images, attributes = stored
    return Item(id, title, text, tuple(images), as_attributes(attributes))


def count_items(path: Path) -> int:
    """How many products a file has, by what stands at its end.

    Raises:
        SnapshotError: it cannot be read.
    """
    try:
        rows: int = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return rows


def check_items(path: Path) -> None:
    """Read a file from end to end, few products at a time.

    Raises:
        SnapshotError: it cannot be read, or names an id twice.
    """
    ids: DiskTable[None] = DiskTable(lambda _: None, lambda _: None)
    rows = 0
    try:
        with pq.ParquetFile(path, **ONE_AFTER_THE_OTHER) as file:
            for batch in file.iter_batches(_READ_TOGETHER, use_threads=False):
                rows += len(batch)
                for id in batch["id"].to_pylist():
                    ids.put(id, None)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from error
    if len(ids) != rows:
        raise _twice(path)


def _twice(path: Path) -> SnapshotError:
    return SnapshotError(f"{path} names an id twice: build the snapshot again")


def _damaged(path: Path, error: Exception) -> SnapshotError:
    return SnapshotError(
        f"{path} is damaged ({str(error).strip() or type(error).__name__}): "
        "build the snapshot again"
    )


def attribute_array(values: Sequence[Attribute | None], type: str) -> pa.Array:
    """One attribute of some products, None for null, as the column of a type has it."""
    if type == "mixed":
        return pa.array([None if v is None else json.dumps(v) for v in values], pa.string())
    if type == "strings":
        values = [(value,) if isinstance(value, str) else value for value in values]
    if type == "double":  # as pyarrow takes no integer that is beyond 2**53 for a float
        values = [float(value) if isinstance(value, int) else value for value in values]
    return pa.array(values, ARROW_TYPES[type])


def as_attribute(value: Any) -> Any:
    """A value as JSON or Arrow have it, lists as tuples."""
    return tuple(value) if isinstance(value, list) else value


class Items:
    """The products of a snapshot, held column by column; a row becomes an `Item` when asked for.

    `ids` are all ids, by row.

    Raises:
        SnapshotError: the file cannot be read, lacks a column, or names an id twice.
    """

    def __init__(self, path: Path) -> None:
        try:
            # Through a buffer: ParquetFile keeps a handle open on a path. Without Arrow's threads,
            # which `read_table` starts whatever it is told: one that lets go of the buffer while
            # Python ends aborts the process (Arrow's issue 39862).
            with pq.ParquetFile(pa.BufferReader(path.read_bytes()), pre_buffer=False) as file:
                table = file.read(use_threads=False)
            self.ids: list[str] = table.column("id").to_pylist()
            self._titles, self._texts, self._images = (
                _contiguous(table.column(name)) for name in ("title", "text", "images")
            )
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise _damaged(path, error) from error
        self._attributes: dict[str, tuple[Any, bool]] = {}
        self._columns: dict[str, Column] = {}
        self._lock = threading.Lock()
        self._types = _types(table.schema)
        for name, kind in self._types.items():
            column = _contiguous(table.column(_PREFIX + name))
            self._attributes[name] = (column, kind == "mixed")
        self._rows = {id: row for row, id in enumerate(self.ids)}
        if len(self._rows) != len(self.ids):
            raise _twice(path)

    def __len__(self) -> int:
        return len(self.ids)

    def row_of(self, id: str) -> int:
        """The row of a product; KeyError if there is none with this id."""
        return self._rows[id]

    def __getitem__(self, row: int) -> Item:
        attributes = {
            name: as_attribute(json.loads(cell) if is_json else cell)
            for name, (column, is_json) in self._attributes.items()
            if (cell := column[row].as_py()) is not None
        }
        return Item(
            id=self.ids[row],
            title=self._titles[row].as_py(),
            text=self._texts[row].as_py(),
            images=tuple(self._images[row].as_py()),
            attributes=attributes,
        )

    def __iter__(self) -> Iterator[Item]:
        return (self[row] for row in range(len(self)))

    @property
    def attribute_types(self) -> Mapping[str, str]:
        """Attribute names to `string`, `int64`, `double`, `bool`, `strings` or `mixed`."""
        return self._types

    @property
    def live(self) -> Mask | None:
        """The rows that count, None for all: here nothing was deleted."""
        return None

    def column(self, name: str) -> Column | None:
        """One attribute of all products, made for comparing; None if no product has it.

        It is made when it is first asked for, and kept. Any number of threads may ask.
        """
        if name not in self._attributes:
            return None
        with self._lock:
            if name not in self._columns:
                column, is_json = self._attributes[name]
                self._columns[name] = (mixed_column if is_json else plain_column)(column)
            return self._columns[name]


def stored_types(path: Path) -> dict[str, str]:
    """`Items.attribute_types` of a file, of which no more than that is read.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    return _types(pq.read_schema(path))


def others_have(path: Path, attribute: str, ids: Collection[str]) -> bool:
    """Whether a file's products other than these have an attribute; what `stored_types` lists.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    column = _PREFIX + attribute
    # For which a dot in a name is a part of it.
    with pq.ParquetFile(path, **ONE_AFTER_THE_OTHER) as file:
        return any(
            id not in ids
            for batch in file.iter_batches(_READ_TOGETHER, columns=["id", column])
            for id in batch["id"].filter(batch[column].is_valid()).to_pylist()
        )


def _types(schema: pa.Schema) -> dict[str, str]:
    types = {}
    for field in schema:
        if field.name.startswith(_PREFIX):
            is_json = bool(field.metadata) and field.metadata.get(b"encoding") == b"json"
            listed = "strings" if pa.types.is_list(field.type) else str(field.type)
            types[field.name.removeprefix(_PREFIX)] = "mixed" if is_json else listed
    return types


def _contiguous(column: pa.ChunkedArray) -> pa.Array:
    """One array: indexing a chunked one looks for the chunk each time.

    Strings come as large ones, as one array of the others has 2 GiB at most, and a file may have
    more in several.
    """
    if pa.types.is_string(column.type):
        column = column.cast(pa.large_string())
    elif pa.types.is_list(column.type):
        column = column.cast(pa.list_(pa.large_string()))
    return column.combine_chunks()
