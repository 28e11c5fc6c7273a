"""Weights between the tasks' losses: the paper's adaptive loss (§3.5), and equal and fixed ones.

With K tasks the loss of a step is L = Σ w_i l_i. The paper takes the weights from (Eq. 5)

    min over w   −½ Σ_i (w_i g_i)² + ½ Σ_{i<j} (w_i − w_j)²    with Σ w_i = 1, w_i ≥ 0

where g_i ∈ [0, 1) stands for the size of ∇l_i, and gives the solution (Eq. 6)

    w_i = (K − g_i²)⁻¹ / Σ_k (K − g_k²)⁻¹

The paper writes the second sum without saying which pairs. Eq. 6 is the exact solution if each
unordered pair counts once: on Σ w = 1 that sum is K Σ w_i² − 1, so the objective is
½ Σ (K − g_i²) w_i² − ½ and the stationary point has (K − g_i²) w_i the same for every i. With
ordered pairs (each counted twice) the same steps give 2K in place of K.

The objective is not convex on all of ℝᴷ: along (1, …, 1) its curvature is −Σ g_i². On the plane
Σ w = 1, where alone it is asked about, it is strictly convex as soon as every g_i² < K, and then
the solution is positive, so that w_i ≥ 0 never binds. Hence g ∈ [0, 1) is more than is needed; but
raw gradient norms would do worse than lose convexity: with some g_i² > K, Eq. 6 may be negative,
and the true solution gives one task all the weight.

Weights lie between 1 / (K + 1) and K / (K + (K − 1)²), for K = 3 between 1/4 and 3/7: Eq. 6 leans
towards the tasks with large gradients, and never far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from model.errors import TrainingError

if TYPE_CHECKING:
    from model.network import FashionBertModel

_BELOW_ONE = 1 - 1e-6


def solve_weights(g: Tensor) -> Tensor:
    """Eq. 6: the weights that solve Eq. 5.

    Args:
        g: floats [K], each in [0, 1).

    Returns:
        [K], positive, with sum 1; without gradient.

    Raises:
        ValueError: `g` is not such a vector.
    """
    g = g.detach()
    if g.dim() != 1 or not len(g) or not bool(((g >= 0) & (g < 1)).all()):
        raise ValueError(f"g must be a vector of numbers in [0, 1), not {g.tolist()}")
    inverse = 1 / (len(g) - g**2)
    return inverse / inverse.sum()


class Weighting(Protocol):
    """The weights of a step's losses.

    They are plain numbers, so that no gradient can flow through them, and the same in every
    process. Nothing is kept between calls: a resumed run goes on with the weights that it would
    have had.
    """

    def __call__(self, losses: Mapping[str, Tensor], *, step: int) -> dict[str, float]:
        """Weights by task.

        Args:
            losses: a scalar a task, the same tasks in the same order in every process. Call it
                before `backward`, which it leaves everything ready for.
            step: of the training, from 0.
        """


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """L = Σ w_i l_i; scalar."""
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


class EqualWeights:
    """1/K for each of K tasks."""

    def __call__(self, losses: Mapping[str, Tensor], *, step: int) -> dict[str, float]:
        """As `Weighting`."""
        return _equal(losses)


class FixedWeights:
    """Weights that stay, taken as they are: their sum need not be 1.

    Args:
        weights: one a task, at least 0 and not all 0.

    Raises:
        TrainingError: they are not such numbers; when called or checked, a task has none or there
            is no such task.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        wrong = [name for name, w in weights.items() if not (math.isfinite(w) and w >= 0)]
        if wrong:
            raise TrainingError(
                f"the weight of {wrong[0]!r} is {weights[wrong[0]]}: give a number, 0 or more"
            )
        if not any(weights.values()):
            raise TrainingError("no task has a weight above 0: there would be nothing to learn")
        self.weights = dict(weights)

    def __call__(self, losses: Mapping[str, Tensor], *, step: int) -> dict[str, float]:
        """As `Weighting`."""
        self.check(losses)
        return {name: self.weights[name] for name in losses}

    def check(self, tasks: Iterable[str]) -> None:
        """See that they are for these tasks, before a run computes anything."""
        if (names := set(tasks)) != self.weights.keys():
            raise TrainingError(
                f"the fixed weights are for {', '.join(sorted(self.weights))}, but the tasks are "
                f"{', '.join(sorted(names))}: give exactly one weight a task"
            )


class AdaptiveLosses:
    """Eq. 6 with g = softmax of the losses: what the released code does, and no gradient at all.

    The shares sum to 1, so that of K = 3 weights none leaves [2/7, 3/7]. Unlike in the released
    code no gradient flows through the weights. The losses must not be scaled (AMP): a softmax
    sees the scale. Over several processes their means are taken. The first step's weights are
    1/K (Algorithm 1), and so are those of a step with a loss that is not finite.
    """

    def __call__(self, losses: Mapping[str, Tensor], *, step: int) -> dict[str, float]:
        """As `Weighting`."""
        if step == 0:
            return _equal(losses)
        values = _mean_over_processes([loss.detach().float() for loss in losses.values()])
        if not bool(values.isfinite().all()):
            return _equal(losses)
        # A loss far above the others rounds to a share of exactly 1.
        return _solved(losses, values.softmax(0).clamp(max=_BELOW_ONE))


class AdaptiveGradients:
    """Eq. 6 with g from the norms n_i = ‖∇l_i‖ over the parameters of the last shared layer.

    g_i = n_i / max n, kept just below 1: the largest gradient has g = 1 and the others are
    measured by it. Of the normalisations that put g into [0, 1) and do not mind a common factor,
    which AMP's loss scaling is, this one lets the weights use the whole range of Eq. 6 at every K.
    Shares n_i / Σ n are about 1/K each, so g² vanishes beside K as tasks are added: with norms
    2 : 1 : 1 they give weights .348, .326, .326, the maximum gives .407, .296, .296. And a bound
    that does not depend on the other tasks (such as 1 − exp(−n)) would need its own scale.

    A task that does not reach the layer has g = 0, the smallest weight, not weight 0. If all norms
    are 0, or one is not finite, the weights are 1/K; so they are at the first step (Algorithm 1).
    Over several processes the means of the norms are taken; nothing is exchanged but K numbers.
    A step costs one more backward pass a task, from its loss down to the shared layer only.

    Args:
        shared: parameters of the layer, such as `shared_parameters` gives. `.grad` is not touched.

    Raises:
        TrainingError: none of them is trained.
    """

    def __init__(self, shared: Iterable[Tensor]) -> None:
        self.shared = [parameter for parameter in shared if parameter.requires_grad]
        if not self.shared:
            raise TrainingError(
                "the last layer that the tasks share is frozen, so no task has a gradient there: "
                "train it, or choose another weighting than adaptive-gradient"
            )

    def __call__(self, losses: Mapping[str, Tensor], *, step: int) -> dict[str, float]:
        """As `Weighting`."""
        if step == 0:
            return _equal(losses)
        norms = _mean_over_processes([self._norm(loss) for loss in losses.values()])
        largest = norms.max()
        if not bool(norms.isfinite().all()) or not bool(largest > 0):
            return _equal(losses)
        return _solved(losses, _BELOW_ONE * (norms / largest))

    def _norm(self, loss: Tensor) -> Tensor:
        """‖∇loss‖ over the shared parameters, float32; 0 where the loss does not reach them."""
        nothing = torch.zeros((), device=loss.device)
        if not loss.requires_grad:  # a constant, as of a batch without anything masked
            return nothing
        gradients = torch.autograd.grad(loss, self.shared, retain_graph=True, allow_unused=True)
        norms = [
            torch.linalg.vector_norm(gradient, dtype=torch.float32)
            for gradient in gradients
            if gradient is not None
        ]
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else nothing


def shared_parameters(network: FashionBertModel) -> list[nn.Parameter]:
    """Parameters of the last encoder layer that every task's loss goes through.

    The recall head sits on layer k (`joint_from`), everything else on the last layer; with k = 0
    the recall head sits there too.
    """
    last = network.config.joint_from - 1 if network.recall_head is not None else -1
    return list(network.layers[last].parameters())


def _equal(losses: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: 1 / len(losses) for name in losses}


def _solved(losses: Mapping[str, Tensor], g: Tensor) -> dict[str, float]:
    return dict(zip(losses, solve_weights(g).tolist(), strict=True))


def _mean_over_processes(values: Sequence[Tensor]) -> Tensor:
    """Scalars → their means over all processes, float64 [K] on the CPU."""
    stacked = torch.stack(list(values))
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(stacked)
        stacked = stacked / torch.distributed.get_world_size()
    return stacked.cpu().double()


WEIGHTINGS: dict[str, Callable[[Mapping[str, float], Iterable[Tensor]], Weighting]] = {
    "equal": lambda weights, shared: EqualWeights(),
    "fixed": lambda weights, shared: FixedWeights(weights),
    "adaptive-loss": lambda weights, shared: AdaptiveLosses(),
    "adaptive-gradient": lambda weights, shared: AdaptiveGradients(shared),
}


def new_weighting(
    name: str,
    *,
    weights: Mapping[str, float] | None = None,
    shared: Iterable[Tensor] = (),
) -> Weighting:
    """A weighting by its name in `WEIGHTINGS`.

    Args:
        name: `equal`, `fixed`, `adaptive-loss` or `adaptive-gradient`.
        weights: by task; for `fixed`, and only there.
        shared: parameters of the last shared layer, for `adaptive-gradient`.

    Raises:
        TrainingError: there is no such weighting, or `weights` do not go with it.
    """
    check_weighting(name, weights)
    return WEIGHTINGS[name](weights or {}, shared)


def check_weighting(name: str, weights: Mapping[str, float] | None) -> None:
    """Refuse what `new_weighting` does, without the network that it may take.

    Raises:
        TrainingError: there is no such weighting, or `weights` do not go with it.
    """
    if name not in WEIGHTINGS:
        raise TrainingError(
            f"there is no weighting {name!r}: choose one of {', '.join(WEIGHTINGS)}"
        )
    if (name == "fixed") != bool(weights):
        raise TrainingError(
            "the weighting 'fixed' needs the weight of each task: give them"
            if name == "fixed"
            else f"weights of tasks were given, but the weighting is {name!r}: "
            "choose 'fixed', or leave them out"
        )
