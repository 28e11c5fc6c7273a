"""`curves.png`: how a run goes, drawn from its log.

Three charts over the steps done: the tasks' losses, the tasks' weights, and what gets better, that
is the match accuracy of the training batches and Rank@1 of the products to choose by. Drawn with
matplotlib's objects alone: nothing of its global state, the backend above all, is touched.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.errors import TrainingError
from model.files import write_atomically

CURVES = "curves.png"

#: Points of a curve at most: more are no finer on paper, and slow to draw.
_POINTS = 2000
_COLOURS = {
    "recall": "tab:blue",
    "match": "tab:orange",
    "mlm": "tab:green",
    "mpm": "tab:red",
    "alignment": "tab:cyan",
    "distillation": "tab:olive",
    "text_to_image": "tab:purple",
    "image_to_text": "tab:brown",
}
_WAYS = {"text_to_image": "text→image", "image_to_text": "image→text"}
_STAGES = {"recall": ":", "two_stage": "-", "rerank": "-"}


@dataclass(frozen=True, slots=True)
class RunLog:
    """What a run logged: `steps`, a line a training step, and `validations`, each in order."""

    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]


def read_log(path: Path) -> RunLog:
    """Read a log.jsonl, as far as it is whole.

    A line that is cut short, as the last one after a crash, is passed over. Where a run went on
    from a checkpoint before its last line, what it did again counts and what it had done does not.
    The figures of the best checkpoint, logged at the very end (`final`), are of no step's network
    and are left out.

    Raises:
        TrainingError: the file cannot be read.
    """
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise TrainingError(f"{path} cannot be read ({error}): give the folder of a run") from error
    log = RunLog([], [])
    for text in texts:
        try:
            line = json.loads(text)
            step = int(line["step"])
        except (ValueError, TypeError, KeyError):
            continue
        if line.get("final"):
            continue
        if "validation" in line:
            _drop_from(log.validations, step)
            log.validations.append(line)
        elif "weights" in line:
            # A step is numbered from 0, a validation by the steps done before it.
            _drop_from(log.steps, step)
            _drop_from(log.validations, step + 1)
            log.steps.append(line)
    return log


def _drop_from(lines: list[dict[str, Any]], step: int) -> None:
    while lines and lines[-1]["step"] >= step:
        lines.pop()


def draw_curves(run: Path) -> Path:
    """Draw a run's log.jsonl into its curves.png, which is replaced in one go.

    Returns:
        The picture's path.

    Raises:
        TrainingError: there is no log, no step in it, or the picture cannot be written.
    """
    log = read_log(run / "log.jsonl")
    if not log.steps:
        raise TrainingError(f"{run / 'log.jsonl'} holds no step yet: there is nothing to draw")
    path = run / CURVES
    try:
        write_atomically(path, _as_png(new_figure(log, run.name)))
    except OSError as error:
        raise TrainingError(f"{path} cannot be written ({error}): make room") from error
    return path


def new_figure(log: RunLog, title: str) -> Figure:
    """The three charts of a log with at least one step."""
    figure = Figure(figsize=(10, 10), dpi=100, layout="constrained")
    charts = figure.subplots(3, 1, sharex=True)
    losses, weights, accuracy = charts
    tasks = list(dict.fromkeys(task for line in log.steps for task in line["weights"]))
    for task in tasks:
        colour = _COLOURS.get(task, "tab:gray")
        _draw_steps(losses, log, [line.get(task) for line in log.steps], task, colour)
        _draw_steps(weights, log, [line["weights"].get(task) for line in log.steps], task, colour)
    shares = [line.get("match_accuracy") for line in log.steps]
    percent = [None if share is None else 100 * share for share in shares]
    _draw_steps(accuracy, log, percent, "match accuracy, training", "0.35")
    _draw_validations(accuracy, log.validations)
    losses.set_title(title, parse_math=False)  # it is a folder's name, dollars and all
    losses.set(ylabel="loss")
    weights.set(ylabel="weight in the loss")
    weights.set_ylim(bottom=0)
    accuracy.set(xlabel="steps", ylabel="%", ylim=(0, 100))
    for chart in charts:
        chart.grid(alpha=0.3)
        if chart.get_lines():
            chart.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _as_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi="figure")
    return buffer.getvalue()


def _draw_steps(
    chart: Axes, log: RunLog, values: Sequence[float | None], label: str, colour: str
) -> None:
    """A figure of every step, None where a step has none: as it was, faint, and smoothed."""
    pairs = zip(log.steps, values, strict=True)
    points = [(line["step"] + 1, value) for line, value in pairs if value is not None]
    if not points:
        return
    steps, raw = np.array(points, dtype=np.float64).T
    thin = slice(None, None, -(-len(steps) // _POINTS))
    chart.plot(steps[thin], raw[thin], color=colour, alpha=0.2, linewidth=0.8)
    # A run of one step is a point, which no line shows.
    marker = "o" if len(steps) == 1 else ""
    chart.plot(steps[thin], smoothed(raw)[thin], color=colour, marker=marker, label=label)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A moving average over a fiftieth of the values, [N] → [N]; narrower at both ends."""
    half = len(values) // 100
    if half == 0:
        return values
    window = np.ones(2 * half + 1)
    sums = np.convolve(values, window, mode="same")
    counts = np.convolve(np.ones_like(values), window, mode="same")
    return np.asarray(sums / counts, dtype=np.float64)


def _draw_validations(chart: Axes, validations: Sequence[dict[str, Any]]) -> None:
    """Sampled Rank@1, a curve a direction and stage, and what the best state is chosen by."""
    curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
    chosen = []
    for line in validations:
        step, figures = line["step"], line["validation"]
        for way in _WAYS:
            for stage, found in _stages(figures.get(way, {}).get("sampled", {})).items():
                curves.setdefault((way, stage), []).append((step, found["rank1"]))
        if "stacked_rank1" in figures:
            chosen.append((step, figures["stacked_rank1"]))
    for (way, stage), points in curves.items():
        label = f"Rank@1 {_WAYS[way]}, {stage.replace('_', ' ')}"
        chart.plot(
            *zip(*points, strict=True),
            color=_COLOURS[way],
            linestyle=_STAGES[stage],
            marker="o",
            markersize=3,
            label=label,
        )
    if chosen:
        label = "Rank@1 both ways, stacked"
        chart.plot(*zip(*chosen, strict=True), color="black", marker="D", markersize=3, label=label)


def _stages(sampled: dict[str, Any]) -> dict[str, Any]:
    """The stages that mean something: without a recall head only everything reranked does."""
    if "rerank" in sampled:
        return {"rerank": sampled["rerank"]}
    return {stage: figures for stage, figures in sampled.items() if stage in _STAGES}
