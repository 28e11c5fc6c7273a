"""Encoded chunks on their way into the files, while the model is at the next."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from index.chunks import EncodedChunk
from index.parts import Parts, SkippedPictures


class Filling:
    """Appends chunks to a snapshot's files and records each, in a thread of its own.

    `add` returns once the chunk before is on the disk, so one chunk is written at a time and no
    other waits in memory. Leaving the `with` block waits for the last one.

    Args:
        parts: the files; its progress is kept up to date.
        skipped: takes the pictures that are left out.
        record: where the progress is saved after every chunk.
        check: called when it is known which pictures of a chunk are left out; may refuse to go on.
    """

    def __init__(
        self, parts: Parts, skipped: SkippedPictures, record: Path, check: Callable[[], None]
    ) -> None:
        self._parts = parts
        self._skipped = skipped
        self._record = record
        self._check = check
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._pending: Future[None] | None = None

    def add(self, chunk: EncodedChunk) -> None:
        """Write a chunk, which must follow the one before.

        Raises:
            OSError: the one before could not be written.
            FashionBertError: `check` refused it, or the model gave what cannot be searched.
        """
        self._wait()
        self._pending = self._thread.submit(self._write, chunk)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, chunk: EncodedChunk) -> None:
        parts, progress = self._parts, self._parts.progress
        self._skipped.add(chunk.skipped)
        self._check()
        rows = {position: progress.products + at for at, position in enumerate(chunk.kept)}
        for batch in chunk.batches:
            parts.add_images([rows[one] for one in batch.products], batch.encoded, batch.served)
        if chunk.texts is not None:
            parts.add_texts(chunk.texts)
        parts.sync()
        self._skipped.sync()
        progress.position = chunk.stop
        progress.save(self._record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._thread.shutdown()
