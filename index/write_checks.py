"""What speaks against a write at the moment when it would be stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from index.delta_records import Delete, Put
from index.live import LiveSnapshot
from model.errors import WriteError

#: Writes that may be stored, those that were replaced since among them, for each product that may
#: differ from the snapshot.
WRITES_PER_PRODUCT = 5


class ChangedError(WriteError):
    """Products were written to since the version that new records of them were made from.

    `ids` are theirs, `latest` has them as they are now: the records are to be made again from it.
    """

    def __init__(self, ids: Collection[str], latest: LiveSnapshot) -> None:
        super().__init__(
            f"other writes to {min(ids)!r} are in the way: send it again in a moment",
            code="write_busy",
        )
        self.ids = ids
        self.latest = latest


def check_model(records: Sequence[Put | Delete], snapshot: LiveSnapshot) -> None:
    """See that puts are of the catalogue's model.

    Raises:
        WriteError: one is not.
    """
    for record in records:
        if isinstance(record, Put) and record.model_id != snapshot.base.model_id:
            raise WriteError(
                f"the catalogue has just gone over to model {snapshot.base.model_id}, this process "
                f"has {record.model_id}: restart it with the new bundle"
            )


def check_room(records: Sequence[Put | Delete], snapshot: LiveSnapshot, limit: int) -> None:
    """See that no more than `limit` products will differ from the snapshot.

    Raises:
        WriteError: they would, or too many writes are stored (`delta_full`).
    """
    base, delta = snapshot.base, snapshot.delta
    puts = [record for record in records if isinstance(record, Put)]
    new = sum(id not in delta.row_of and id not in delta.deleted for id in {put.id for put in puts})
    # Deletions always pass: they are small, and there may be a reason why they must.
    if (new and len(delta) + new > limit) or (
        puts and delta.writes + len(puts) > limit * WRITES_PER_PRODUCT
    ):
        raise WriteError(
            f"{len(delta):,} products differ from snapshot {base.name}, after {delta.writes:,} "
            "writes, and no more are taken on top of it: run `fashionbert index compact`, "
            "then send this again",
            code="delta_full",
        )


def check_unchanged(ids: Collection[str], since: LiveSnapshot, now: LiveSnapshot) -> None:
    """See that products are what they were in an earlier version.

    Raises:
        ChangedError: some were written to since, or may have been: the snapshot is another.
    """
    changed = {
        id
        for id in ids
        if now.base is not since.base or now.delta.write_of(id) != since.delta.write_of(id)
    }
    if changed:
        raise ChangedError(changed, now)
