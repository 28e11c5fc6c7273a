"""The last filters' masks, kept: a shop's front page asks for the same few again and again."""

from __future__ import annotations

import threading
from collections import OrderedDict

from index.columns import Mask
from index.filters import Columns, Filter, evaluate

MAX_BYTES = 16 * 1024**2
MAX_MASKS = 64


class Masks:
    """Which products match a filter, remembered for the filters used last.

    Any number of threads may ask. As the products never change, nothing has to be forgotten but
    for the memory's sake.

    Args:
        columns: the products.
        max_bytes: of all masks together, at a byte a product; a mask larger than that is not kept.
        max_masks: however small they are.
    """

    def __init__(
        self, columns: Columns, *, max_bytes: int = MAX_BYTES, max_masks: int = MAX_MASKS
    ) -> None:
        self._columns = columns
        self._most = min(max_masks, max_bytes // max(1, len(columns)))
        self._masks: OrderedDict[Filter, Mask] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._masks)

    def of(self, filter: Filter) -> Mask:
        """The products that match: bool [N], read-only."""
        with self._lock:
            if filter in self._masks:
                self._masks.move_to_end(filter)
                return self._masks[filter]
        mask = evaluate(filter, self._columns)  # outside the lock: at worst two threads do it
        mask.setflags(write=False)
        with self._lock:
            self._masks[filter] = mask
            while len(self._masks) > self._most:
                self._masks.popitem(last=False)
        return mask
