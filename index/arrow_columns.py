"""Columns of attributes from Arrow's arrays, as a snapshot has them in its file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from index.columns import (
    KINDS,
    Coded,
    CodedNumbers,
    Column,
    Kind,
    Listed,
    NumberPart,
    Numbers,
    Part,
    kind_of,
)
from model.attributes import is_exact_as_float

_ARROW_TYPES: Mapping[Kind, pa.DataType] = {"string": pa.large_string(), "bool": pa.bool_()}


def plain_column(array: pa.Array) -> Column:
    """A column whose values have one type: string, int64, double, bool, or a list of strings."""
    if pa.types.is_list(array.type):
        return _list_column(array)
    type = str(array.type).removeprefix("large_")
    (kind,) = KINDS[type]
    if kind == "number":
        present = array.is_valid().to_numpy(zero_copy_only=False)
        values = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
        return Column(type, {kind: Numbers(values, present)})
    codes, dictionary = _encode(array)
    return Column(type, {kind: Coded.of(codes, dictionary)})


def mixed_column(array: pa.Array) -> Column:
    """A column of several types, each value as JSON."""
    codes, dictionary = _encode(array)
    distinct = [json.loads(cell) for cell in dictionary.to_pylist()]
    parts: dict[Kind, Part] = {}
    for kind in KINDS["mixed"]:
        own = [code for code, value in enumerate(distinct) if _kind_of(value) == kind]
        if not own:
            continue
        # Distinct values of this kind are numbered anew from 0; the others, and null (-1), are -1.
        recode = np.full(len(distinct) + 1, -1, dtype=np.int64)
        recode[own] = np.arange(len(own))
        recoded = recode[codes]
        values = [distinct[code] for code in own]
        if kind == "number":
            parts[kind] = _numbers(recoded, values)
        elif any(isinstance(value, list) for value in values):
            parts[kind] = _lists(recoded, values)
        else:
            parts[kind] = Coded.of(recoded, pa.array(values, _ARROW_TYPES[kind]))
    return Column("mixed", parts)


def _list_column(array: pa.ListArray) -> Column:
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(array), dtype=np.int32), lengths)
    codes, dictionary = _encode(array.flatten())
    part = Listed(Coded.of(codes, dictionary), rows, len(array))
    return Column("strings", {"string": part})


def _kind_of(value: object) -> Kind | None:
    return "string" if isinstance(value, list) else kind_of(value)


def _lists(codes: NDArray[np.int64], values: Sequence[str | list[str]]) -> Listed:
    """Lists from codes, -1 for none, into them; a string is a list of one."""
    lists = [[value] if isinstance(value, str) else value for value in values]
    lengths = np.array([*map(len, lists), 0])
    starts = np.cumsum(lengths) - lengths
    counts = lengths[codes]
    rows = np.repeat(np.arange(len(codes), dtype=np.int32), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    entries, dictionary = _encode(pa.array(chain.from_iterable(lists), pa.large_string()))
    return Listed(
        Coded.of(entries[starts[codes].repeat(counts) + within], dictionary), rows, len(codes)
    )


def _numbers(codes: NDArray[np.int64], values: Sequence[int | float]) -> NumberPart:
    """Numbers from codes, -1 for none, into their values."""
    integers = [value for value in values if isinstance(value, int)]
    if len(integers) == len(values):
        return Numbers(np.array([*values, 0], dtype=np.int64)[codes], codes >= 0)
    if all(map(is_exact_as_float, integers)):
        return Numbers(np.array([*values, 0], dtype=np.float64)[codes], codes >= 0)
    return CodedNumbers.of(codes, values)


def _encode(array: pa.Array) -> tuple[NDArray[np.int32], pa.Array]:
    """Codes, -1 for null, and the distinct values in the order they first come in."""
    encoded = array.dictionary_encode()
    return pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), encoded.dictionary
