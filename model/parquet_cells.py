"""The cells of a Parquet column as what JSON could have held, and numbers as they were written."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pyarrow as pa

#: How `ParquetFile` reads a file that may be larger than memory. By default `iter_batches` holds
#: what is compressed of all columns and groups of rows.
ONE_AFTER_THE_OTHER: dict[str, Any] = {"pre_buffer": False, "buffer_size": 1 << 20}

Convert = Callable[[Any], object]

#: Stands for text that is not UTF-8: half a surrogate pair, which no text may hold.
UNDECODABLE = "\udcff"

# From here on a float has no fraction, and does not tell a number from the next one.
_WHOLE = 1 << 53


def column_cells(column: pa.Array) -> list[object]:
    """The cells of a column.

    Dates and times are text. A decimal is a float, or an int where its type has no places after
    the point; a float narrower than 64 bits is the shortest number that reads as it, so that
    float32's 99.95 is not 99.94999694824219. Bytes that are UTF-8 are text: Hive, Impala and old
    versions of Spark write all strings so. That holds inside lists, structs and maps too.
    """
    if pa.types.is_temporal(column.type) and not pa.types.is_duration(column.type):
        column = column.cast(pa.string())
    try:
        cells = list(column.to_pylist())
    except UnicodeDecodeError:  # Parquet's strings are not checked when they are read
        cells = [_cell(value) for value in column]
    convert = _converter(column.type)
    return cells if convert is None else [_apply(convert, cell) for cell in cells]


def _cell(value: pa.Scalar) -> object:
    try:
        cell: object = value.as_py()
    except UnicodeDecodeError:
        return UNDECODABLE
    return cell


def _apply(convert: Convert | None, cell: object) -> object:
    return cell if convert is None or cell is None or cell is UNDECODABLE else convert(cell)


def _converter(kind: pa.DataType) -> Convert | None:
    """What makes plain numbers of the cells of a type; None where they are plain already."""
    types = pa.types
    if types.is_decimal(kind):
        return partial(_number, kind.scale)
    if types.is_float32(kind) or types.is_float16(kind):
        return partial(_shortest, kind.to_pandas_dtype())
    if types.is_binary(kind) or types.is_large_binary(kind):
        return _text_or_bytes
    if types.is_dictionary(kind):
        return _converter(kind.value_type)
    if types.is_struct(kind):
        fields = {field.name: _converter(field.type) for field in kind}
        return partial(_fields, fields) if any(fields.values()) else None
    if types.is_map(kind):
        pair = (_converter(kind.key_type), _converter(kind.item_type))
        return partial(_pairs, pair) if any(pair) else None
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        convert = _converter(kind.value_type)
        return partial(_entries, convert) if convert is not None else None
    return None


def _number(scale: int, cell: Decimal) -> int | float:
    # Ids come as decimals too, which a float would make one of two.
    return int(cell) if scale == 0 or abs(cell) >= _WHOLE else float(cell)


def _shortest(kind: type[Any], cell: float) -> float:
    return float(str(kind(cell)))


def _text_or_bytes(cell: bytes) -> str | bytes:
    try:
        text = cell.decode("utf-8")
    except UnicodeDecodeError:
        return cell  # a picture, say
    return cell if "\0" in text else text


def _fields(converters: dict[str, Convert | None], cell: dict[str, Any]) -> dict[str, Any]:
    return {name: _apply(converters[name], value) for name, value in cell.items()}


def _pairs(
    converters: tuple[Convert | None, Convert | None], cell: list[tuple[Any, Any]]
) -> list[tuple[object, object]]:
    of_key, of_value = converters
    return [(_apply(of_key, key), _apply(of_value, value)) for key, value in cell]


def _entries(convert: Convert, cell: list[Any]) -> list[object]:
    return [_apply(convert, entry) for entry in cell]
