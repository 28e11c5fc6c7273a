"""From JSON to a filter: the checks, and errors that say where and what there is to choose from."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from typing import NoReturn, get_args

from index.columns import INT64, KINDS, Kind, Operator, kind_of
from index.filters import All, AnyOf, Bound, Exists, Filter, Not, Some
from model.errors import FashionBertError
from model.product import Scalar

MAX_DEPTH = 8
MAX_CONDITIONS = 256
MAX_VALUES = 1024
MAX_CHARACTERS = 32_768

PREFIX = "attributes."
_BOUNDS: tuple[Operator, ...] = get_args(Operator)
_OPERATORS = (*_BOUNDS, "not", "exists")
_SHOWN_ATTRIBUTES = 30
_SHOWN = 60  # characters of something that a message repeats

Path = tuple[str | int, ...]


class FilterError(FashionBertError):
    """A filter or a facet cannot be taken.

    `code` is `invalid_filter` or `unknown_attribute`; `path` says where, such as
    `filters.and.1.price.lte`.
    """

    code = "invalid_filter"

    def __init__(self, message: str, path: Path, *, code: str | None = None) -> None:
        self.path = _printable(".".join(str(step) for step in path))
        super().__init__(f"{self.path}: {message}", code=code)


def parse_filter(raw: object, types: Mapping[str, str]) -> Filter:
    """Read and check a filter.

    Args:
        raw: what came as JSON.
        types: the attributes there are and their types, as `Items.attribute_types`.

    Raises:
        FilterError: it is no filter, is too large, or does not fit the attributes.
    """
    return _Parser(types).filter(raw, ("filters",), 1)


def attribute_named(key: str, types: Mapping[str, str], path: Path) -> str:
    """The attribute that a key means.

    Raises:
        FilterError: there is none, with the code `unknown_attribute`; the message lists them.
    """
    name = key.removeprefix(PREFIX)
    if name in types:
        return name
    message = f"there is no attribute {_show(name)}"
    if near := difflib.get_close_matches(name[:_SHOWN], types, n=1):
        message += f" (is {_show(near[0])} meant?)"
    if types:
        shown = [f"{_cut(one)} ({type})" for one, type in list(types.items())[:_SHOWN_ATTRIBUTES]]
        more = len(types) - len(shown)
        message += f": choose from {_printable(', '.join(shown))}"
        message += f" and {more:,} more" if more else ""
    else:
        message += ": the catalogue has none"
    raise FilterError(message, path, code="unknown_attribute")


class _Parser:
    """Turns one JSON value into a filter, counting what it is made of."""

    def __init__(self, types: Mapping[str, str]) -> None:
        self._types = types
        self._conditions = 0
        self._values = 0
        self._characters = 0

    def filter(self, raw: object, path: Path, depth: int) -> Filter:
        self._count(path, depth)
        if not isinstance(raw, Mapping):
            raise FilterError(
                f'{_show(raw)} is no filter: give an object, such as {{"colour": "black"}}', path
            )
        filters: list[Filter] = []
        for key, value in sorted(raw.items()):  # so that the same filter is the same cache key
            at = (*path, _cut(key))
            if key == "not":
                filters.append(Not(self.filter(value, at, depth + 1)))
            elif key in ("and", "or"):
                if not isinstance(value, list):
                    raise FilterError(
                        f"{key} takes a list of filters; an attribute of that name is written "
                        f"{PREFIX}{key}",
                        at,
                    )
                parts = tuple(self.filter(one, (*at, n), depth + 1) for n, one in enumerate(value))
                filters.append(All(parts) if key == "and" else Some(parts))
            else:
                name = attribute_named(key, self._types, at)
                filters.append(self._condition(name, value, at, depth))
        return _all(filters)

    def _condition(self, name: str, raw: object, path: Path, depth: int) -> Filter:
        self._count(path, depth)
        if isinstance(raw, Mapping):
            return self._operators(name, raw, path, depth)
        if not isinstance(raw, list):
            return self._any_of(name, [(raw, path)])
        return self._any_of(name, [(one, (*path, n)) for n, one in enumerate(raw)])

    def _operators(self, name: str, raw: Mapping[str, object], path: Path, depth: int) -> Filter:
        filters: list[Filter] = []
        for key, value in sorted(raw.items()):
            at = (*path, _cut(key))
            if key == "not":
                filters.append(Not(self._condition(name, value, at, depth + 1)))
            elif key == "exists":
                if not isinstance(value, bool):
                    raise FilterError("exists takes true or false", at)
                filters.append(Exists(name) if value else Not(Exists(name)))
            elif key in _BOUNDS:
                filters.append(self._bound(name, key, value, at))
            else:
                self._unknown_operator(key, at)
        if not filters:
            self._unknown_operator(None, path)
        return _all(filters)

    def _bound(self, name: str, operator: Operator, raw: object, path: Path) -> Filter:
        if self._types[name] == "bool":
            raise FilterError(f"{_show(name)} is true or false: ask for one of the two", path)
        kind, value = self._value(name, raw, path)
        if kind == "bool":
            raise FilterError(f"{operator} compares numbers, or strings", path)
        return Bound(name, kind, operator, value)

    def _any_of(self, name: str, raws: list[tuple[object, Path]]) -> Filter:
        by_kind: dict[Kind, set[Scalar]] = {}
        for raw, path in raws:
            kind, value = self._value(name, raw, path)
            by_kind.setdefault(kind, set()).add(value)
        parts = [
            AnyOf(name, kind, tuple(sorted(values))) for kind, values in sorted(by_kind.items())
        ]
        return parts[0] if len(parts) == 1 else Some(tuple(parts))

    def _value(self, name: str, raw: object, path: Path) -> tuple[Kind, Scalar]:
        """A value that the attribute may be compared with, and its kind."""
        self._values += 1
        if self._values > MAX_VALUES:
            raise FilterError(f"the filter has more than {MAX_VALUES:,} values", path)
        if raw is None:
            raise FilterError(
                'null is no value: {"exists": false} finds products without the attribute', path
            )
        kind = kind_of(raw)
        if kind is None:
            raise FilterError(f"{_show(raw)} is no string, number, true or false", path)
        assert isinstance(raw, Scalar)
        type = self._types[name]
        if kind not in KINDS[type]:
            raise FilterError(
                f"{_show(raw)} is a {kind}, and {_show(name)} holds {type}: compare it with a "
                f"{KINDS[type][0]}",
                path,
            )
        if isinstance(raw, str):
            self._characters += len(raw)
            if self._characters > MAX_CHARACTERS:
                raise FilterError(
                    f"the filter's strings have more than {MAX_CHARACTERS:,} characters", path
                )
            if not _is_unicode(raw):
                raise FilterError("the string is not valid Unicode", path)
        elif isinstance(raw, float) and not math.isfinite(raw):
            raise FilterError("the number is not finite", path)
        elif isinstance(raw, int) and raw not in INT64:
            raise FilterError("the integer has more than 64 bits", path)
        return kind, raw

    def _count(self, path: Path, depth: int) -> None:
        self._conditions += 1
        if depth > MAX_DEPTH:
            raise FilterError(f"the filter is nested more than {MAX_DEPTH} deep", path)
        if self._conditions > MAX_CONDITIONS:
            raise FilterError(f"the filter has more than {MAX_CONDITIONS} conditions", path)

    @staticmethod
    def _unknown_operator(key: str | None, path: Path) -> NoReturn:
        what = "there is no operator" if key is None else f"{_show(key)} is no operator"
        raise FilterError(f"{what}: use {', '.join(_OPERATORS)}", path)


def _is_unicode(text: str) -> bool:
    """Whether it can be encoded: JSON may hold halves of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _all(filters: list[Filter]) -> Filter:
    return filters[0] if len(filters) == 1 else All(tuple(filters))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _printable(text: str) -> str:
    """Without what disturbs a terminal or cannot be encoded."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _show(value: object) -> str:
    """A value as a message repeats it: short, and as JSON."""
    if isinstance(value, Mapping | list):
        return "an object" if isinstance(value, Mapping) else "a list"
    if isinstance(value, int) and value not in INT64:
        return "the integer"  # Python refuses to write out very long ones
    return _cut(_printable(json.dumps(value, ensure_ascii=False)))
