"""The catalogue as it changes: the current snapshot, the writes on top of it, and how to add one.

Every process that serves a folder has one of these. They learn of each other by looking at the
folder: `CURRENT`, and the end of the log. A search takes a version and keeps it to its end, so
that it sees that one wholly.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from index.delta import Delta
from index.delta_log import LogReader, LogWriter, Write
from index.delta_records import Delete, Put
from index.encoding import of_model
from index.live import LiveSnapshot
from index.recall_device import RecallDevice
from index.snapshot import Snapshot
from index.snapshot_folder import current, hold
from index.write_checks import check_model, check_room, check_unchanged
from model.engine import Engine
from model.errors import SnapshotError, WriteError

#: Products that may differ from the snapshot before it has to be compacted.
DELTA_LIMIT = 20_000
#: Writes of another model that are encoded again when the catalogue is opened.
ENCODE_AGAIN_LIMIT = 1_000

_RETRY_SECONDS = 30.0
_CLOSE_SECONDS = 5.0  # a watcher may be opening a snapshot, which may take minutes

_logger = logging.getLogger("fashionbert.delta")


class LiveIndex:
    """The newest version of a catalogue, and the way to write to it.

    `latest` may be read at any time from any thread. Get one from `open`.
    """

    def __init__(
        self,
        root: Path,
        *,
        engine: Engine | None,
        verify: bool,
        limit: int,
        encode_again_limit: int,
        recall_device: RecallDevice,
    ) -> None:
        self.root = root
        self.limit = limit
        self._engine = engine
        self._verify = verify
        self._encode_again_limit = encode_again_limit
        self._recall_device: RecallDevice = recall_device
        # Held to read on in the log, and never while another lock is waited for: who writes takes
        # the log's own first, of which there is one for all threads and processes.
        self._lock = threading.RLock()
        self._opening = threading.Lock()  # held to open another snapshot, which may take long
        self._stop = threading.Event()
        self._watchers: list[threading.Thread] = []
        self._snapshot_problem: str | None = None
        self._log_problem: str | None = None
        self._failed: str | None = None  # a snapshot that could not be opened
        self._retry_at = 0.0
        self._unread: list[Write] = []  # read from the log, and not in `latest` yet
        self._reader, self._latest = self._with_writes(self._open(current(root)))

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        engine: Engine | None = None,
        verify: bool = False,
        limit: int = DELTA_LIMIT,
        encode_again_limit: int = ENCODE_AGAIN_LIMIT,
        recall_device: RecallDevice = "cpu",
    ) -> LiveIndex:
        """Open the current snapshot and read the writes that came after it.

        Args:
            root: the folder of all snapshots.
            engine: the model, for writes that another one has encoded; a snapshot of another one is
                refused, now and later. Without one any is taken.
            verify: compare every file of a snapshot with its checksum before it is used.
            limit: products that may differ from the snapshot.
            encode_again_limit: so many writes of another model at most are encoded again.
            recall_device: where snapshots are searched.

        Raises:
            FashionBertError: FAISS cannot use that device.
            SnapshotError: the snapshot or the log is missing, damaged, or of another model.
        """
        return cls(
            root,
            engine=engine,
            verify=verify,
            limit=limit,
            encode_again_limit=encode_again_limit,
            recall_device=recall_device,
        )

    @property
    def latest(self) -> LiveSnapshot:
        """The newest version that this process knows."""
        return self._latest

    @property
    def sequence(self) -> int:
        """The number of the last write that the log has."""
        return self._reader.sequence

    @property
    def problem(self) -> str | None:
        """Why `latest` is behind the folder, None if it is not: the last good one stays."""
        return self._snapshot_problem or self._log_problem

    def refresh(self) -> bool:
        """Look for a new snapshot and for new writes; whether `latest` is a new one.

        What cannot be read is logged and named in `problem`, and `latest` stays as it is. While
        a snapshot is opened, which may take minutes, writes and other threads go on with the old.
        """
        before = self._latest
        self._look_for_snapshot()
        self.catch_up()
        return self._latest is not before

    def _look_for_snapshot(self) -> None:
        """The first half of `refresh`; nothing where another thread is at it."""
        if self._opening.acquire(blocking=False):
            try:
                self._snapshot_problem = self._tried(self._switch, self._snapshot_problem)
            except Exception as error:  # mostly there is too little memory for two snapshots
                self._snapshot_problem = f"the current snapshot cannot be opened: {error!r}"
                raise
            finally:
                self._opening.release()

    def catch_up(self) -> LiveSnapshot:
        """Read the writes that have come to the log; returns the version with them.

        What cannot be read is named in `problem`, as of `refresh`.
        """
        with self._lock:
            self._log_problem = self._tried(self._read_on, self._log_problem)
            return self._latest

    def _tried(self, step: Callable[[], str | None], before: str | None) -> str | None:
        """The problem that a step has or meets; it is logged unless it was there before."""
        try:
            return step()
        except (SnapshotError, OSError) as error:
            if str(error) != before:
                _logger.error("the catalogue stays at %s: %s", self._latest.name, error)
            return str(error)

    def _switch(self) -> str | None:
        """Go over to the current snapshot, if it is another than the one that is served."""
        name = current(self.root)
        if name == self._latest.base.name:
            self._failed = None
            return None
        if name == self._failed and time.monotonic() < self._retry_at:
            return self._snapshot_problem  # not at every look, as it may take minutes
        self._failed, self._retry_at = name, time.monotonic() + _RETRY_SECONDS
        base = self._open(name)
        reader, snapshot = self._with_writes(base)
        with self._lock:
            rest = reader.read()  # what was written while all that was opened and read
            self._show(
                reader, LiveSnapshot(base, snapshot.delta.apply(base, self._of_model(rest, base)))
            )
            self._unread = []
        self._failed = None
        _logger.info("snapshot %s is served now", self._latest.name)
        return None

    def _read_on(self) -> None:
        try:
            self._reader.read_into(self._unread)
        finally:  # what comes before the damage is shown, and the damage told
            self._show_unread()

    def _show_unread(self) -> None:
        if self._unread:
            base, delta = self._latest.base, self._latest.delta
            delta = delta.apply(base, self._of_model(self._unread, base))
            self._unread = []
            self._show(self._reader, LiveSnapshot(base, delta))

    def _show(self, reader: LogReader, snapshot: LiveSnapshot) -> None:
        self._reader, self._latest = reader, snapshot

    def _open(self, name: str) -> Snapshot:
        base = Snapshot.open(
            self.root,
            name,
            model_id=None if self._engine is None else self._engine.model_id,
            verify=self._verify,
            recall_device=self._recall_device,
        )
        weakref.finalize(base, os.close, hold(base.path))
        return base

    def _with_writes(self, base: Snapshot) -> tuple[LogReader, LiveSnapshot]:
        reader = LogReader(self.root, base.manifest.folded)
        delta = Delta.empty(base, base.manifest.folded)
        return reader, LiveSnapshot(base, delta.apply(base, self._of_model(reader.read(), base)))

    def _of_model(self, writes: list[Write], base: Snapshot) -> list[Write]:
        """The writes, encoded again where another model has encoded them."""
        return of_model(writes, base, self._engine, self._encode_again_limit)

    def exchange(
        self,
        records: Sequence[Put | Delete],
        *,
        unchanged: Collection[str] = (),
        since: LiveSnapshot | None = None,
    ) -> tuple[LiveSnapshot, LiveSnapshot]:
        """Add writes to the log, all or none; when this returns they are durable and in `latest`.

        A new snapshot is not looked for here, as opening one may take minutes.

        Args:
            records: the puts of this catalogue's model.
            unchanged: products of which the records keep something, and which must therefore still
                be what they were in `since`.
            since: the version that the records were made from; without one nothing is looked at.

        Returns:
            The version right before them, in which all writes of others stand, and the one with
            them.

        Raises:
            ChangedError: some products of `unchanged` are not; nothing was written.
            WriteError: too much differs from the snapshot already (`delta_full`), others are
                writing for too long (`write_busy`), or it cannot be stored (`write_failed`): the
                disk fails, or the log is damaged.
        """
        if not records:
            return self._latest, self._latest
        with LogWriter(self.root) as log:
            before = self._newest()
            check_model(records, before)
            check_room(records, before, self.limit)
            if since is not None:
                check_unchanged(unchanged, since, before)
            log.append(self._reader, records)
            return before, self._newest()

    def _newest(self) -> LiveSnapshot:
        """The version with all that the log has; WriteError if that cannot be read."""
        with self._lock:
            latest = self.catch_up()
            if self._log_problem is not None:
                raise WriteError(
                    f"the log of writes cannot be read: {self._log_problem}",
                    public="the log of writes cannot be read: whoever runs the service must see to "
                    "it; then send it again",
                )
            return latest

    def rotate(self) -> LiveSnapshot:
        """Begin a new file of the log after all writes so far; returns the version with these."""
        self.refresh()
        with LogWriter(self.root) as log:
            latest = self.catch_up()
            if self.problem is not None:
                raise SnapshotError(self.problem)
            log.rotate(self._reader)
            return latest

    def watch(self, interval: float = 0.5) -> None:
        """Refresh every `interval` seconds, until `close`.

        Snapshots and writes are looked for in a thread each: the writes go on while a snapshot is
        opened, and are to be found meanwhile.
        """
        if self._watchers:
            return
        stop = self._stop = threading.Event()  # its own: an older thread may still be opening

        def follow(look: Callable[[], object]) -> None:
            while not stop.wait(interval):
                try:
                    look()
                except Exception:  # the thread must not end: nobody would notice
                    _logger.exception("the snapshots' folder cannot be followed")

        self._watchers = [
            threading.Thread(target=follow, args=(look,), name=name, daemon=True)
            for name, look in (
                ("watch-snapshots", self._look_for_snapshot),
                ("watch-writes", self.catch_up),
            )
        ]
        for watcher in self._watchers:
            watcher.start()

    def close(self) -> None:
        """End the watching. What `latest` gave stays readable.

        A snapshot that is just being opened is waited for a few seconds; the thread ends after it.
        """
        self._stop.set()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for watcher in self._watchers:
            watcher.join(max(0.0, deadline - time.monotonic()))
        self._watchers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
