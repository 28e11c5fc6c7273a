"""Several processes that encode a catalogue together, each with an engine of its own.

They take the chunks in turn and the build gets the results in the catalogue's order, so the
snapshot is the one that a single process makes. A process is given a few chunks at a time and waits
until what it made is taken: what is in memory does not grow with the catalogue.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self

from index.chunks import Chunk, EncodedChunk, encode_chunks
from model.bundle import Bundle
from model.engine import Engine, offline_engine
from model.errors import FashionBertError, SnapshotError
from model.on_disk import chosen_folder, put_aside_in
from model.pictures import DirectoryPictures, Pictures, TarPictures, open_pictures
from model.preprocess import ImageLimits
from model.processor import cores

#: Chunks that a process is given before the first is done: it has up to two batches ahead
#: (`encode_chunks`), which may be the next chunks', and waits for them.
_AHEAD = 3
_END_SECONDS = 10
_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, slots=True)
class _Task:
    """What a process must know. `reopen` opens `pictures`, of a tar with a file in `aside`; `gpu`
    is its `CUDA_VISIBLE_DEVICES`."""

    bundle: Path
    reopen: Callable[[Path], Pictures]
    pictures: Path
    threads: int
    decoders: int
    device: str
    gpu: str | None
    batch_size: int
    limits: ImageLimits
    aside: Path | None


@dataclass(frozen=True, slots=True)
class _Failure:
    """What went wrong in a process; `expected` if it is a sentence for the user."""

    message: str
    expected: bool


class EncodingProcesses:
    """Processes that run from entering a `with` block to leaving it.

    Args:
        engine: what each process makes one like, with its share of the threads. On GPUs each has a
            device of its own.
        pictures: opened again in each process.
        count: how many.
        batch_size: as of `encode_chunks`.
        limits: likewise.

    Raises:
        SnapshotError: there are fewer GPUs.
    """

    def __init__(
        self,
        engine: Engine,
        pictures: Pictures,
        count: int,
        *,
        batch_size: int,
        limits: ImageLimits,
    ) -> None:
        gpus = visible_gpus(count) if engine.device == "cuda" else [None] * count
        # A feed that holds its pictures has a class of its own, which no other needs to import.
        beside = isinstance(pictures, DirectoryPictures | TarPictures)
        reopen = open_pictures if beside else type(pictures)
        self._tasks = [
            _Task(
                bundle=engine.bundle.path.resolve(),
                reopen=reopen,
                pictures=pictures.path.resolve(),
                threads=max(1, engine.threads // count),
                decoders=max(1, cores() // count),
                device=engine.device,
                gpu=gpu,
                batch_size=batch_size,
                limits=limits,
                aside=chosen_folder(),
            )
            for gpu in gpus
        ]
        self._processes: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> Self:
        # Not forked: a fork has the locks of threads that it does not have.
        context = multiprocessing.get_context("spawn")
        try:
            for number, task in enumerate(self._tasks):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work, args=(theirs, task), name=f"encode-{number}", daemon=True
                )
                process.start()
                theirs.close()  # so that the end of the process is the end of the pipe
                self._processes.append((process, ours))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        for process, connection in self._processes:
            connection.close()
            process.terminate()
        for process, _ in self._processes:
            process.join(_END_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        self._processes.clear()

    def encode(self, chunks: Iterable[Chunk]) -> Generator[EncodedChunk, None, None]:
        """What the processes make of the chunks, in the chunks' order.

        Raises:
            SnapshotError: a process failed or was ended; it names the products.
            RuntimeError: a process failed for a reason that no user can mend; with its traceback.
        """
        source = iter(chunks)
        waiting: deque[tuple[int, Chunk]] = deque()
        count = len(self._processes)
        for turn in range(_AHEAD * count):
            self._give(turn % count, source, waiting)
        while waiting:
            number, chunk = waiting.popleft()
            encoded = self._take(number, chunk)
            self._give(number, source, waiting)
            yield encoded

    def _give(
        self, number: int, source: Iterator[Chunk], waiting: deque[tuple[int, Chunk]]
    ) -> None:
        """Give a process the next chunk, or say that there are no more."""
        chunk = next(source, None)
        # One that has ended is found when its result is taken.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._processes[number][1].send(chunk)
        if chunk is not None:
            waiting.append((number, chunk))

    def _take(self, number: int, chunk: Chunk) -> EncodedChunk:
        process, connection = self._processes[number]
        of = f"the products {chunk.ids[0]!r} to {chunk.ids[-1]!r}"
        try:
            outcome = connection.recv()
        except (EOFError, OSError):  # the latter in the middle of a result
            process.join(_END_SECONDS)
            raise SnapshotError(
                f"the process that encoded {of} was ended, with the exit code {process.exitcode}; "
                "-9 is mostly the want of memory. What is done is kept: start the build again, "
                "with fewer --processes"
            ) from None
        if isinstance(outcome, _Failure):
            told = f"encoding {of} failed: {outcome.message}"
            raise SnapshotError(told) if outcome.expected else RuntimeError(told)
        assert isinstance(outcome, EncodedChunk)
        return outcome


def visible_gpus(count: int, listed: Path = _GPUS) -> list[str | None]:
    """`CUDA_VISIBLE_DEVICES` of each of so many processes: one of one's own, or the first ones.

    Args:
        count: of the processes.
        listed: where NVIDIA's driver has an entry for each GPU; without it they are not counted.

    Raises:
        SnapshotError: there are fewer.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices: list[str | None]
    if visible is not None:
        devices = [one for each in visible.split(",") if (one := each.strip())]
        where = f"CUDA_VISIBLE_DEVICES={visible}"
    else:
        there = len(list(listed.iterdir())) if listed.is_dir() else count
        devices = [str(number) for number in range(there)]
        where = "this machine"
    if len(devices) < count:
        raise SnapshotError(
            f"--processes {count}, but {where} has {len(devices)}: on GPUs each process needs a "
            "device of its own"
        )
    return devices[:count]


def _work(connection: Connection, task: _Task) -> None:
    """What a process does: chunks in, encoded chunks out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the build ends it
    if task.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.gpu
    chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
    # By a thread: the build must never wait to give while this waits for it to take.
    threading.Thread(target=_receive, args=(connection, chunks), daemon=True).start()
    try:
        bundle = Bundle.open(task.bundle, verify=False)
        engine = offline_engine(bundle, threads=task.threads, device=task.device)
        with put_aside_in(task.aside), task.reopen(task.pictures) as pictures:
            for encoded in encode_chunks(
                engine,
                pictures,
                iter(chunks.get, None),
                batch_size=task.batch_size,
                limits=task.limits,
                threads=task.decoders,
            ):
                connection.send(encoded)
    except (BrokenPipeError, ConnectionResetError):
        return  # the build has ended
    except Exception as error:
        expected = isinstance(error, FashionBertError)
        message = str(error) if expected else "".join(traceback.format_exception(error))
        with suppress(OSError):
            connection.send(_Failure(message, expected))


def _receive(connection: Connection, chunks: queue.SimpleQueue[Chunk | None]) -> None:
    try:
        while (chunk := connection.recv()) is not None:
            chunks.put(chunk)
    except (EOFError, OSError):
        os._exit(1)  # the build has ended: nobody takes what would be encoded
    chunks.put(None)
