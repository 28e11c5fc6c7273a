from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from index.delta_log import LogReader, LogWriter
from index.delta_records import Delete
from index.encoding import encode_drafts
from index.live_index import LiveIndex
from index.snapshot import Snapshot
from model.bundle import Bundle
from model.engine import EncodedTexts, Engine
from model.errors import FashionBertError, SnapshotError, WriteError
from service.errors import QueryError
from service.products import ProductFields, draft
from service.writes import Removal, Writer, Written


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 80), colour).save(buffer, "PNG")
    return buffer.getvalue()


def product(id: str, title: str, colour: str | None = None) -> ProductFields:
    """One with a picture of a colour, or with those that it has."""
    pictures = None if colour is None else (picture(colour),)
    return ProductFields(id, title, None, f"{title}.", {}, pictures)


@pytest.fixture
def writer(engine: Engine, root: Path) -> Iterator[Writer]:
    with LiveIndex.open(root, engine=engine) as live:
        yield Writer(engine, live)


@pytest.fixture
def other(engine: Engine, root: Path) -> Iterator[Writer]:
    """Of another process, as far as the folder can tell."""
    with LiveIndex.open(root, engine=engine) as live:
        yield Writer(engine, live)


def until_waiting(root: Path) -> None:
    """Until two of this process have the lock's file open: one has it, the other wants it."""
    lock = os.path.realpath(root / "delta" / ".lock")
    deadline = time.monotonic() + 60
    while True:
        numbers = os.listdir("/proc/self/fd")
        if [os.path.realpath(f"/proc/self/fd/{each}") for each in numbers].count(lock) == 2:
            return
        assert time.monotonic() < deadline
        time.sleep(0.001)


def batch_meanwhile(
    writer: Writer, meanwhile: Callable[[LogWriter], None], *operations: ProductFields | Removal
) -> list[Written | FashionBertError]:
    """A batch that is encoded, and waits for the log; before it gets that, something happens."""
    outcomes: list[Written | FashionBertError] = []
    with LogWriter(writer.index.root) as log:
        thread = threading.Thread(target=lambda: outcomes.extend(writer.batch(operations)))
        thread.start()
        until_waiting(writer.index.root)
        meanwhile(log)
    thread.join()
    return outcomes


def test_pictures_cannot_be_kept_of_what_was_deleted_meanwhile(
    writer: Writer, root: Path, snapshot: Snapshot
) -> None:
    gone, there, _ = snapshot.ids[:3]

    def delete(log: LogWriter) -> None:
        log.append(LogReader(root, 0), [Delete(gone)])

    refused, replaced, put = batch_meanwhile(
        writer,
        delete,
        product(gone, "cheaper"),
        product(there, "cheaper too"),
        product("new", "new", "red"),
    )
    assert isinstance(refused, QueryError)
    assert "needs at least one picture" in str(refused)
    assert isinstance(replaced, Written)
    assert isinstance(put, Written)
    assert (replaced.outcome, put.outcome) == ("replaced", "created")
    latest = writer.index.latest
    with pytest.raises(KeyError):
        latest.row_of(gone)
    assert latest.item(latest.row_of(there)).title == "cheaper too"
    assert latest.sequence == 3


def test_outcomes_count_what_others_wrote_meanwhile(
    writer: Writer, engine: Engine, root: Path, snapshot: Snapshot
) -> None:
    gone = snapshot.ids[0]
    theirs = draft(
        product("a", "theirs", "green"), writer.index.latest, engine.image_size, writer.limits
    )

    def write(log: LogWriter) -> None:
        log.append(LogReader(root, 0), [*encode_drafts(engine, [theirs]), Delete(gone)])

    operations = (product("a", "ours", "red"), Removal(gone), product(gone, "again", "red"))
    outcomes = batch_meanwhile(writer, write, *operations)
    assert [one.outcome for one in outcomes if isinstance(one, Written)] == [
        "replaced",
        "absent",
        "created",
    ]


def test_pictures_that_came_meanwhile_are_those_that_are_kept(
    writer: Writer, engine: Engine, root: Path, snapshot: Snapshot
) -> None:
    id = snapshot.ids[4]
    theirs = draft(
        product(id, "theirs", "green"), writer.index.latest, engine.image_size, writer.limits
    )
    records = encode_drafts(engine, [theirs])

    def replace(log: LogWriter) -> None:
        log.append(LogReader(root, 0), records)

    (written,) = batch_meanwhile(writer, replace, product(id, "ours"))
    assert isinstance(written, Written)
    assert written.outcome == "replaced"
    latest = writer.index.latest
    assert latest.sequence == 2
    row = latest.row_of(id)
    assert latest.item(row).title == "ours"
    assert [latest.image(each)[0] for each in latest.image_rows(row)] == [picture("green")]


def test_pictures_may_be_kept_of_what_another_process_has_just_written(
    writer: Writer, other: Writer
) -> None:
    other.put(product("new", "theirs", "green"))
    assert writer.put(product("new", "ours")).outcome == "replaced"
    latest = writer.index.latest
    row = latest.row_of("new")
    assert latest.item(row).title == "ours"
    assert [latest.image(each)[0] for each in latest.image_rows(row)] == [picture("green")]


def test_other_writes_do_not_matter(writer: Writer, root: Path, snapshot: Snapshot) -> None:
    id, gone = snapshot.ids[5:7]

    def delete(log: LogWriter) -> None:
        log.append(LogReader(root, 0), [Delete(gone)])

    (written,) = batch_meanwhile(writer, delete, product(id, "cheaper"))
    assert isinstance(written, Written)
    assert written.version == f"{snapshot.name}+2"


class Contended(Engine):
    """The model; while it encodes a text, someone else writes."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def encode_texts(self, texts: list[str]) -> EncodedTexts:  # type: ignore[override]
        encoded = super().encode_texts(texts)
        self.meanwhile()
        return encoded


def test_a_product_that_others_keep_writing_to(
    bundle: Bundle, other: Writer, root: Path, snapshot: Snapshot
) -> None:
    id = snapshot.ids[8]
    engine = Contended(bundle, threads=1)
    engine.meanwhile = lambda: other.put(product(id, "theirs", "red"))
    with LiveIndex.open(root, engine=engine) as live:
        writer = Writer(engine, live)
        with pytest.raises(WriteError, match="other writes") as caught:
            writer.put(product(id, "ours"))
        assert caught.value.code == "write_busy"
        latest = live.latest
        assert latest.item(latest.row_of(id)).title == "theirs"
        others = latest.sequence
        assert writer.put(product(id, "ours", "blue")).outcome == "replaced"  # it keeps nothing
        assert live.latest.sequence == others + 2
        assert live.latest.item(live.latest.row_of(id)).title == "ours"


class Broken(Engine):
    """The model, of an export that went wrong: what it says of a text is no number."""

    def encode_texts(self, texts: list[str]) -> EncodedTexts:  # type: ignore[override]
        encoded = super().encode_texts(texts)
        encoded.embeddings[:] = float("nan")
        return encoded


def test_what_no_snapshot_may_hold_is_not_stored(bundle: Bundle, root: Path) -> None:
    """Each later compaction would refuse it."""
    engine = Broken(bundle, threads=1)
    with LiveIndex.open(root, engine=engine) as live:
        before = live.latest.name
        with pytest.raises(SnapshotError, match="not finite numbers"):
            Writer(engine, live).put(product("a", "A dress", "red"))
        assert live.catch_up().name == before
