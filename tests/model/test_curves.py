from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from model.curves import draw_curves, new_figure, read_log, smoothed
from model.errors import TrainingError
from model.product import Catalogue
from model.train import Trainer
from model.train_settings import TrainSettings

SETTINGS = TrainSettings(
    preset="tiny",
    epochs=2,
    batch_size=32,
    weighting="adaptive-loss",
    validate_queries=8,
    overrides={
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "image_size": 64,
        "mlm": True,
    },
)


@pytest.fixture(scope="module")
def run(learn: Catalogue, unseen: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, as the trainer leaves it; not to be written to."""
    out = tmp_path_factory.mktemp("curves") / "run"
    Trainer(SETTINGS, learn, unseen, out).run()
    return out


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """Its log in a folder of its own."""
    shutil.copyfile(run / "log.jsonl", tmp_path / "log.jsonl")
    return tmp_path


def step(number: int, match: float = 1.0, **more: Any) -> dict[str, Any]:
    """A line of a step of a run without a recall head."""
    weights = {"match": 0.5, "mlm": 0.5}
    return {"step": number, "match": match, "mlm": 2.0, "weights": weights, **more}


def validation(number: int, rank1: float, **more: Any) -> dict[str, Any]:
    stages = {"recall": {"rank1": 0.0}, "two_stage": {"rank1": 0.0}, "rerank": {"rank1": rank1}}
    ways = {way: {"sampled": stages} for way in ("text_to_image", "image_to_text")}
    return {"step": number, "validation": ways, **more}


def write(folder: Path, *lines: dict[str, Any] | str) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines]
    (folder / "log.jsonl").write_text("".join(texts), encoding="utf-8")
    return folder / "log.jsonl"


def drawn(chart: Axes) -> dict[str, list[tuple[float, float]]]:
    """The named curves of a chart."""
    return {
        str(line.get_label()): list(
            zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True)
        )
        for line in chart.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def picture(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_a_run_is_drawn(copied: Path) -> None:
    assert draw_curves(copied) == copied / "curves.png"
    assert picture(copied / "curves.png").shape == (1000, 1000, 3)
    assert {path.name for path in copied.iterdir()} == {"curves.png", "log.jsonl"}


def test_matplotlibs_global_state_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, step(0))
    code = "import sys, pathlib, model.curves as c; c.draw_curves(pathlib.Path(sys.argv[1]))"
    code += "; sys.exit('matplotlib.pyplot' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root)
    assert ran.returncode == 0
    assert (tmp_path / "curves.png").exists()


def test_the_curves_are_the_figures_of_the_log(copied: Path) -> None:
    lines = [json.loads(text) for text in (copied / "log.jsonl").read_text().splitlines()]
    log = read_log(copied / "log.jsonl")
    losses, weights, accuracy = new_figure(log, "a run").axes
    steps = [line for line in lines if "validation" not in line]
    assert len(steps) == 6
    assert list(drawn(losses)) == list(drawn(weights)) == ["recall", "match", "mlm"]
    for task in ("recall", "match", "mlm"):
        assert drawn(losses)[task] == [(n + 1, line[task]) for n, line in enumerate(steps)]
        expected = [(n + 1, line["weights"][task]) for n, line in enumerate(steps)]
        assert drawn(weights)[task] == expected
    shown = drawn(accuracy)
    assert shown.pop("match accuracy, training") == [
        (n + 1, pytest.approx(100 * line["match_accuracy"])) for n, line in enumerate(steps)
    ]
    chosen = [line for line in lines if "validation" in line and not line.get("final")]
    assert [line["step"] for line in chosen] == [3, 6]
    for way, name in (("text_to_image", "text→image"), ("image_to_text", "image→text")):
        for stage in ("recall", "two_stage"):
            points = shown.pop(f"Rank@1 {name}, {stage.replace('_', ' ')}")
            assert points == [
                (line["step"], line["validation"][way]["sampled"][stage]["rank1"])
                for line in chosen
            ]
    assert shown == {
        "Rank@1 both ways, stacked": [
            (line["step"], line["validation"]["stacked_rank1"]) for line in chosen
        ]
    }


def test_without_a_recall_head_all_is_reranked(tmp_path: Path) -> None:
    log = read_log(write(tmp_path, step(0, match_accuracy=0.5), validation(1, 12.5)))
    shown = drawn(new_figure(log, "").axes[2])
    assert list(shown) == [
        "match accuracy, training",
        "Rank@1 text→image, rerank",
        "Rank@1 image→text, rerank",
    ]
    assert shown["Rank@1 text→image, rerank"] == [(1, 12.5)]


@pytest.mark.parametrize("torn", ['{"step": 2, "mat', '{"step": 2', "\0\0\0", "[2]", '"step"', "7"])
def test_a_torn_last_line_is_passed_over(torn: str, tmp_path: Path) -> None:
    log = read_log(write(tmp_path, step(0), step(1), torn))
    assert [line["step"] for line in log.steps] == [0, 1]
    draw_curves(tmp_path)
    assert picture(tmp_path / "curves.png").size


def test_half_a_character_at_the_end(tmp_path: Path) -> None:
    path = write(tmp_path, step(0))
    with path.open("ab") as file:
        file.write('{"step": 1, "note": "é'.encode()[:-1])
    assert [line["step"] for line in read_log(path).steps] == [0]


def test_what_was_done_again_counts(tmp_path: Path) -> None:
    """It went on from step 2, was killed at 3, and has not yet done 4 a second time."""
    path = write(
        tmp_path,
        *(step(n, match=9.0) for n in (0, 1)),
        validation(2, 20.0),
        *(step(n, match=9.0) for n in (2, 3)),
        validation(4, 40.0),
        step(4, match=9.0),
        '{"step": 5, "ma\n',
        *(step(n, match=1.0) for n in (2, 3)),
    )
    log = read_log(path)
    assert [(line["step"], line["match"]) for line in log.steps] == [
        (0, 9.0),
        (1, 9.0),
        (2, 1.0),
        (3, 1.0),
    ]
    # The validation after two steps stands, that after four is not of this run any more.
    assert [line["step"] for line in log.validations] == [2]
    again = read_log(write(tmp_path, step(0), validation(1, 1.0), validation(1, 2.0)))
    told = [line["validation"]["image_to_text"]["sampled"] for line in again.validations]
    assert [stages["rerank"]["rank1"] for stages in told] == [2.0]


def test_the_final_figures_are_no_point(tmp_path: Path) -> None:
    path = write(tmp_path, step(0), validation(1, 10.0), validation(1, 90.0, final=True))
    (left,) = drawn(new_figure(read_log(path), "").axes[2])["Rank@1 image→text, rerank"]
    assert left == (1, 10.0)


def test_one_step_is_a_point(tmp_path: Path) -> None:
    write(tmp_path, step(0))
    (marked, *_) = (
        line
        for line in new_figure(read_log(tmp_path / "log.jsonl"), "").axes[0].get_lines()
        if line.get_label() == "match"
    )
    assert marked.get_marker() == "o"
    draw_curves(tmp_path)


def test_a_long_run_is_thinned_and_smoothed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write(tmp_path, *(step(n, match=float(m)) for n, m in enumerate(rng.random(10_000))))
    faint, smooth, *_ = new_figure(read_log(tmp_path / "log.jsonl"), "").axes[0].get_lines()
    for line in (faint, smooth):
        assert len(np.asarray(line.get_xdata())) == 2000
    values = np.asarray(smooth.get_ydata(), dtype=np.float64)
    assert values == pytest.approx(0.5, abs=0.15)
    assert np.std(values) < 0.1 < np.std(np.asarray(faint.get_ydata(), dtype=np.float64))
    draw_curves(tmp_path)


@pytest.mark.parametrize("name", ["r$x_$", "$", "$$\\frac$", "a_b^c"])
def test_a_folder_of_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    write(tmp_path / name, step(0))
    assert picture(draw_curves(tmp_path / name)).size
    log = read_log(tmp_path / name / "log.jsonl")
    assert new_figure(log, name).axes[0].get_title() == name


def test_smoothing_by_hand() -> None:
    assert smoothed(np.arange(99.0)).tolist() == list(range(99))
    ramp = smoothed(np.arange(100.0))  # each with its two neighbours
    assert ramp.tolist() == pytest.approx([0.5, *range(1, 99), 98.5])


def test_it_is_replaced_in_one_go(tmp_path: Path) -> None:
    write(tmp_path, step(0), step(1))
    before = picture(draw_curves(tmp_path))
    write(tmp_path, step(0), step(1), step(2, match=5.0))
    after = picture(draw_curves(tmp_path))
    assert not np.array_equal(before, after)
    assert {path.name for path in tmp_path.iterdir()} == {"curves.png", "log.jsonl"}


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"log\.jsonl cannot be read .*give the folder of a"):
        draw_curves(tmp_path)
    write(tmp_path, "")
    with pytest.raises(TrainingError, match=r"log\.jsonl holds no step yet"):
        draw_curves(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl"}


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    write(tmp_path, step(0))
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(TrainingError, match=r"curves\.png cannot be written .*: make room"):
        draw_curves(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"curves.png", "log.jsonl"}
