"""The last steps of making a snapshot: recall indexes, items, checksums, manifest, a first look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from index.items import Item, check_items, write_items
from index.manifest import Manifest, Sizes, describe_files, read_manifest, write_manifest
from index.recall import write_index
from index.recall_rules import Rule
from index.snapshot import Snapshot
from index.states import open_array
from model.errors import SnapshotError


def finish_snapshot(
    folder: Path,
    name: str,
    sizes: Sizes,
    rules: Mapping[str, Rule],
    items: Iterable[Item],
    step: Callable[[str], None],
    **fields: Any,
) -> None:
    """Complete a folder whose arrays are written.

    Args:
        folder: what is to become the snapshot.
        name: the snapshot's.
        sizes: of the arrays.
        rules: the recall's, of `image` and of `text`.
        items: the products, in the order of the rows.
        step: told what is done next.
        fields: the rest of the manifest.

    Raises:
        SnapshotError: what was written cannot be opened; it must not be published.
    """
    for modality, rule in rules.items():
        step(f"Building the {modality} recall index")
        file = f"{modality}_embeddings.npy"
        dtype, shape = sizes.arrays()[file]
        write_index(open_array(folder / file, dtype, shape), rule, folder / f"{modality}.faiss")
    step("Writing the items")
    write_items(items, folder / "items.parquet")
    step("Computing checksums")
    manifest = Manifest(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sizes=sizes,
        recall=dict(rules),
        files=describe_files(folder),
        **fields,
    )
    write_manifest(folder, manifest)
    step("Opening it")
    try:
        # Nearly as a service opens it: the checksums were just made, and of the items not all are
        # held at a time.
        Snapshot(folder, read_manifest(folder)).check_canaries()
        check_items(folder / "items.parquet")
    except SnapshotError as error:
        raise SnapshotError(
            f"the new snapshot {name} cannot be opened, so it is not published, and what was "
            f"served is served: {error}"
        ) from error
