"""The types that attributes have: of one value, of a column, of all columns of a catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from model.product import Attribute

_TYPES = {str: "string", int: "int64", float: "double", bool: "bool", tuple: "strings"}


def type_of(value: Attribute) -> str:
    """`string`, `int64`, `double`, `bool`, or `strings` of a list of them."""
    return _TYPES[type(value)]


def column_type(types: Set[str]) -> str:
    """The type of a column that has values of these types, of which there is at least one.

    A string beside lists counts as a list of one; any other mixture is `mixed`.
    """
    if types == {"string", "strings"}:
        return "strings"
    return "mixed" if len(types) > 1 else next(iter(types))


def attribute_types(products: Iterable[Mapping[str, Attribute]]) -> dict[str, str]:
    """The type of each attribute of some products, in the order in which they first come."""
    types: dict[str, set[str]] = {}
    for attributes in products:
        for name, value in attributes.items():
            types.setdefault(name, set()).add(type_of(value))
    return {name: column_type(there) for name, there in types.items()}
