"""`fashionbert index publish`, `rollback`, `prune` and `compact`: which snapshots there are, and
which one is served.

A service that runs follows as soon as it has opened the other one, without a restart.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.errors import SnapshotError
from service.cli import options
from service.cli.output import note
from service.settings import load_settings

if TYPE_CHECKING:
    from index.snapshot import Snapshot
    from model.engine import Engine

SKIP_CHECK = "Do not compare every file of the snapshot with its checksum before."
NoVerify = Annotated[bool, typer.Option("--no-verify", help=SKIP_CHECK)]


def publish(
    name: Annotated[str, typer.Argument(help="The snapshot, such as 00000007.")],
    snapshots: options.Snapshots = None,
    no_verify: NoVerify = False,
) -> None:
    """Serve a snapshot that is there.

    What was written to the service after it was built stays on top of it.

    \b
    Example:
      fashionbert index publish 00000007 --snapshots snapshots/
    """
    _serve(options.required(snapshots), name, verify=not no_verify)


def rollback(snapshots: options.Snapshots = None, no_verify: NoVerify = False) -> None:
    """Serve the snapshot again that was served when the current one was published.

    What was written to the service since stays: products that were deleted do not come back.

    \b
    Example:
      fashionbert index rollback --snapshots snapshots/
    """
    from index.snapshot_folder import previous

    root = options.required(snapshots)
    _serve(root, previous(root), verify=not no_verify)


def _serve(root: Path, name: str, *, verify: bool) -> None:
    from index.snapshot import Snapshot
    from index.snapshot_folder import current, make_current

    chosen = Snapshot.open(root, name, verify=verify)
    before = model_of_current(root)
    make_current(root, name)
    note(f"snapshot {current(root)} is current: {len(chosen):,} products")
    note_of_model(chosen.model_id, before)


def note_of_model(model_id: str, before: str | None) -> None:
    """Say that services do not take a snapshot which is of another model than the one before."""
    if before is not None and before != model_id:
        note(
            f"it is of model {model_id}, the one before is of {before}: services stay with "
            "that one until they are restarted with the other bundle"
        )


def model_of_current(root: Path) -> str | None:
    """The model of the current snapshot; None where none can be read."""
    from index.manifest import read_manifest
    from index.snapshot_folder import locate

    try:
        return read_manifest(locate(root)).model_id
    except SnapshotError:
        return None  # that may be why another is published


def prune(
    snapshots: options.Snapshots = None,
    keep: Annotated[
        int,
        typer.Option(
            help="How many stay: the current one, those that `rollback` goes back to, and "
            "the newest others.",
            min=1,
        ),
    ] = 2,
) -> None:
    """Remove old snapshots, but none that is current or being read.

    \b
    Example:
      fashionbert index prune --keep 2 --snapshots snapshots/
    """
    from index.compact import prune_snapshots

    removed, in_use = prune_snapshots(options.required(snapshots), keep)
    note(f"removed: {', '.join(removed) or 'none'}")
    if in_use:
        note(f"left, because a service reads them: {', '.join(in_use)}")


def compact(
    snapshots: options.Snapshots = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the exported model. Needed only for products that were written with "
            "another model than the snapshot's: they are encoded again."
        ),
    ] = None,
    threads: options.Threads = None,
    device: options.Device = None,
) -> None:
    """Fold what was written to the service into a new snapshot and make it the current one.

    Nothing is encoded, and writes go on meanwhile.

    \b
    Example:
      fashionbert index compact --snapshots snapshots/
    """
    from index.compact import compact as fold

    root = options.required(snapshots)
    engine = None
    if bundle is not None:
        from model.bundle import Bundle
        from model.engine import Engine

        settings = load_settings(bundle=bundle, snapshots=root, threads=threads, device=device)
        engine = Engine(Bundle.open(bundle), threads=settings.threads, device=settings.device)
    _tell(fold(root, engine=engine, step=note))


def _tell(made: Snapshot | None) -> None:
    if made is None:
        note("nothing was written since the current snapshot: it stays")
        return
    sizes = made.manifest.sizes
    note(
        f"snapshot {made.name}: {sizes.products:,} products, {sizes.pictures:,} pictures, "
        f"{made.manifest.bytes / 1e6:,.1f} MB, now current"
    )


def fold_in_foreign(root: Path, engine: Engine) -> None:
    """After a build: say what stands on top of it, and encode what another model has encoded."""
    from index.compact import compact as fold
    from index.compact import pending

    waiting = pending(root)
    if not waiting.products:
        return
    if waiting.foreign:
        note(f"{waiting.foreign:,} products that another model has encoded are encoded again")
        _tell(fold(root, engine=engine, step=note))
        return
    note(
        f"{waiting.products:,} products that were written to the service stand on top of it, "
        "whatever the feed says of them (but for --supersede); `fashionbert index compact` folds "
        "them in"
    )
