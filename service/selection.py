"""Filters and facets of a search: which products it may find, and what is counted of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from index.columns import Mask
from index.facets import Facet, count_facet
from index.filter_parser import FilterError, attribute_named, parse_filter
from index.live import AnySnapshot
from service.errors import QueryError
from service.records import SearchLimits, Selection, Stopwatch


@dataclass(frozen=True, slots=True)
class Selected:
    """The products that match: `among` bool [products], None for all, and how many they are.

    `facets` are those that were asked for, of these products.
    """

    among: Mask | None
    matching: int
    facets: dict[str, Facet]


class Selector:
    """Applies the selections of searches to one snapshot. Safe to use from several threads."""

    def __init__(self, snapshot: AnySnapshot, limits: SearchLimits) -> None:
        self._snapshot = snapshot
        self._limits = limits

    @cached_property
    def _types(self) -> Mapping[str, str]:
        return self._snapshot.items.attribute_types

    def apply(self, selection: Selection, watch: Stopwatch) -> Selected:
        """Filter and count.

        Raises:
            QueryError: the filter or the facets cannot be taken, with the code `invalid_filter`,
                `unknown_attribute` or `out_of_range`.
        """
        try:
            names = self._facet_names(selection)
            among, matching = None, len(self._snapshot)
            if selection.filters is not None:
                with watch.stage("filter"):
                    among = self._snapshot.masks.of(parse_filter(selection.filters, self._types))
                    live = self._snapshot.items.live
                    among = among if live is None else among & live
                    matching = int(np.count_nonzero(among))
        except FilterError as error:
            raise QueryError(str(error), field=error.path, code=error.code) from error
        facets: dict[str, Facet] = {}
        if names:
            with watch.stage("facets"):
                facets = self._count(names, among, selection.max_facet_values)
        return Selected(among, matching, facets)

    def _facet_names(self, selection: Selection) -> dict[str, str]:
        """What the request calls the facets, and the attributes meant."""
        most = self._limits.max_facets
        if len(selection.facets) > most:
            raise QueryError(
                f"there are {len(selection.facets):,} facets: ask for at most {most}",
                field="facets",
            )
        most = self._limits.max_facet_values
        if not 1 <= selection.max_facet_values <= most:
            raise QueryError(
                f"max_facet_values is {selection.max_facet_values}: choose 1 to {most:,}",
                field="max_facet_values",
            )
        return {
            name: attribute_named(name, self._types, ("facets", place))
            for place, name in enumerate(selection.facets)
        }

    def _count(self, names: Mapping[str, str], among: Mask | None, limit: int) -> dict[str, Facet]:
        items = self._snapshot.items
        counted = items.live if among is None else among
        facets = {}
        for name, attribute in names.items():
            column = items.column(attribute)
            assert column is not None  # it has a type
            facets[name] = count_facet(column, counted, limit)
        return facets
