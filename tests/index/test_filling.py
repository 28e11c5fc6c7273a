"""Chunks on their way into the files of a snapshot."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from index.chunks import EncodedBatch, EncodedChunk
from index.filling import Filling
from index.manifest import Sizes
from index.parts import Parts, Progress, Skipped, SkippedPictures
from model.engine import EncodedImages, EncodedTexts
from model.errors import CatalogueError, SnapshotError
from model.states import quantise

SHAPE = Sizes(0, 0, 0, hidden_size=4, patches=2, recall_size=3)


def chunk(start: int) -> EncodedChunk:
    """Two products with a picture each."""
    random = np.random.default_rng(start)

    def states(length: int) -> np.ndarray:
        return random.normal(size=(2, length, 4)).astype(np.float32)

    embeddings = random.normal(size=(2, 3)).astype(np.float32)
    lengths, cut = np.full(2, 5, dtype=np.int32), np.zeros(2, dtype=np.bool_)
    kept = [start, start + 1]
    images = EncodedImages(quantise(states(2)), embeddings)
    texts = EncodedTexts(quantise(states(5)), lengths, embeddings.copy(), cut)
    batch = EncodedBatch(kept, images, [b"a picture", b"another"])
    skipped = [Skipped(start, f"{start}.jpg", "cut short")]
    return EncodedChunk(start, start + 2, kept, [batch], texts, skipped)


def test_what_is_recorded_would_survive_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[int, int] = {}  # bytes, by the file's number
    recorded: list[int] = []
    fsync, save = os.fsync, Progress.save

    def note(file: int) -> None:
        fsync(file)
        status = os.fstat(file)
        synced[status.st_ino] = status.st_size

    def check(progress: Progress, path: Path) -> None:
        for file in (*sorted((tmp_path / "parts").iterdir()), tmp_path / "skipped"):
            status = file.stat()
            assert synced.get(status.st_ino) == status.st_size, file.name
        save(progress, path)
        recorded.append(progress.position)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Progress, "save", check)
    (tmp_path / "parts").mkdir()
    parts = Parts(tmp_path / "parts", Progress("key"), SHAPE)
    skipped = SkippedPictures(tmp_path / "skipped", parts.progress)
    with Filling(parts, skipped, tmp_path / "record.json", lambda: None) as filling:
        for start in (0, 2, 4):
            filling.add(chunk(start))
    parts.close()
    skipped.close()
    assert recorded == [2, 4, 6]
    assert Progress.load(tmp_path / "record.json", "key") == parts.progress
    assert [each.image for each in skipped] == ["0.jpg", "2.jpg", "4.jpg"]


def test_pictures_skipped_after_the_record_are_cut_off(tmp_path: Path) -> None:
    progress = Progress("key")
    skipped = SkippedPictures(tmp_path / "skipped", progress)
    skipped.add([Skipped(0, "a.jpg", "cut short"), Skipped(1, "\udcff.jpg", "no picture")])
    progress.save(tmp_path / "record.json")
    skipped.add([Skipped(2, "c.jpg", "cut short")])
    skipped.close()
    recorded = Progress.load(tmp_path / "record.json", "key")
    assert recorded is not None
    again = SkippedPictures(tmp_path / "skipped", recorded)
    assert (len(again), again.last) == (2, Skipped(1, "\udcff.jpg", "no picture"))
    again.add([Skipped(3, "d.jpg", "cut short")])
    again.close()
    assert [each.product for each in again] == [0, 1, 3]


def test_half_a_line_is_passed_over(tmp_path: Path) -> None:
    """As a full disk leaves it, of which the report has to tell all the same."""
    skipped = SkippedPictures(tmp_path / "skipped", Progress("key"))
    skipped.add([Skipped(0, "a.jpg", "cut short")])
    skipped.close()
    with (tmp_path / "skipped").open("ab") as file:
        file.write(b'{"product": 1, "im')
    assert list(skipped) == [Skipped(0, "a.jpg", "cut short")]


@pytest.mark.parametrize("found", [b"", b'{"product": 0, "image": "a.jpg', b"[]\n"])
def test_skipped_pictures_that_were_tampered_with_are_refused(tmp_path: Path, found: bytes) -> None:
    progress = Progress("key", skipped=1, skipped_bytes=len(found))
    (tmp_path / "skipped").write_bytes(found)
    with pytest.raises(SnapshotError, match="skipped is damaged"):
        SkippedPictures(tmp_path / "skipped", progress)


def test_a_record_of_another_version_is_none(tmp_path: Path) -> None:
    """Which listed the skipped pictures."""
    (tmp_path / "record.json").write_text('{"key": "key", "position": 256, "skipped": []}')
    assert Progress.load(tmp_path / "record.json", "key") is None


def test_what_is_refused_is_not_recorded(tmp_path: Path) -> None:
    def refuse() -> None:
        raise CatalogueError("too many are bad")

    parts = Parts(tmp_path, Progress("key"), SHAPE)
    skipped = SkippedPictures(tmp_path / "skipped", parts.progress)
    with (
        pytest.raises(CatalogueError, match="too many"),
        Filling(parts, skipped, tmp_path / "record.json", refuse) as filling,
    ):
        filling.add(chunk(0))
    parts.close()
    skipped.close()
    assert (parts.progress.position, parts.progress.pictures) == (0, 0)
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize("part", ["images", "texts"])
def test_embeddings_that_are_no_numbers_are_refused(tmp_path: Path, part: str) -> None:
    """FAISS would take them and lose neighbours."""
    bad = chunk(0)
    encoded = bad.batches[0].encoded if part == "images" else bad.texts
    assert encoded is not None
    encoded.embeddings[1, 2] = np.nan
    parts = Parts(tmp_path, Progress("key"), SHAPE)
    skipped = SkippedPictures(tmp_path / "skipped", parts.progress)
    with (
        pytest.raises(SnapshotError, match="not finite numbers"),
        Filling(parts, skipped, tmp_path / "record.json", lambda: None) as filling,
    ):
        filling.add(bad)
    parts.close()
    skipped.close()
    assert not (tmp_path / "record.json").exists()
