"""Writing to the catalogue while it is served: put and delete products, alone or many at a time.

A write is checked and encoded first, then stored, and answered for when it is durable and this
process finds it. The others that serve the same folder find it within two seconds.

A put without pictures is made from those that the product has. They are looked at again when the
log is held: where the product was written to meanwhile, or deleted, the put is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from index.delta_records import Delete, Put
from index.encoding import Draft, encode_drafts
from index.live import LiveSnapshot
from index.live_index import LiveIndex
from index.write_checks import ChangedError
from model.engine import Engine
from model.errors import FashionBertError, ImageError, TextError
from service.errors import QueryError
from service.products import ProductFields, WriteLimits, check_any_id, draft

Outcome = Literal["created", "replaced", "deleted", "absent"]
Record = Put | Delete | FashionBertError

_ATTEMPTS = 5  # at a product that others keep writing to


@dataclass(frozen=True, slots=True)
class Removal:
    """A product is to be deleted."""

    id: str


@dataclass(frozen=True, slots=True)
class Written:
    """A write that is durable: what it did, in which version, and whether the text was cut.

    `absent`: there was nothing to delete. It is stored all the same, for the snapshot that is
    being built may have the product.
    """

    id: str
    outcome: Outcome
    version: str
    truncated: bool = False


class Writer:
    """Checks, encodes and stores writes. Safe to use from several threads.

    Args:
        engine: the catalogue's model.
        index: where to write.
        limits: what one request may write.
        announce: told the version of every write that is durable, so that others need not find
            out by looking; it must not fail and not wait.
    """

    def __init__(
        self,
        engine: Engine,
        index: LiveIndex,
        limits: WriteLimits = WriteLimits(),  # noqa: B008 (frozen)
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.engine = engine
        self.index = index
        self.limits = limits
        self.announce = announce

    def put(self, fields: ProductFields) -> Written:
        """Add a product, or replace the one with its id.

        Raises:
            QueryError, TextError, ImageError: something of it cannot be taken; nothing was written.
            SnapshotError: the model gives what no snapshot may hold; nothing was written.
            WriteError: it cannot be stored.
        """
        return self._one(fields)

    def delete(self, id: str) -> Written:
        """Remove a product; of one that is not there too, so that it may be asked for twice.

        Raises:
            QueryError: this is no id.
            WriteError: it cannot be stored.
        """
        return self._one(Removal(id))

    def _one(self, operation: ProductFields | Removal) -> Written:
        (outcome,) = self.batch([operation])
        if isinstance(outcome, FashionBertError):
            raise outcome
        return outcome

    def batch(
        self, operations: Sequence[ProductFields | Removal]
    ) -> list[Written | FashionBertError]:
        """Do several writes, in order; those that cannot be taken are left out.

        The others become visible together, and are durable together when this returns.

        Returns:
            For each operation what it did, or why it was not taken.

        Raises:
            QueryError: there are none, or too many.
            SnapshotError: the model gives what no snapshot may hold; none of them is written.
            WriteError: they cannot be stored, or others keep writing to a product whose pictures
                are to stay (`write_busy`); none of them is.
        """
        if not 1 <= len(operations) <= self.limits.max_operations:
            raise QueryError(
                f"there are {len(operations):,} operations: send 1 to "
                f"{self.limits.max_operations:,}",
                field="operations",
            )
        # What another process has answered for is in the log: kept pictures are the newest ones.
        snapshot = self.index.catch_up()
        records = self._encoded(operations, snapshot)
        for attempt in range(_ATTEMPTS):
            taken = [record for record in records if not isinstance(record, FashionBertError)]
            keeping = _keeping(operations, records)
            try:
                before, written = self.index.exchange(taken, unchanged=set(keeping), since=snapshot)
                break
            except ChangedError as changed:
                if attempt == _ATTEMPTS - 1:
                    raise
                snapshot = changed.latest
                again = [keeping[id] for id in changed.ids]
                redone = self._encoded([operations[at] for at in again], snapshot)
                for at, record in zip(again, redone, strict=True):
                    records[at] = record
        if taken:
            self.announce(written.name)
        there: dict[str, bool] = {}
        return [_outcome(record, before, there, written.name) for record in records]

    def _encoded(
        self, operations: Sequence[ProductFields | Removal], snapshot: LiveSnapshot
    ) -> list[Record]:
        """What is to be stored, and why not where it cannot be."""
        checked: list[Draft | Delete | FashionBertError] = []
        ids: set[str] = set()
        for operation in operations:
            found = self._check(operation, snapshot, ids)
            checked.append(found)
            if not isinstance(found, FashionBertError):
                ids.add(operation.id)
        drafts = [each for each in checked if isinstance(each, Draft)]
        encoded = iter(encode_drafts(self.engine, drafts))
        return [next(encoded) if isinstance(each, Draft) else each for each in checked]

    def _check(
        self, operation: ProductFields | Removal, snapshot: LiveSnapshot, before: set[str]
    ) -> Draft | Delete | FashionBertError:
        """What is to be encoded or stored; `before` are the ids of the operations before it."""
        try:
            if isinstance(operation, Removal):
                return Delete(check_any_id(operation.id))
            if operation.pictures is None and operation.id in before:
                raise QueryError(
                    "the product is written twice in this batch: send its pictures again",
                    field="images",
                    code="invalid_request",
                )
            return draft(operation, snapshot, self.engine.image_size, self.limits)
        except (QueryError, TextError, ImageError) as error:
            # Kept without its traceback, whose frames hold the error itself, and the snapshot.
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)


def _keeping(
    operations: Sequence[ProductFields | Removal], records: Sequence[Record]
) -> dict[str, int]:
    """The products whose pictures are to stay, and the place of the put that says so: each is the
    first operation of its product, see `Writer._check`."""
    return {
        operation.id: at
        for at, (operation, record) in enumerate(zip(operations, records, strict=True))
        if isinstance(operation, ProductFields)
        and operation.pictures is None
        and isinstance(record, Put)
    }


def _outcome(
    record: Record,
    before: LiveSnapshot,
    there: dict[str, bool],
    version: str,
) -> Written | FashionBertError:
    """What a record did; `there` has what the records before it in the batch have left."""
    if isinstance(record, FashionBertError):
        return record
    was_there = there.get(record.id, _has(before, record.id))
    if isinstance(record, Delete):
        there[record.id] = False
        return Written(record.id, "deleted" if was_there else "absent", version)
    there[record.id] = True
    outcome: Outcome = "replaced" if was_there else "created"
    return Written(record.id, outcome, version, record.truncated)


def _has(snapshot: LiveSnapshot, id: str) -> bool:
    try:
        snapshot.row_of(id)
    except KeyError:
        return False
    return True
