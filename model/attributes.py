"""The types that attributes have: of one value, of a column, of all columns of a catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from model.product import Attribute

_TYPES = {str: "string", int: "int64", float: "double", bool: "bool", tuple: "strings"}
#: Beside the types, see `value_type`.
LONG = "long"


def type_of(value: Attribute) -> str:
    """`string`, `int64`, `double`, `bool`, or `strings` of a list of them."""
    return _TYPES[type(value)]


def is_exact_as_float(value: int) -> bool:
    """Whether float64 has this integer: all up to 2**53 are there, and fewer beyond."""
    return int(float(value)) == value


def value_type(value: Attribute) -> str:
    """The type of one value; `LONG` of an integer that float64 does not have."""
    return LONG if type(value) is int and not is_exact_as_float(value) else type_of(value)


def column_type(types: Set[str]) -> str:
    """The type of a column that has values of these types, of which there is at least one.

    A string beside lists counts as a list of one. Integers among numbers with a fraction, as JSON
    has 20 among 19.99, are `double` where float64 has each of them; any other mixture is `mixed`.

    Args:
        types: as of `value_type`.
    """
    if types == {"string", "strings"}:
        return "strings"
    if types <= {"int64", LONG}:
        return "int64"
    if types == {"int64", "double"}:
        return "double"
    return "mixed" if len(types) > 1 else next(iter(types))


def attribute_types(products: Iterable[Mapping[str, Attribute]]) -> dict[str, str]:
    """The type of each attribute of some products, in the order in which they first come."""
    types: dict[str, set[str]] = {}
    for attributes in products:
        for name, value in attributes.items():
            types.setdefault(name, set()).add(value_type(value))
    return {name: column_type(there) for name, there in types.items()}
