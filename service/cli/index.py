"""`fashionbert index`: build a snapshot of a catalogue, verify it, describe it.

The commands that change which snapshots there are stand in `service.cli.snapshots`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.errors import CatalogueError, SnapshotError
from service.cli import options
from service.cli import snapshots as snapshot_commands
from service.cli.output import facts, note, out, plain
from service.settings import load_settings

if TYPE_CHECKING:
    from model.product import Catalogue

app = typer.Typer(help="Build the index, change it, look at it.", no_args_is_help=True)

Name = Annotated[
    str | None, typer.Option(help="Which snapshot, such as 00000007; the current one by default.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "--snapshots", help="Folder of the snapshots.", envvar="FASHIONBERT_SNAPSHOTS"
    ),
]


@app.command()
def build(
    feed: options.Feed,
    bundle: options.Bundle = None,
    snapshots: Out = None,
    images: options.Images = None,
    text: options.Text = None,
    id_column: options.IdColumn = "id",
    image_column: options.ImageColumn = "image",
    title_column: options.TitleColumn = "title",
    description_column: options.DescriptionColumn = "description",
    separator: options.Separator = "|",
    list_column: options.ListColumn = None,
    max_bad: options.MaxBad = 0.05,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write the bad rows here (.csv, or else JSON lines), and the pictures that cannot "
            "be decoded beside it, as NAME.pictures.jsonl."
        ),
    ] = None,
    recall: Annotated[
        str, typer.Option(help="auto, exact, hnsw or ivfpq; auto goes by the catalogue's size.")
    ] = "auto",
    batch_size: Annotated[
        int, typer.Option(help="Pictures decoded ahead and encoded together.", min=1)
    ] = 64,
    if_changed: Annotated[
        bool,
        typer.Option(
            "--if-changed",
            help="Keep the current snapshot if this model made it from this very catalogue.",
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="End before anything is encoded if texts are made in another way than in the "
            "current snapshot, an attribute has another type or is gone, or half the products "
            "are. By default that is warned of.",
        ),
    ] = False,
    supersede: Annotated[
        bool,
        typer.Option(
            "--supersede",
            help="The feed has all that was written to the service so far: drop those writes. By "
            "default they are put on top of the feed.",
        ),
    ] = False,
    processes: Annotated[
        int,
        typer.Option(
            help="Processes that encode, with a share of the threads each; with --device cuda, a "
            "GPU each.",
            min=1,
        ),
    ] = 1,
    threads: options.Threads = None,
    device: options.Device = None,
) -> None:
    """Encode a catalogue into a new snapshot and make it the current one.

    A build that was interrupted goes on where it was. What is written to the service while it
    runs stays on top of the new snapshot.

    \b
    Example:
      fashionbert index build feed.csv --bundle bundle/ --out snapshots/
    """
    from index.build import build as build_snapshot
    from index.build import last_written
    from index.snapshot_folder import list_snapshots
    from model.bundle import Bundle
    from model.catalogue import read_catalogue
    from model.engine import offline_engine
    from model.on_disk import put_aside_in

    settings = load_settings(bundle=bundle, snapshots=snapshots, threads=threads, device=device)
    model = Bundle.open(settings.bundle)
    # First of all: the feed does not have what is written while it is read.
    superseded = last_written(settings.snapshots) if supersede else None
    text = text if text is not None else model.manifest.text_template
    columns = options.columns(
        id_column, image_column, title_column, description_column, separator, list_column
    )
    # The pictures are not checked here: the build decodes each of them anyway.
    with (
        put_aside_in(_room_for(settings.snapshots)),
        read_catalogue(
            feed,
            images=images,
            text=text,
            columns=columns,
            max_bad=max_bad,
            report_path=report,
            check_images=False,
        ) as catalogue,
    ):
        note(catalogue.report.summary())
        for line in options.about_columns(catalogue):
            note(str(plain(line)))
        before = _current(settings.snapshots)
        model_before = snapshot_commands.model_of_current(settings.snapshots)
        template = None if text is None else catalogue.text_template
        if before is not None:
            differences = list(
                _differences(settings.snapshots / before, template, catalogue, superseded)
            )
            for line in differences:
                note(str(plain(f"warning: {line}")))
            if strict and differences:
                raise CatalogueError(
                    f"{feed} differs from snapshot {before} as the warnings say, so nothing was "
                    "built: mend the feed or the options, or leave out --strict"
                )
        engine = offline_engine(model, threads=settings.threads, device=settings.device)
        snapshot = build_snapshot(
            catalogue,
            engine,
            settings.snapshots,
            batch_size=batch_size,
            recall=recall,
            max_bad=max_bad,
            text_template=template,
            report_path=None if report is None else report.with_suffix(".pictures.jsonl"),
            if_changed=if_changed,
            supersede=superseded,
            processes=processes,
        )
    manifest = snapshot.manifest
    kept = "unchanged, still" if snapshot.name == before else "now"
    note(
        f"snapshot {snapshot.name}: {manifest.sizes.products:,} products, "
        f"{manifest.sizes.pictures:,} pictures, {manifest.bytes / 1e6:,.1f} MB, {kept} current in "
        f"{settings.snapshots}"
    )
    snapshot_commands.note_of_model(manifest.model_id, model_before)
    newest = list_snapshots(settings.snapshots)[-1]
    if newest > snapshot.name:
        note(
            f"snapshot {newest}, which is of this feed, was rolled back and stays aside; "
            f"`fashionbert index publish {newest}` makes it current"
        )
    if manifest.skipped_pictures:
        note(
            f"left out: {manifest.skipped_pictures:,} pictures that cannot be decoded, "
            f"{manifest.dropped_products:,} products that have no other"
        )
    snapshot_commands.fold_in_foreign(settings.snapshots, engine)


#: Templates that a feed may be read with where none is given.
_PLAIN = frozenset((None, "{title}. {description}", "{title}", "{description}"))


def _differences(
    before: Path, template: str | None, catalogue: Catalogue, superseded: int | None
) -> Iterator[str]:
    """How a build makes other texts and attributes than the snapshot before: by an option that was
    forgotten, perhaps. What a compaction brought into that one stays on top, whatever the feed has.
    """
    from pyarrow import ArrowException

    from index.build import folded_in
    from index.items import others_have, stored_types
    from index.manifest import read_manifest
    from model.attributes import attribute_types

    try:
        manifest, old_types = read_manifest(before), stored_types(before / "items.parquet")
    except (SnapshotError, OSError, ArrowException):  # damaged: the build mends that
        return
    try:
        written = folded_in(before.parent, superseded)
    except SnapshotError:  # the log is damaged, which is told where it is needed
        written = {}
    put = {id: item for id, item in written.items() if item is not None}
    had = manifest.sizes.products
    has = sum(product.id not in written for product in catalogue.products) + len(put)
    if 2 * has < had:
        yield f"there are {has:,} products now, and were {had:,} in {before.name}"
    old_template = manifest.text_template
    if old_template != template and not {old_template, template} <= _PLAIN:
        old, new = (
            repr(one) if one else "title and description" for one in (old_template, template)
        )
        yield f"texts are made of {new} now (--text), those of {before.name} of {old}"
    types = attribute_types(product.attributes for product in catalogue.products)
    for name, old in old_types.items():
        now = types.get(name)
        if now is None:
            with contextlib.suppress(OSError, ArrowException):  # damaged, as above
                if put and not others_have(before / "items.parquet", name, put):
                    continue
            yield f"{name} is in no row of the feed now, and was {old} in {before.name}"
        elif now != old and {now, old} != {"int64", "double"}:
            hint = " (--list-column)" if old == "strings" else ""
            yield (
                f"{name} is {now} now{hint}, and was {old} in {before.name}: filters find others, "
                "and writes of the old type are refused"
            )


def _room_for(root: Path) -> Path | None:
    """Where the snapshots are, or will be, there is room; None where nothing can be written."""
    folders = (root, *root.absolute().parents)
    there = next((folder for folder in folders if os.path.isdir(folder)), None)
    return there if there is not None and os.access(there, os.W_OK | os.X_OK) else None


def _current(root: Path) -> str | None:
    from index.snapshot_folder import current

    with contextlib.suppress(SnapshotError):
        return current(root)
    return None


@app.command()
def verify(snapshots: options.Snapshots = None, name: Name = None) -> None:
    """Compare every file of a snapshot with its checksum, let stored rows find themselves, and
    read the log of writes from end to end.

    \b
    Example:
      fashionbert index verify --snapshots snapshots/
    """
    from index.delta_merge import verify_log
    from index.snapshot import Snapshot

    root = options.required(snapshots)
    snapshot = Snapshot.open(root, name, verify=True)
    out().print(f"snapshot {snapshot.name} is whole: {len(snapshot):,} products")
    folded = snapshot.manifest.folded
    writes, torn = verify_log(root, folded)
    on_top = sum(write.sequence > folded for write in writes)
    out().print(f"the log is whole: {len(writes):,} writes, {on_top:,} on top of the snapshot")
    if torn:
        note(
            f"the last {torn:,} bytes of the log are no whole write: one that is being stored just "
            "now, or that a crash tore before it was answered for, which the next write cuts off; "
            "if neither is so, put the log back from a copy before anything is written"
        )


@app.command()
def info(
    snapshots: options.Snapshots = None,
    name: Name = None,
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON object.")] = False,
) -> None:
    """Say what a snapshot holds and which model made it.

    \b
    Example:
      fashionbert index info --snapshots snapshots/
    """
    from index.info import describe
    from index.snapshot import Snapshot

    described = describe(Snapshot.open(options.required(snapshots), name))
    if as_json:
        typer.echo(json.dumps(described, indent=2, ensure_ascii=False))
        return
    shown = {key: _in_words(value) for key, value in described.items()}
    if described["compacted"]:
        shown["truncated_texts"] = f"at most {shown['truncated_texts']}"
        for key in ("skipped_pictures", "dropped_products"):
            shown[key] = f"{shown[key]}, by the last build"
    out().print(facts(shown))


def _in_words(value: object) -> object:
    match value:
        case dict():
            return ", ".join(f"{name} {one}" for name, one in value.items())
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case _:
            return value


for command in (
    snapshot_commands.publish,
    snapshot_commands.rollback,
    snapshot_commands.prune,
    snapshot_commands.compact,
):
    app.command()(command)
