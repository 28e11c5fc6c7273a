from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from index.build import build, last_written
from index.compact import _rule, compact, prune_snapshots
from index.delta_frames import FOLDER, list_segments
from index.delta_log import LogReader, LogWriter
from index.delta_records import Delete, Put
from index.encoding import Draft, encode_drafts
from index.images import prepare_image
from index.items import Item
from index.live import LiveSnapshot
from index.live_index import LiveIndex
from index.manifest import write_manifest
from index.recall_rules import Rule
from index.snapshot import Snapshot
from index.snapshot_folder import current, list_snapshots, locked, make_current, previous
from model.bundle import Bundle
from model.engine import Engine
from model.errors import SnapshotError
from model.product import Catalogue

MakePut = Callable[..., Put]
Crash = Callable[..., None]


def contents(snapshot: LiveSnapshot) -> dict[str, tuple[object, ...]]:
    """All that a snapshot says of each product, by id."""
    found = {}
    for item in snapshot.items:
        row = snapshot.row_of(item.id)
        pictures = list(snapshot.image_rows(row))
        found[item.id] = (
            item,
            snapshot.text_states([row]).values.tobytes(),
            snapshot.text_states([row]).scales.tobytes(),
            snapshot.text_embeddings([row]).tobytes(),
            snapshot.image_states(pictures).values.tobytes(),
            snapshot.image_embeddings(pictures).tobytes(),
            [snapshot.image(picture) for picture in pictures],
        )
    assert len(found) == len(snapshot)
    return found


def opened(root: Path) -> dict[str, tuple[object, ...]]:
    return contents(LiveIndex.open(root).latest)


def write_some(root: Path, snapshot: Snapshot, make_put: MakePut) -> None:
    with LiveIndex.open(root) as live:
        live.exchange([make_put("a", views=2), Delete(snapshot.ids[0]), make_put("b")])
        live.exchange([make_put(snapshot.ids[1], 1), Delete("b"), Delete("nobody")])


def test_a_compacted_snapshot_is_the_view(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    write_some(own_root, snapshot, make_put)
    follower = LiveIndex.open(own_root)
    before = contents(follower.latest)
    steps: list[str] = []
    made = compact(own_root, chunk=7, step=steps.append)
    assert made is not None
    assert (made.name, current(own_root)) == ("00000002", "00000002")
    assert made.manifest.folded == 6
    assert made.manifest.text_template == snapshot.manifest.text_template
    assert steps[-1] == "Publishing snapshot 00000002"
    Snapshot.open(own_root, verify=True)
    assert follower.refresh()
    assert follower.latest.name == "00000002"
    assert len(follower.latest.delta) == 0
    assert contents(follower.latest) == before == opened(own_root)
    assert compact(own_root) is None
    # What was written stays on top of the snapshots before, too.
    make_current(own_root, previous(own_root))
    assert opened(own_root) == before
    assert follower.refresh()
    assert (follower.latest.name, contents(follower.latest)) == ("00000001+6", before)


def test_writes_go_on_meanwhile_and_after(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    write_some(own_root, snapshot, make_put)
    live = LiveIndex.open(own_root)

    def write_meanwhile(step: str) -> None:
        if step.startswith(("Copying", "Publishing")):
            live.exchange([make_put(step[:4]), Delete(snapshot.ids[5]), make_put("a", 5)])

    compact(own_root, step=write_meanwhile)
    live.exchange([make_put("after"), Delete("Copy")])
    assert live.refresh()
    before = contents(live.latest)
    assert live.latest.base.name == "00000002"
    assert {"Publ", "after", "a"} <= set(before)
    assert not {"Copy", snapshot.ids[5], snapshot.ids[0], "b"} & set(before)
    assert opened(own_root) == before
    compact(own_root)
    assert opened(own_root) == before


CODE = """
import sys
from pathlib import Path
from index.compact import compact
compact(Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    "point",
    [
        "compact-copied",
        "publish-synced",
        "publish-renamed",
        "publish-current",
        "merge-written",
        "merge-replaced",
        "merge-unlinked",
    ],
)
def test_a_compaction_may_be_killed(
    own_root: Path, snapshot: Snapshot, make_put: MakePut, crash: Crash, point: str
) -> None:
    write_some(own_root, snapshot, make_put)
    with LiveIndex.open(own_root) as live:
        live.rotate()
        live.exchange([make_put("a", 7)])
        before = contents(live.latest)
        crash(point, CODE, own_root)
        live.refresh()
        assert contents(live.latest) == before == opened(own_root)
        Snapshot.open(own_root, verify=True)
        latest = live.exchange([make_put("later")])[1]
        compact(own_root)
        assert contents(latest) == opened(own_root)
    assert not [path for path in own_root.iterdir() if path.name.startswith(".compacting")]


def test_a_build_leaves_the_writes_on_top(
    own_root: Path, catalogue: Catalogue, engine: Engine, snapshot: Snapshot, make_put: MakePut
) -> None:
    write_some(own_root, snapshot, make_put)
    before = opened(own_root)
    # In chunks as `root` was built: the states come out the same to the bit.
    build(catalogue, engine, own_root, progress=False, chunk=16)
    assert current(own_root) == "00000002"
    assert opened(own_root) == before
    # Also those that were folded in and whose snapshot is gone.
    compact(own_root)
    assert prune_snapshots(own_root, keep=1) == (["00000001", "00000002"], [])
    build(catalogue, engine, own_root, progress=False, chunk=16)
    assert current(own_root) == "00000004"
    assert opened(own_root) == before


def test_a_build_may_supersede_the_writes_before_it(
    own_root: Path, catalogue: Catalogue, engine: Engine, snapshot: Snapshot, make_put: MakePut
) -> None:
    write_some(own_root, snapshot, make_put)
    live = LiveIndex.open(own_root)
    written = last_written(own_root)
    live.exchange([make_put("later")])  # while the feed is read
    made = build(catalogue, engine, own_root, progress=False, supersede=written)
    assert made.manifest.superseded == written == 6
    assert not made.manifest.compacted
    live.refresh()
    assert live.latest.name == "00000002+7"
    assert set(contents(live.latest)) == {*snapshot.ids, "later"}
    kept = build(catalogue, engine, own_root, progress=False, if_changed=True)
    assert kept.name == "00000002"
    prune_snapshots(own_root, keep=1)  # the writes from before go with the snapshot before
    assert [write.sequence for write in LogReader(own_root, 6).read()] == [7]
    written = last_written(own_root)
    again = build(catalogue, engine, own_root, progress=False, if_changed=True, supersede=written)
    assert (again.name, set(opened(own_root))) == ("00000003", set(snapshot.ids))


def test_what_a_build_superseded_does_not_come_back_after_a_compaction(
    own_root: Path, catalogue: Catalogue, engine: Engine, snapshot: Snapshot, make_put: MakePut
) -> None:
    write_some(own_root, snapshot, make_put)
    build(catalogue, engine, own_root, progress=False, supersede=last_written(own_root))
    with LiveIndex.open(own_root) as live:
        live.exchange([make_put("later")])
    compact(own_root)
    build(catalogue, engine, own_root, progress=False)
    assert set(opened(own_root)) == {*snapshot.ids, "later"}


def test_what_was_left_out_of_the_feed_is_still_told_after_a_compaction(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    left_out = {"truncated_texts": 2, "skipped_pictures": 5, "dropped_products": 3}
    write_manifest(own_root / snapshot.name, replace(snapshot.manifest, **left_out))
    with LiveIndex.open(own_root) as live:
        live.exchange([replace(make_put("a"), truncated=True), make_put("b")])
    made = compact(own_root)
    assert made is not None
    told = asdict(made.manifest)
    assert {name: told[name] for name in left_out} == {**left_out, "truncated_texts": 3}
    # One that was too long may have been replaced since, and no picture was looked at.
    assert (snapshot.manifest.compacted, made.manifest.compacted) == (False, True)


def test_recall_is_as_its_user_chose_it(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    chosen: dict[str, Rule] = {"image": "hnsw", "text": "exact"}
    write_manifest(own_root / snapshot.name, replace(snapshot.manifest, recall=chosen))
    with LiveIndex.open(own_root) as live:
        live.exchange([make_put("a")])
    made = compact(own_root)
    assert made is not None
    assert made.manifest.recall == chosen


@pytest.mark.parametrize(
    ("old", "had", "has", "new"),
    [
        ("exact", 150_000, 250_000, "ivfpq"),  # what `auto` says of so many
        ("ivfpq", 250_000, 150_000, "exact"),
        ("exact", 250_000, 260_000, "exact"),  # chosen
        ("ivfpq", 20_000, 10_000, "ivfpq"),
        ("ivfpq", 20_000, 9_999, "exact"),  # too few to learn it from
        ("hnsw", 100, 1_000_000, "hnsw"),
    ],
)
def test_recall_fits_the_number(old: Rule, had: int, has: int, new: Rule) -> None:
    assert _rule(old, had, has) == new


def test_beside_a_damaged_log_no_snapshot_is_removed(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    write_some(own_root, snapshot, make_put)
    compact(own_root)
    live = LiveIndex.open(own_root)
    for name in ("a", "b"):
        live.exchange([make_put(name)])
    log = list_segments(own_root / FOLDER)[-1]
    with log.open("r+b") as file:
        file.seek(60)
        file.write(b"!!!!")
    with pytest.raises(SnapshotError, match=r"damaged"):
        prune_snapshots(own_root, keep=1)
    assert list_snapshots(own_root) == ["00000001", "00000002"]


BUILD = """
import sys
from pathlib import Path
from index.build import build, last_written
from index.delta_records import Delete
from index.live_index import LiveIndex
from model.bundle import Bundle
from model.catalogue import read_catalogue
from model.engine import Engine
root, feed, bundle = map(Path, sys.argv[1:])
with read_catalogue(feed) as catalogue:
    engine = Engine(Bundle.open(bundle), threads=1)
    build(catalogue, engine, root, progress=False, supersede=last_written(root))
"""


@pytest.mark.parametrize("point", ["publish-synced", "publish-renamed", "publish-current"])
def test_a_build_may_be_killed(
    own_root: Path,
    demo_catalogue: Path,
    bundle: Bundle,
    snapshot: Snapshot,
    make_put: MakePut,
    crash: Crash,
    point: str,
) -> None:
    write_some(own_root, snapshot, make_put)
    before = opened(own_root)
    crash(point, BUILD, own_root, demo_catalogue / "train.csv", bundle.path)
    after = opened(own_root)
    assert after == before if point != "publish-current" else set(after) == set(snapshot.ids)


def test_writes_of_another_model_are_folded_in(
    own_root: Path, catalogue: Catalogue, engine: Engine, other_bundle: Bundle, snapshot: Snapshot
) -> None:
    prepared = (prepare_image(snapshot.image(3)[0], engine.image_size),)
    item = Item("a", "A hat", "A hat", ("sha256:0",), {})
    with LiveIndex.open(own_root) as live:
        live.exchange(encode_drafts(engine, [Draft(item, prepared)]))
    other = Engine(other_bundle, threads=1)
    build(catalogue, other, own_root, progress=False)
    with pytest.raises(SnapshotError, match="--bundle"):
        compact(own_root)
    assert compact(own_root, engine=other) is not None
    latest = LiveIndex.open(own_root).latest
    (put,) = encode_drafts(other, [Draft(item, prepared)])
    row = latest.row_of("a")
    np.testing.assert_array_equal(latest.text_states([row]).values, put.text_states.values)
    with pytest.raises(SnapshotError, match="made by model"):
        compact(own_root, engine=engine)


def test_what_cannot_be_compacted(own_root: Path, snapshot: Snapshot) -> None:
    with LiveIndex.open(own_root) as live:
        live.exchange([Delete(id) for id in snapshot.ids])
    with pytest.raises(SnapshotError, match="every product of the catalogue was deleted"):
        compact(own_root)
    with (
        locked(own_root),
        pytest.raises(SnapshotError, match="another build, compaction or pruning is running"),
    ):
        compact(own_root)
    assert current(own_root) == snapshot.name


def test_where_nothing_was_published_nothing_is_made(tmp_path: Path) -> None:
    for attempt in (lambda: compact(tmp_path), lambda: prune_snapshots(tmp_path, keep=1)):
        with pytest.raises(SnapshotError, match="make one with `fashionbert index build`"):
            attempt()
        assert list(tmp_path.iterdir()) == []


def test_a_rollback_meanwhile_is_not_undone(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    write_some(own_root, snapshot, make_put)
    compact(own_root)
    with LiveIndex.open(own_root) as live:
        live.exchange([make_put("c")])

    def roll_back(step: str) -> None:
        if step == "Writing the items":
            make_current(own_root, "00000001")

    with pytest.raises(SnapshotError, match="00000001 was published meanwhile"):
        compact(own_root, step=roll_back)
    assert current(own_root) == "00000001"
    assert "c" in opened(own_root)
    assert list_snapshots(own_root) == ["00000001", "00000002"]
    assert not list(own_root.glob(".compacting-*"))
    with LiveIndex.open(own_root) as live:
        live.exchange([make_put("d")])
    compact(own_root)
    assert (current(own_root), previous(own_root)) == ("00000003", "00000001")


def test_pruning(own_root: Path, make_put: MakePut) -> None:
    for number in range(3):
        with LiveIndex.open(own_root) as live:
            live.exchange([make_put("a", number)])
        compact(own_root)
    del live
    before = opened(own_root)
    (own_root / ".compacting-1").mkdir()
    held = LiveIndex.open(own_root)
    make_current(own_root, "00000002")
    with pytest.raises(SnapshotError, match="1 or more"):
        prune_snapshots(own_root, keep=0)
    # The current one stays although it is old, and the one that is read.
    assert prune_snapshots(own_root, keep=1) == (["00000001", "00000003"], ["00000004"])
    assert list_snapshots(own_root) == ["00000002", "00000004"]
    assert contents(held.latest) == before == opened(own_root)
    assert not (own_root / ".compacting-1").exists()
    assert prune_snapshots(own_root, keep=5) == ([], [])
    with pytest.raises(SnapshotError, match="no snapshot before 00000002"):
        previous(own_root)


def test_a_rollback_during_a_pruning_waits_for_it(
    own_root: Path, make_put: MakePut, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LiveIndex.open(own_root) as live:
        live.exchange([make_put("a")])
    del live  # it holds the snapshot
    compact(own_root)
    refused: list[SnapshotError] = []

    def roll_back() -> None:
        try:
            make_current(own_root, "00000001")
        except SnapshotError as error:
            refused.append(error)

    other = threading.Thread(target=roll_back)

    def begin_rollback(path: Path) -> bool:
        other.start()
        other.join(0.3)
        return False

    monkeypatch.setattr("index.snapshot_folder._in_use", begin_rollback)
    assert prune_snapshots(own_root, keep=1) == (["00000001"], [])
    other.join()
    assert ["no snapshot '00000001'" in str(error) for error in refused] == [True]
    assert "a" in opened(own_root)


def test_a_pruning_may_be_killed(own_root: Path, make_put: MakePut, crash: Crash) -> None:
    with LiveIndex.open(own_root) as live:
        live.exchange([make_put("a")])
    del live  # it holds the snapshot
    compact(own_root)
    before = opened(own_root)
    code = "import sys; from pathlib import Path; from index.compact import prune_snapshots\n"
    crash("prune-renamed", code + "prune_snapshots(Path(sys.argv[1]), 1)", own_root)
    assert list_snapshots(own_root) == ["00000002"]
    assert prune_snapshots(own_root, keep=1) == ([], [])
    assert not list(own_root.glob(".removing-*"))
    assert opened(own_root) == before


def test_the_log_does_not_grow_with_every_price(own_root: Path, make_put: MakePut) -> None:
    sizes = []
    for _ in range(3):
        with LiveIndex.open(own_root) as live:
            for seed in range(10):
                live.exchange([make_put("a", seed)])
        compact(own_root)
        sizes.append(sum(path.stat().st_size for path in list_segments(own_root / "delta")))
    assert sizes[0] == sizes[1] == sizes[2]


def test_a_log_that_went_missing(own_root: Path, snapshot: Snapshot, make_put: MakePut) -> None:
    write_some(own_root, snapshot, make_put)
    compact(own_root)
    shutil.rmtree(own_root / "delta")
    with LiveIndex.open(own_root) as live:
        assert live.latest.name == "00000002"
        live.exchange([make_put("z")])
        assert live.latest.name == "00000002+7"
    make_current(own_root, "00000001")
    with pytest.raises(SnapshotError, match="begins at write 7"):
        LiveIndex.open(own_root)


def test_compacting_needs_a_log_that_can_be_written(own_root: Path) -> None:
    (own_root / "delta").mkdir()
    with LogWriter(own_root):
        pass
    assert compact(own_root) is None
