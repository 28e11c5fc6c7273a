"""A model card, made of what was measured, the bundle's manifest, and what a person has to say.

Every figure in it comes from the JSON of `fashionbert evaluate --json`. The data, the recipe, the
limits and the licences are a Markdown text, which is put in as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from model.bundle import FILES, Bundle
from model.errors import FashionBertError
from model.files import write_atomically, write_json

CARD = "README.md"
#: Beside the card, in the bundle's folder: the figures it was made of.
FIGURES = "figures.json"

WAYS = {"text_to_image": "text → image", "image_to_text": "image → text"}
PROTOCOLS = ("sampled", "full")
STAGES = {"recall": "recall alone", "two_stage": "two stages", "rerank": "rerank of all"}
#: What two evaluations must have been asked alike to be compared.
_ASKED = ("queries", "products", "candidates", "group_by")
#: Likewise, where both say it: older ones do not.
_DRAWN = ("seed", "feed_fingerprint")
_KEPT = ("precision", *_ASKED, *_DRAWN, *WAYS, "matching")

Row = tuple[str, ...]


def read_evaluation(path: Path, model_id: str | None = None) -> dict[str, Any]:
    """One catalogue's figures, as `fashionbert evaluate --json` left them.

    Args:
        path: the JSON file.
        model_id: the model that must have been evaluated; None takes any.

    Raises:
        FashionBertError: it cannot be read, is no evaluation, or one of another model.
    """
    try:
        found = json.loads(path.read_bytes())
        list(_rows(found)), list(_gains(found))  # all that the card will want of it is there
        if not all(found[way]["sampled"] for way in WAYS):
            raise ValueError("nothing was ranked")
        _asked(found), _matching(found), [_served(found[way]) for way in WAYS]
    except OSError as error:
        raise _wrong(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _wrong(
            f"{path} is no evaluation ({error!r}): write one with `fashionbert evaluate --json`"
        ) from error
    if model_id is not None and found.get("model_id") != model_id:
        raise _wrong(
            f"{path} is of {found.get('model_id') or 'no bundle'}, and the bundle is {model_id}: "
            "evaluate that one"
        )
    return {name: found[name] for name in _KEPT if name in found}


def write_card(
    bundle: Bundle,
    catalogues: Mapping[str, Path],
    references: Mapping[str, Path],
    notes: Path | None = None,
) -> Path:
    """Write `README.md`, and `figures.json` with what it was made of, into a bundle's folder.

    Args:
        bundle: what the card is about.
        catalogues: name to the evaluation of this bundle on it.
        references: name to the evaluation of the fp32 model on it, for some of the catalogues.
        notes: Markdown to put in after the figures.

    Returns:
        The card's path.

    Raises:
        FashionBertError: an evaluation or the notes cannot be used; nothing is written then.
    """
    figures = {name: read_evaluation(path, bundle.model_id) for name, path in catalogues.items()}
    compared = {name: read_evaluation(path) for name, path in references.items()}
    for name, reference in compared.items():
        if name not in figures:
            raise _wrong(f"{references[name]} is of {name!r}, of which there is no evaluation")
        if (precision := reference.get("precision")) != "fp32":
            raise _wrong(
                f"{references[name]} is of a model in {precision or 'no precision that it says'}, "
                "and what is served is compared with fp32: evaluate the fp32 bundle"
            )
        both = [*_ASKED, *(drawn for drawn in _DRAWN if drawn in reference.keys() & figures[name])]
        if any(reference.get(asked) != figures[name].get(asked) for asked in both):
            raise _wrong(
                f"{references[name]} and {catalogues[name]} do not ask the same: evaluate both "
                "on one feed with the same options"
            )
    try:
        said = "" if notes is None else notes.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(f"{notes} cannot be read: {error}") from error
    card = render_card(bundle, figures, compared, said)
    kept = {"model_id": bundle.model_id, "catalogues": figures, "fp32": compared}
    write_json(bundle.path / FIGURES, kept)
    write_atomically(bundle.path / CARD, card.encode())
    return bundle.path / CARD


def _wrong(message: str) -> FashionBertError:
    return FashionBertError(message, code="card")


def render_card(
    bundle: Bundle,
    figures: Mapping[str, dict[str, Any]],
    references: Mapping[str, dict[str, Any]],
    notes: str = "",
) -> str:
    """The card as Markdown.

    Args:
        bundle: what it is about.
        figures: catalogue to its evaluation.
        references: catalogue to the fp32 model's evaluation.
        notes: put in after the figures.
    """
    parts = [
        f"# FashionBERT `{bundle.path.resolve().name}`",
        _table(("", ""), _facts(bundle)),
        "## Figures",
        _PROTOCOL,
    ]
    for name, found in figures.items():
        parts += [
            f"### {name}",
            _asked(found),
            _table(
                ("", "among", "stage", "Rank@1", "Rank@5", "Rank@10", "mean rank"), _rows(found)
            ),
        ]
        if gains := list(_gains(found)):
            parts += [
                "Points of Rank@1 by which two stages stand above, query by query:",
                _table(("", "among", "recall alone", "rerank of all"), gains),
            ]
        if matching := _matching(found):
            parts.append(matching)
    if references:
        parts += [
            f"## What {bundle.manifest.precision} costs",
            "Rank@1 of what is served, sampled, and the points by which it differs from fp32:",
            _table(
                ("catalogue", "", "fp32", bundle.manifest.precision, "difference"),
                _losses(figures, references),
            ),
        ]
    return "\n\n".join([*parts, notes] if notes else parts) + "\n"


_PROTOCOL = (
    "On products that training never saw, in percent, with 95 % bootstrap intervals. Sampled: the "
    "right one among others, of the same sub-category as far as there are so many. Full: among all "
    "products. Products with the identical text are never each other's negatives. Two stages is "
    "what a search serves: recall, then a rerank of its first candidates."
)


def _asked(found: dict[str, Any]) -> str:
    told = f"{found['queries']:,} queries each way over {found['products']:,} held-out products"
    if (group_by := found.get("group_by")) is not None:
        told += f", negatives of the same `{group_by}`"
    if (candidates := found.get("candidates")) is not None:
        told += f", {candidates} candidates reranked"
    return f"{told}."


def _matching(found: dict[str, Any]) -> str | None:
    if not (matching := found.get("matching")):
        return None
    return (
        f"A pair told from a mismatch: accuracy {_share(matching, 'accuracy')} %, AUC "
        f"{_share(matching, 'auc')} %."
    )


def _facts(bundle: Bundle) -> Iterator[Row]:
    manifest = bundle.manifest
    sizes = {name: (bundle.path / name).stat().st_size / 1e6 for name in FILES}
    yield "model", f"`{manifest.model_id}`"
    yield "precision", manifest.precision
    yield "size", f"{sum(sizes.values()):.1f} MB"
    if (layers := manifest.config.get("num_hidden_layers")) is not None:
        yield (
            "transformer",
            f"{layers} layers, {manifest.hidden_size} wide: {manifest.joint_from} over one "
            f"modality alone, then {layers - manifest.joint_from} over text and picture together",
        )
    yield "text", f"at most {manifest.max_text_tokens} tokens"
    if manifest.text_template is not None:
        yield "trained on", f"`{manifest.text_template}`"
    yield "picture", f"{manifest.image_size} pixels a side, {manifest.patches} patches"
    yield "recall embedding", f"{manifest.recall_size} numbers"
    for name, size in sizes.items():
        yield f"`{name}`", f"{size:.1f} MB"


def _ranked(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Direction, what the right one stood among, and the figures by stage."""
    for way, shown in WAYS.items():
        for protocol in PROTOCOLS:
            if stages := found[way].get(protocol):
                among = next(iter(stages.values()))["candidates"]
                yield shown, f"{protocol}, {among:,}", stages


def _rows(found: dict[str, Any]) -> Iterator[Row]:
    for way, among, stages in _ranked(found):
        for stage, shown in STAGES.items():
            if one := stages.get(stage):
                ranks = _share(one, "rank1"), _share(one, "rank5"), _share(one, "rank10")
                yield way, among, shown, *ranks, _mean(one)


def _share(figures: dict[str, Any], name: str) -> str:
    """A share with its interval, where it has one; Rank@1's is called `low` and `high`."""
    prefix = "" if name == "rank1" else f"{name}_"
    low, high = figures.get(f"{prefix}low"), figures.get(f"{prefix}high")
    told = f"{figures[name]:.1f}"
    return told if low is None or high is None else f"{told} ({low:.1f}–{high:.1f})"


def _mean(figures: dict[str, Any]) -> str:
    """The mean rank, with its interval where it has one."""
    low, high = figures.get("mean_rank_low"), figures.get("mean_rank_high")
    told = f"{figures['mean_rank']:,.1f}"
    return told if low is None or high is None else f"{told} ({low:,.1f}–{high:,.1f})"


def _gains(found: dict[str, Any]) -> Iterator[Row]:
    for way, among, stages in _ranked(found):
        two_stage = stages.get("two_stage", {})
        gains = [two_stage.get(f"over_{stage}") for stage in ("recall", "rerank")]
        if any(gains):
            yield way, among, *(_difference(gain) if gain else "" for gain in gains)


def _difference(gain: dict[str, float]) -> str:
    return f"{gain['rank1']:+.1f} ({gain['low']:+.1f} to {gain['high']:+.1f})"


def _losses(
    figures: Mapping[str, dict[str, Any]], references: Mapping[str, dict[str, Any]]
) -> Iterator[Row]:
    for name, reference in references.items():
        for way, shown in WAYS.items():
            before, after = (_served(found[way]) for found in (reference, figures[name]))
            yield name, shown, f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"


def _served(found: dict[str, Any]) -> float:
    """Sampled Rank@1 of the two stages, or of the rerank where there is no recall head."""
    stages = found["sampled"]
    rank1: float = stages["two_stage" if "two_stage" in stages else "rerank"]["rank1"]
    return rank1


def _table(header: Row, rows: Iterable[Row]) -> str:
    lines = [header, ("---",) * len(header), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """What a user named, such as a template, on one line and without an end of its cell."""
    return " ".join(text.splitlines()).replace("|", "\\|")
