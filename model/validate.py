"""Validation while training: the same protocols as `model.evaluate`, through torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from model.calibration import calibrate, fit_stacking
from model.dataset import TrainingSet
from model.errors import TrainingError
from model.evaluate import (
    DIRECTIONS,
    EncodedCatalogue,
    Evaluation,
    Match,
    Sample,
    evaluate,
    matching_figures,
    sampled_figures,
)
from model.mixed_precision import autocast
from model.network import FashionBertModel
from model.states import QuantisedStates, quantise

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Validation:
    """Products to choose by, and how many queries each way."""

    products: TrainingSet
    queries: int


def encode_products(network: FashionBertModel, products: TrainingSet) -> EncodedCatalogue:
    """Encode a prepared catalogue through torch, quantised as the served model's states are.

    Raises:
        TrainingError: the network has diverged.
    """
    device = next(network.parameters()).device
    count = len(products)
    width, size = network.config.hidden_size, network.config.recall_size
    pictures = int(products.first_image[-1])
    text_values = np.zeros((*products.input_ids.shape, width), dtype=np.int8)
    text_scales = np.zeros(products.input_ids.shape, dtype=np.float32)
    text_embeddings = np.zeros((count, size), dtype=np.float32)
    image_values = np.zeros((pictures, network.config.num_patches, width), dtype=np.int8)
    image_scales = np.zeros(image_values.shape[:2], dtype=np.float32)
    image_embeddings = np.zeros((pictures, size), dtype=np.float32)
    for start in range(0, count, _BATCH):
        rows = slice(start, start + _BATCH)
        longest = int(products.lengths[rows].max())
        ids = torch.from_numpy(products.input_ids[rows, :longest]).to(device)
        mask = products.attention_mask[rows, :longest]
        with autocast(device):
            states, embeddings = network.encode_text(ids, torch.from_numpy(mask).to(device))
        quantised = quantise(_finite(states), mask)
        text_values[rows, :longest] = quantised.values
        text_scales[rows, :longest] = quantised.scales
        if embeddings is not None:
            text_embeddings[rows] = embeddings.float().cpu().numpy()
    for start in range(0, pictures, _BATCH):
        rows = slice(start, start + _BATCH)
        inputs = products.inputs.batch(np.arange(start, min(start + _BATCH, pictures)))
        with autocast(device):
            states, embeddings = network.encode_image(
                **{name: value.to(device) for name, value in inputs.items()}
            )
        quantised = quantise(_finite(states))
        image_values[rows], image_scales[rows] = quantised.values, quantised.scales
        if embeddings is not None:
            image_embeddings[rows] = embeddings.float().cpu().numpy()
    return EncodedCatalogue(
        texts=QuantisedStates(text_values, text_scales),
        text_embeddings=text_embeddings,
        images=QuantisedStates(image_values, image_scales),
        image_embeddings=image_embeddings,
        first_image=products.first_image,
        text_numbers=products.text_numbers,
        groups=products.groups,
    )


def _finite(states: torch.Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = states.float().cpu().numpy()
    if not np.isfinite(values).all():
        raise TrainingError(
            "the network's states are not finite, so nothing can be ranked: lower the learning rate"
        )
    return values


def torch_match(
    network: FashionBertModel, texts: QuantisedStates, images: QuantisedStates
) -> NDArray[np.float32]:
    """`Engine.match` through torch."""
    device = next(network.parameters()).device
    pairs = max(len(texts), len(images))
    longest = int(np.count_nonzero(texts.scales, axis=1).max())
    text_states = torch.from_numpy(texts.dequantise()[:, :longest]).to(device)
    mask = torch.from_numpy((texts.scales[:, :longest] > 0).astype(np.int64)).to(device)
    image_states = torch.from_numpy(images.dequantise()).to(device)
    with autocast(device):
        logits = network.match(
            text_states.expand(pairs, -1, -1),
            mask.expand(pairs, -1),
            image_states.expand(pairs, -1, -1),
        )
    result: NDArray[np.float32] = logits.float().cpu().numpy()
    return result


def torch_align(
    network: FashionBertModel, texts: QuantisedStates, images: QuantisedStates
) -> NDArray[np.float32]:
    """Token-to-patch alignments of pairs, as `torch_match` gives their logits."""
    head = network.alignment_head
    if head is None:
        raise ValueError("the network has no alignment head")
    device = next(network.parameters()).device
    mask = torch.from_numpy((texts.scales > 0).astype(np.int64)).to(device)
    with autocast(device):
        alignment = head(
            torch.from_numpy(texts.dequantise()).to(device),
            mask,
            torch.from_numpy(images.dequantise()).to(device),
        )
    result: NDArray[np.float32] = alignment.float().cpu().numpy()
    return result


@dataclass(frozen=True, slots=True)
class Validated(Evaluation):
    """An evaluation with the alignments [Q, C] of each sample, where the network has them."""

    aligned: tuple[NDArray[np.float32], ...] = ()


#: Recall candidates that validation reranks: few, as it runs many times.
_CANDIDATES = 16


def validate(
    network: FashionBertModel,
    validation: Validation,
    progress: Progress | None = None,
    *,
    rerank_all: bool = False,
) -> Validated:
    """Sampled-101 both ways; the network is left in training mode.

    Args:
        network: to be validated.
        validation: on what.
        progress: shows a bar, for as long as it takes.
        rerank_all: score all pairs rather than the recall's first few.
    """
    network.eval()  # type: ignore[no-untyped-call]
    try:
        with torch.inference_mode():
            encoded = encode_products(network, validation.products)

            def scored_by(match: Match, progress: Progress | None) -> Evaluation:
                return evaluate(
                    encoded,
                    match,
                    queries=validation.queries,
                    candidates=_CANDIDATES,
                    rerank_all=rerank_all or not network.config.recall_size,
                    full=False,
                    progress=progress,
                )

            matched = scored_by(partial(torch_match, network), progress)
            if progress is not None:  # else each validation of a run would leave a bar
                progress.remove_task(progress.task_ids[-1])
            aligned: tuple[NDArray[np.float32], ...] = ()
            if network.alignment_head is not None:
                alignment = scored_by(partial(torch_align, network), None)
                aligned = tuple(sample.logits for sample in alignment.samples)
            return Validated(matched.figures, matched.samples, aligned)
    finally:
        network.train()


def fit_to_unseen(
    network: FashionBertModel,
    evaluation: Validated,
    evaluate_again: Callable[[], Evaluation] | None = None,
) -> tuple[tuple[float, float], dict[str, Any]]:
    """Stack recall similarity, match logit and alignment in place; fit the match probability.

    Args:
        network: whose match head is adjusted, if it is made for stacking.
        evaluation: of this network, every pair scored.
        evaluate_again: does so anew. Needed where a product has several views, as its best one by
            the sum of the scores need not be the best by each.

    Returns:
        (slope, intercept) of the probability, and the figures, both for the adjusted network.
    """
    head, stacks = network.match_head, network.config.stack_recall
    weights: tuple[float, ...] = (0.0, 1.0)
    if stacks:
        weights = fit_stacking(evaluation.samples, evaluation.aligned)
        head.recall_weight.fill_(weights[0])
        head.match_weight.fill_(weights[1])
        if evaluation.aligned:
            head.alignment_weight.fill_(weights[2])
    if stacks and evaluate_again is not None:
        evaluated = evaluate_again()
        figures, samples = evaluated.figures, list(evaluated.samples)
    else:
        figures = evaluation.figures
        samples = _weighted(evaluation.samples, evaluation.aligned, weights, 0.0)
    both = np.concatenate([sample.logits for sample in samples]).astype(np.float64)
    slope, intercept = calibrate(both[:, 0], both[:, 1])
    if stacks:
        # The intercept goes into the logit, so that 0 divides pairs from others there too.
        shift = intercept / slope
        head.shift.fill_(shift)
        samples = _weighted(samples, (), (0.0, 1.0), shift)
        intercept = 0.0
    figures = {**figures, "matching": matching_figures(samples)}
    figures["stacking"] = [round(weight, 4) for weight in weights]
    for direction, sample in zip(DIRECTIONS, samples, strict=True):
        figures[direction] = {"sampled": sampled_figures(sample, _CANDIDATES)}
    return (slope, intercept), figures


def _weighted(
    samples: Sequence[Sample],
    aligned: Sequence[NDArray[np.float32]],
    weights: Sequence[float],
    shift: float,
) -> list[Sample]:
    """The samples with the weighted sum of their scores + shift for logits."""
    result = []
    for at, sample in enumerate(samples):
        logits = weights[0] * sample.recalled + weights[1] * sample.logits + shift
        if aligned:
            logits = logits + weights[2] * aligned[at]
        result.append(replace(sample, logits=np.asarray(logits, dtype=np.float32)))
    return result
