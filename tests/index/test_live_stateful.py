"""Random writes, compactions, rollbacks, prunings and restarts against a plain dictionary."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from index.compact import compact, prune_snapshots
from index.delta_records import Delete, Put
from index.live import LiveSnapshot
from index.live_index import LiveIndex
from index.snapshot import Snapshot
from index.snapshot_folder import current, list_snapshots, make_current

MakePut = Callable[..., Put]

_SEEDS = st.integers(0, 3)


def test_a_catalogue_is_what_was_written_to_it(
    root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    ids = st.sampled_from([*snapshot.ids[:4], "a", "b", "c"])
    writes = st.one_of(
        st.builds(Delete, ids),
        st.builds(lambda id, seed, views: make_put(id, seed, views=views), ids, _SEEDS, st.just(2)),
        st.builds(make_put, ids, _SEEDS),
    )

    class Catalogue(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            self.folder = Path(tempfile.mkdtemp())
            self.root = Path(shutil.copytree(root, self.folder / "snapshots"))
            self.one = LiveIndex.open(self.root)
            self.other = LiveIndex.open(self.root)
            self.titles = {item.id: item.title for item in snapshot.items}

        @rule(batch=st.lists(writes, min_size=1, max_size=4), by_other=st.booleans())
        def write(self, batch: list[Put | Delete], by_other: bool) -> None:
            (self.other if by_other else self.one).exchange(batch)
            for record in batch:
                if isinstance(record, Delete):
                    self.titles.pop(record.id, None)
                else:
                    self.titles[record.id] = record.item.title

        @rule()
        def compact(self) -> None:
            compact(self.root, chunk=40)

        @rule(data=st.data())
        def publish(self, data: st.DataObject) -> None:
            make_current(self.root, data.draw(st.sampled_from(list_snapshots(self.root))))

        @rule(keep=st.integers(1, 2))
        def prune(self, keep: int) -> None:
            prune_snapshots(self.root, keep)

        @rule()
        def restart(self) -> None:
            self.one = LiveIndex.open(self.root, verify=True)

        @rule()
        def crash_while_writing(self) -> None:
            log = max((self.root / "delta").glob("*.log"), default=None)
            if log is not None:
                with log.open("ab") as file:
                    file.write(b"FBD1 torn")

        @precondition(lambda self: hasattr(self, "root"))
        @invariant()
        def both_show_what_was_written(self) -> None:
            for live in (self.one, self.other):
                live.refresh()
                assert live.problem is None
                assert live.latest.base.name == current(self.root)
                _check(live.latest, self.titles)

        def teardown(self) -> None:
            if hasattr(self, "folder"):
                shutil.rmtree(self.folder)

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Catalogue,
        settings=settings(
            max_examples=12,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def _check(snapshot: LiveSnapshot, titles: dict[str, str]) -> None:
    assert {item.id: item.title for item in snapshot.items} == titles
    assert len(snapshot) == len(titles)
    vector = snapshot.text_embeddings([0])[0]
    rows, _ = snapshot.search_texts(vector, snapshot.rows)
    there = sorted(snapshot.row_of(id) for id in titles)
    assert sorted(rows.tolist()) == there
    images, similarities = snapshot.search_images(vector, len(snapshot.product_of_image))
    assert sorted({*snapshot.product_of_image[images].tolist()}) == there
    assert len(set(images.tolist())) == len(images)
    assert (np.diff(similarities) <= 0).all()
    for row in rows[:3].tolist():
        assert len(snapshot.image_states(snapshot.image_rows(row))) == snapshot.item(row).views
