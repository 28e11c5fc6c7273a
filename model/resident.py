"""Stored states on the device, as many as a budget has room for.

Each snapshot has a table of its pictures and one of its texts, of the first rows of each, as many
as a table may have: pictures first, then texts, which are padded to the longest of all. Rows beyond
them, and products that were written since, stay on the host. Nothing here keeps a snapshot or a
table: they go when nobody reads them any more. The tables of a new snapshot are made when the
budget has room for them, so mostly after those of the old one have gone; until then its states are
read from the host.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.states import QuantisedStates
from model.tables import MOST_VALUES, Table

_CHUNK = 4096  # texts that are padded at a time

_logger = logging.getLogger("fashionbert.engine")


class Stored(Protocol):
    """What is read of a snapshot."""

    name: str

    @property
    def all_image_states(self) -> QuantisedStates:
        """Of all pictures: [M, P, H], mapped from a file."""

    @property
    def text_lengths(self) -> NDArray[np.int64]:
        """Tokens of all texts: [N]."""

    def text_states(self, rows: Sequence[int] | NDArray[Any]) -> QuantisedStates:
        """Of some texts, padded to the longest of them: [n, T, H]."""


@dataclass(frozen=True, slots=True)
class Tables:
    """What of a snapshot is on the device; None is nothing."""

    images: Table | None = None
    texts: Table | None = None


NOTHING = Tables()


@dataclass(frozen=True, slots=True)
class _Plan:
    """How many rows a snapshot's tables have, and how many bytes that is."""

    images: int
    texts: int
    longest: int
    nbytes: int

    @classmethod
    def of(cls, stored: Stored, budget: int) -> _Plan:
        images, lengths = stored.all_image_states, stored.text_lengths
        _, patches, width = images.values.shape
        longest = int(lengths.max(initial=1))
        image, text = row_bytes(patches, width), row_bytes(longest, width)
        some_images = min(len(images), budget // image, MOST_VALUES // (patches * width))
        rest = budget - some_images * image
        some_texts = min(len(lengths), rest // text, MOST_VALUES // (longest * width))
        nbytes = some_images * image + some_texts * text
        return cls(some_images, some_texts, longest, nbytes)


def row_bytes(length: int, width: int) -> int:
    """Bytes of a picture of so many patches, or of a text of so many tokens: L · (H + 4)."""
    return length * (width + np.dtype(np.float32).itemsize)


class Residence:
    """The tables of all snapshots that are read. Safe to use from several threads.

    Args:
        budget: most bytes of all tables together.
        device: `cuda`, or `cpu`, where a table is memory of the host.
    """

    def __init__(self, budget: int, device: str) -> None:
        self.budget = budget
        self._device = device
        self._lock = threading.Lock()
        self._making = threading.Lock()  # held while tables are made
        self._of: weakref.WeakKeyDictionary[Stored, Tables] = weakref.WeakKeyDictionary()
        self._plans: weakref.WeakKeyDictionary[Stored, _Plan] = weakref.WeakKeyDictionary()
        self._tables: weakref.WeakSet[Table] = weakref.WeakSet()

    @property
    def used(self) -> int:
        """Bytes of all tables that somebody may still read."""
        with self._lock:
            return sum(table.nbytes for table in self._tables)

    def tables(self, stored: Stored) -> Tables:
        """What is on the device of a snapshot now; where nothing is, it is brought there by a
        thread of its own, if there is room."""
        found = self._known(stored)
        if found is not None:
            return found
        if self._has_room(stored) and not self._making.locked():
            threading.Thread(
                target=self.fill, args=(stored,), name="resident-states", daemon=True
            ).start()
        return NOTHING

    def fill(self, stored: Stored) -> Tables:
        """Bring a snapshot's states to the device, if there is room, and return when they are."""
        with self._making:
            found = self._known(stored)
            if found is not None:
                return found
            if not self._has_room(stored):
                return NOTHING
            plan = self._plan(stored)
            try:
                tables = self._made(stored, plan)
            except Exception as error:  # the runtime's own: mostly the device has not so much
                _logger.warning(
                    "the states of snapshot %s stay on the host, as %s bytes of them do not go to "
                    "the device: %s",
                    stored.name,
                    f"{plan.nbytes:,}",
                    error,
                )
                tables = NOTHING
            else:
                _logger.info(
                    "on the device of snapshot %s: %d pictures and %d texts, %s bytes",
                    stored.name,
                    plan.images,
                    plan.texts,
                    f"{plan.nbytes:,}",
                )
            with self._lock:
                self._of[stored] = tables
            return tables

    def _known(self, stored: Stored) -> Tables | None:
        with self._lock:
            return self._of.get(stored)

    def _plan(self, stored: Stored) -> _Plan:
        with self._lock:
            plan = self._plans.get(stored)
            if plan is None:
                plan = self._plans[stored] = _Plan.of(stored, self.budget)
            return plan

    def _has_room(self, stored: Stored) -> bool:
        return self.used + self._plan(stored).nbytes <= self.budget

    def _made(self, stored: Stored, plan: _Plan) -> Tables:
        images = texts = None
        if plan.images:  # straight from the mapped file
            images = self._made_table(stored.all_image_states[: plan.images])
        if plan.texts:
            texts = self._made_table(_padded(stored, plan))
        return Tables(images, texts)

    def _made_table(self, states: QuantisedStates) -> Table:
        table = Table.of(states, self._device)
        with self._lock:
            self._tables.add(table)
        return table


def _padded(stored: Stored, plan: _Plan) -> QuantisedStates:
    """The first texts, all padded to the longest that there is."""
    width = stored.all_image_states.values.shape[2]
    values = np.zeros((plan.texts, plan.longest, width), dtype=np.int8)
    scales = np.zeros((plan.texts, plan.longest), dtype=np.float32)
    for start in range(0, plan.texts, _CHUNK):
        end = min(start + _CHUNK, plan.texts)
        part = stored.text_states(np.arange(start, end))
        length = part.values.shape[1]
        values[start:end, :length], scales[start:end, :length] = part.values, part.scales
    return QuantisedStates(values, scales)
