"""What a build shows on standard error: bars with rate and time left."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """Products a second, over the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(
            "" if speed is None else f"{speed:,.1f} products/s", style="progress.data.speed"
        )


class BuildProgress:
    """A bar for the encoding, then a line for each step after it. A context manager."""

    def __init__(self, *, enabled: bool) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._task: TaskID | None = None

    def start_encoding(self, products: int, done: int) -> None:
        """Show the bar; `done` products are an earlier run's and do not count as fast."""
        what = "Encoding" if not done else f"Encoding, going on at product {done:,}"
        self._task = self._bars.add_task(what, total=products, completed=done)

    def advance_to(self, product: int) -> None:
        """So many products are done."""
        if self._task is not None:
            self._bars.update(self._task, completed=product)

    def start_step(self, description: str) -> None:
        """Say what is being done after the encoding."""
        if not self._bars.disable:
            self._bars.console.print(description)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()
