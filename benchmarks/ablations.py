"""What each part of the model is worth: one short run a variant, on one feed, compared on another.

    python -m benchmarks.ablations train.csv val.csv --text "{title}" --group-by group --out runs/

Started again it goes on where it was; a variant that is through is not run again. The table at the
end is what docs/EXPERIMENTS.md has, and stands in OUT/ablations.json. The same command runs on a
GPU, where more `--epochs` and `--seeds` make sense.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from model.catalogue import read_catalogue
from model.errors import FashionBertError, TrainingError
from model.files import write_json
from model.product import Catalogue
from model.train import Trainer
from model.train_settings import preset_settings

WAYS = ("text_to_image", "image_to_text")

#: Of the network and of the run, in all variants: frozen features, so that a step is cheap.
_NETWORK: dict[str, Any] = {"freeze_cnn": True, "alignment_size": 0}
_RUN: dict[str, Any] = {
    "batch_size": 64,
    "learning_rate": 2e-4,
    "head_learning_rate": 1e-3,
    "weighting": "equal",
    "joint_share": 1.0,
    "keep_maps": False,
    "negatives": 1,
}
#: The paper: one network from the first layer, its three tasks, random 1:1 negatives.
_PAPER: dict[str, Any] = {
    "joint_from": 0,
    "recall_size": 0,
    "stack_recall": False,
    "mlm": True,
    "mpm": True,
}
_RANDOM: dict[str, Any] = {
    "hard_from": 1.0,
    "hard_until": 1.0,
    "same_group": 0.0,
    "rank_loss": False,
}
_HARD: dict[str, Any] = {"negatives": 3}
_ALIGNED: dict[str, Any] = {"alignment_size": 128}
_END_TO_END: dict[str, Any] = {"freeze_cnn": False, "frozen_cnn_stages": 3}
#: Every layer joint, beside a recall head; recall and alignment stack on a k above 0 only.
_JOINT: dict[str, Any] = {"joint_from": 0, "stack_recall": False}
_TEACHER = "k = 0, with recall, + hard negatives"
_DEEP = "+ alignment, k = 2"

#: Variant → changes of the network and of the run; each builds on what the one above found. A
#: `teacher` is another variant, whose checkpoint of the same seed it is. Folders go by number: new
#: variants come last.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "paper, equal weights": (_PAPER, _RANDOM),
    "paper, adaptive by losses": (_PAPER, {**_RANDOM, "weighting": "adaptive-loss"}),
    "paper, adaptive by gradients": (_PAPER, {**_RANDOM, "weighting": "adaptive-gradient"}),
    "paper without MPM": ({**_PAPER, "mpm": False}, _RANDOM),
    "k = 3, with recall": ({}, _RANDOM),
    "+ hard negatives": ({}, _HARD),
    "+ alignment": (_ALIGNED, _HARD),
    "+ CNN's last stage trained": ({**_ALIGNED, **_END_TO_END}, {**_HARD, "keep_maps": True}),
    _DEEP: ({**_ALIGNED, "joint_from": 2}, _HARD),
    "+ alignment, k = 4": ({**_ALIGNED, "joint_from": 4}, _HARD),
    "+ alignment, without MLM": ({**_ALIGNED, "mlm": False}, _HARD),
    _TEACHER: (_JOINT, _HARD),
    "+ alignment, k = 3, distilled from k = 0": (_ALIGNED, {**_HARD, "teacher": _TEACHER}),
    "+ CNN's last stage trained, no mirror images": (
        {**_ALIGNED, **_END_TO_END},
        {**_HARD, "keep_maps": True, "mirror": False},
    ),
    "+ alignment, without the rank loss": (_ALIGNED, {**_HARD, "rank_loss": False}),
    # From pixels, as maps cannot be shifted.
    "+ CNN's last stage trained, shifts": (
        {**_ALIGNED, **_END_TO_END},
        {**_HARD, "mirror": False},
    ),
    "+ CNN's last stage trained, shifts and mirror images": (
        {**_ALIGNED, **_END_TO_END},
        _HARD,
    ),
    "+ alignment, random negatives": (_ALIGNED, _RANDOM),
    # A deep one, of four joint layers, into two.
    "+ alignment, k = 4, distilled from k = 2": (
        {**_ALIGNED, "joint_from": 4},
        {**_HARD, "teacher": _DEEP},
    ),
}


def folder_of(name: str, seed: int, out: Path) -> Path:
    """The folder of a variant's run."""
    return out / f"variant-{list(VARIANTS).index(name):02d}-seed-{seed}"


def teacher_of(name: str, seed: int, out: Path) -> Path | None:
    """The checkpoint that a variant is distilled from; None where it is from none.

    Raises:
        TrainingError: the teacher's run is not through.
    """
    teacher = VARIANTS[name][1].get("teacher")
    if teacher is None:
        return None
    folder = folder_of(teacher, seed, out)
    if not (folder / "result.json").exists():
        raise TrainingError(
            f"{name!r} is distilled from {teacher!r}, whose run of seed {seed} is not through "
            f"(no {folder / 'result.json'}): run that first, --only {list(VARIANTS).index(teacher)}"
        )
    return folder / "best"


def run(
    name: str, learn: Catalogue, choose: Catalogue, seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Train one variant, or read what came of it: figures by stage and way, and its seconds."""
    out = folder_of(name, seed, arguments.out)
    result = out / "result.json"
    if result.exists():
        return dict(json.loads(result.read_text(encoding="utf-8")))
    network, changes = VARIANTS[name]
    if teacher := teacher_of(name, seed, arguments.out):
        changes = {**changes, "teacher": str(teacher)}
    settings = preset_settings(
        "small",
        text_backbone=arguments.text_backbone,
        cnn=arguments.cnn,
        epochs=arguments.epochs,
        group_by=arguments.group_by,
        seed=seed,
        validate_every=arguments.epochs,  # the last state counts, so that all get the same
        validate_queries=arguments.queries,
        overrides={**_NETWORK, **network},
        **{**_RUN, **changes},
    )
    start = time.perf_counter()
    with Trainer(
        settings, learn, choose, out, cache=arguments.out / "cache", show_progress=True
    ) as trainer:
        best = trainer.run()
    figures = json.loads((best / "training.json").read_text(encoding="utf-8"))["figures"]
    found = {
        "variant": name,
        "seed": seed,
        "seconds": round(time.perf_counter() - start),
        "matching": figures.get("matching"),
        **{way: figures[way]["sampled"] for way in WAYS},
    }
    write_json(result, found)
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: sampled Rank@1 text → image / image → text of each stage, and the match's AUC."""
    lines = [
        "| variant | seed | recall | two stages | rerank of all 101 | AUC | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results:
        cells = []
        for stage in ("recall", "two_stage", "rerank"):
            ranks = [one[way][stage]["rank1"] for way in WAYS if stage in one[way]]
            cells.append(" / ".join(f"{rank:.1f}" for rank in ranks) or "–")
        auc = one["matching"]["auc"] if one["matching"] else "–"
        minutes = round(one["seconds"] / 60)
        lines.append(
            f"| {one['variant']} | {one['seed']} | {' | '.join(cells)} | {auc} | {minutes} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description=__doc__)
    parser.add_argument("feed", type=Path)
    parser.add_argument("valid", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=Path, default=None)
    parser.add_argument("--text", default=None)
    parser.add_argument("--group-by", default=None)
    parser.add_argument("--text-backbone", default=None)
    parser.add_argument("--cnn", default=None)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--only", nargs="*", default=None, help="numbers of variants, from 0")
    arguments = parser.parse_args()
    learn = read_catalogue(arguments.feed, images=arguments.images, text=arguments.text)
    choose = read_catalogue(arguments.valid, images=arguments.images, text=arguments.text)
    results = []
    for seed in range(arguments.seeds):
        for number, name in enumerate(VARIANTS):
            if arguments.only is None or str(number) in arguments.only:
                try:
                    results.append(run(name, learn, choose, seed, arguments))
                except FashionBertError as error:
                    raise SystemExit(f"{name}: {error}") from error
                write_json(arguments.out / "ablations.json", {"results": results})
                print(table(results), flush=True)


if __name__ == "__main__":
    main()
