import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.adaptive import (
    WEIGHTINGS,
    AdaptiveGradients,
    AdaptiveLosses,
    EqualWeights,
    FixedWeights,
    new_weighting,
    shared_parameters,
    solve_weights,
    weighted_sum,
)
from model.backbones import new_config, new_model
from model.errors import TrainingError
from model.network import FashionBertModel


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def objective(w: Tensor, g: Tensor) -> Tensor:
    """Eq. 5 as it is written, each unordered pair once."""
    pairs = itertools.combinations(range(len(w)), 2)
    apart = sum(((w[i] - w[j]) ** 2 for i, j in pairs), start=w.new_zeros(()))
    return -((w * g) ** 2).sum() / 2 + apart / 2


def doubled(w: Tensor, g: Tensor) -> Tensor:
    """Eq. 5 with ordered pairs."""
    return -((w * g) ** 2).sum() / 2 + ((w[:, None] - w[None, :]) ** 2).sum() / 2


def on_simplex(point: Tensor) -> Tensor:
    """The nearest point with Σ w = 1 and w ≥ 0 (Duchi et al., 2008)."""
    ordered = point.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(point) + 1)
    kept = int((ordered > excess).sum())
    return (point - excess[kept - 1]).clamp(min=0)


def minimise(function: Callable[[Tensor, Tensor], Tensor], g: Tensor, start: Tensor) -> Tensor:
    """Projected gradient descent, which knows nothing of Eq. 6."""
    w = on_simplex(start)
    for _ in range(150):
        w = w.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(w, g), w)
        w = on_simplex(w.detach() - slope / (2 * len(g)))
    return w


# Eq. 6


@pytest.mark.parametrize(
    ("g", "expected"),
    [
        (vector(0.6, 0.8), vector(1.36, 1.64) / 3),
        (vector(0.5, 0.5, 0), vector(12, 12, 11) / 35),
        (vector(0, 0, 0, 0), vector(1, 1, 1, 1) / 4),
        (vector(0.3), vector(1)),
    ],
)
def test_weights_by_hand(g: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(solve_weights(g), expected)


@pytest.mark.parametrize("k", [2, 3, 4, 7])
def test_weights_solve_the_constrained_problem(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    for _ in range(4):
        g = torch.rand(k, generator=generator, dtype=torch.float64) * 0.999
        start = 3 * torch.randn(k, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(minimise(objective, g, start), solve_weights(g))


def test_no_point_of_a_grid_is_better() -> None:
    g = vector(0.95, 0.1, 0.6)
    solved = solve_weights(g)
    best = float(objective(solved, g))
    grid = [vector(a, b, 100 - a - b) / 100 for a in range(101) for b in range(101 - a)]
    values = [float(objective(w, g)) for w in grid]
    assert min(values) >= best
    torch.testing.assert_close(grid[values.index(min(values))], solved, atol=0.01, rtol=0)


def test_ordered_pairs_would_be_another_equation() -> None:
    g = vector(0.95, 0.1, 0.6)
    found = minimise(doubled, g, vector(1, 0, 0))
    with_2k = 1 / (2 * len(g) - g**2)
    torch.testing.assert_close(found, with_2k / with_2k.sum())
    assert float((found - solve_weights(g)).abs().max()) > 0.02


def test_the_problem_is_convex_on_its_plane_only() -> None:
    g = vector(0.95, 0.1, 0.6)
    hessian: Tensor = torch.autograd.functional.hessian(
        lambda w: objective(w, g), vector(1, 1, 1) / 3
    )
    assert float(hessian.sum()) == pytest.approx(-float((g**2).sum()))
    plane = torch.linalg.qr(vector(1, -1, 0, 0, 1, -1).view(2, 3).T).Q
    assert float(torch.linalg.eigvalsh(plane.T @ hessian @ plane).min()) > 0
    # Raw norms: the solution is a corner, which Eq. 6 would not give.
    wild = vector(2.5, 0.1, 0.6)
    torch.testing.assert_close(minimise(objective, wild, vector(1, 1, 1)), vector(1, 0, 0))


@pytest.mark.parametrize(
    "g", [vector(0.5, 1), vector(-0.1, 0.5), vector(float("nan"), 0), vector(), torch.zeros(2, 2)]
)
def test_g_outside_its_range_is_refused(g: Tensor) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        solve_weights(g)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_weights_stay_within_the_bounds(k: int) -> None:
    one = torch.zeros(k, dtype=torch.float64)
    one[0] = 1 - 1e-12
    assert float(solve_weights(one)[0]) == pytest.approx(k / (k + (k - 1) ** 2))
    assert float(solve_weights(1 - 1e-12 - one)[0]) == pytest.approx(1 / (k + 1))


# (a) losses


def test_losses_by_hand() -> None:
    # softmax (0, ln 2, 0) = (1/4, 1/2, 1/4)
    losses = {"mlm": torch.tensor(0.0), "match": vector(2)[0].log(), "mpm": torch.tensor(0.0)}
    weights = AdaptiveLosses()(losses, step=1)
    assert weights == pytest.approx({"mlm": 176 / 540, "match": 188 / 540, "mpm": 176 / 540})


def test_a_runaway_loss_meets_the_bound_of_the_released_code() -> None:
    losses = {"mlm": torch.tensor(1e4), "match": torch.tensor(0.1), "mpm": torch.tensor(0.2)}
    weights = AdaptiveLosses()(losses, step=9)
    assert weights == pytest.approx({"mlm": 3 / 7, "match": 2 / 7, "mpm": 2 / 7}, abs=1e-5)


def test_any_losses_give_weights_within_the_released_codes_bounds() -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 10.0):
        drawn = scale * torch.rand(8, 3, generator=generator, dtype=torch.float64)
        for numbers in drawn:
            losses = dict(zip(("mlm", "match", "mpm"), numbers, strict=True))
            weights = torch.tensor(list(AdaptiveLosses()(losses, step=1).values())).double()
            assert 2 / 7 - 1e-6 <= float(weights.min()) <= float(weights.max()) <= 3 / 7 + 1e-6
            assert torch.equal(weights.argsort(), numbers.argsort())
            # They are the solution of the constrained problem, and not of Eq. 6 alone.
            solution = minimise(objective, numbers.float().double().softmax(0), numbers)
            torch.testing.assert_close(weights, solution, atol=1e-6, rtol=0)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_gives_equal_weights(broken: float) -> None:
    losses = {"match": torch.tensor(broken), "recall": torch.tensor(1.0)}
    assert AdaptiveLosses()(losses, step=1) == {"match": 0.5, "recall": 0.5}


# (b) gradients


@pytest.fixture
def shared() -> Tensor:
    return torch.tensor([1.0, 2.0, 3.0], requires_grad=True)


def tasks(shared: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
    """Gradients (3, 4, 0), (0, 0, 2.5) and none: norms 5, 2.5 and 0."""
    other = torch.ones((), requires_grad=True)
    return {
        "recall": scale * (3 * shared[0] + 4 * shared[1]),
        "match": scale * 2.5 * shared[2],
        "elsewhere": scale * 100 * other,
    }


@pytest.mark.parametrize("scale", [1.0, 65536.0, 1e-6])
def test_gradients_by_hand_at_any_loss_scale(shared: Tensor, scale: float) -> None:
    # g = (1, ½, 0), K = 3: 1/2, 4/11, 1/3
    weights = AdaptiveGradients([shared])(tasks(shared, scale), step=1)
    expected = {"recall": 33 / 79, "match": 24 / 79, "elsewhere": 22 / 79}
    assert weights == pytest.approx(expected, abs=1e-6)


def test_the_norm_is_over_all_shared_parameters_together() -> None:
    first, second = (torch.ones(2, requires_grad=True) for _ in range(2))
    frozen = torch.ones(2)
    losses = {"a": 3 * first[0] + 4 * second[1] + frozen[0], "b": 2.5 * first.sum() / 2**0.5}
    weights = AdaptiveGradients([first, frozen, second])(losses, step=1)
    assert weights == pytest.approx({"a": 7 / 11, "b": 4 / 11}, abs=1e-6)


def test_equal_gradients_weigh_the_same(shared: Tensor) -> None:
    weights = AdaptiveGradients([shared])({"a": shared[0], "b": -shared[1]}, step=1)
    assert weights == pytest.approx({"a": 0.5, "b": 0.5})


def test_no_gradient_anywhere_gives_equal_weights(shared: Tensor) -> None:
    losses = {"a": torch.tensor(3.0), "b": 0 * shared.sum()}
    assert AdaptiveGradients([shared])(losses, step=1) == {"a": 0.5, "b": 0.5}


def test_a_gradient_that_is_not_finite_gives_equal_weights(shared: Tensor) -> None:
    losses = {"a": (shared[0] - 1).sqrt(), "b": shared[1]}
    assert AdaptiveGradients([shared])(losses, step=1) == {"a": 0.5, "b": 0.5}


def test_a_frozen_shared_layer_is_refused() -> None:
    with pytest.raises(TrainingError, match="frozen"):
        AdaptiveGradients([torch.ones(2)])


@pytest.mark.parametrize("name", ["adaptive-loss", "adaptive-gradient", "equal"])
def test_weights_carry_no_gradient_and_leave_the_graph_ready(name: str, shared: Tensor) -> None:
    losses = tasks(shared)
    weights = new_weighting(name, shared=[shared])(losses, step=5)
    assert shared.grad is None
    weighted_sum(losses, weights).backward()
    assert shared.grad is not None
    expected = [3 * weights["recall"], 4 * weights["recall"], 2.5 * weights["match"]]
    assert shared.grad.tolist() == pytest.approx(expected)


def network(joint_from: int, recall_size: int) -> FashionBertModel:
    torch.manual_seed(0)
    return new_model(
        new_config(
            "tiny",
            vocab_size=50,
            image_size=64,
            joint_from=joint_from,
            recall_size=recall_size,
            stack_recall=False,
        )
    )


@pytest.mark.parametrize(("joint_from", "recall_size"), [(0, 8), (2, 8), (2, 0), (0, 0)])
def test_the_last_shared_layer_of_the_network(joint_from: int, recall_size: int) -> None:
    model = network(joint_from, recall_size)
    ids = torch.randint(5, 50, (2, 6))
    mask = torch.ones_like(ids)
    texts, text_embeddings = model.encode_text(ids, mask)
    images, image_embeddings = model.encode_image(torch.randint(0, 256, (2, 64, 64, 3)).byte())
    losses = {"match": model.match(texts, mask, images).sum()}
    if text_embeddings is not None and image_embeddings is not None:
        losses["recall"] = (text_embeddings * image_embeddings).sum()

    def reached(parameters: list[torch.nn.Parameter]) -> set[str]:
        found = set()
        for name, loss in losses.items():
            slopes = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            if any(slope is not None and bool(slope.any()) for slope in slopes):
                found.add(name)
        return found

    last = shared_parameters(model)
    assert reached(last) == losses.keys()
    numbers = [n for n, layer in enumerate(model.layers) if next(layer.parameters()) is last[0]]
    for later in model.layers[numbers[0] + 1 :]:
        assert reached(list(later.parameters())) != losses.keys()
    weights = AdaptiveGradients(last)(losses, step=1)
    assert sum(weights.values()) == pytest.approx(1)

    # The norms are those that each loss alone leaves in `.grad`.
    norms = []
    for loss in losses.values():
        model.zero_grad()
        loss.backward(retain_graph=True)
        left = [parameter.grad for parameter in last if parameter.grad is not None]
        norms.append(float(torch.cat([slope.flatten() for slope in left]).double().norm()))
    g = vector(*norms) / max(norms) * (1 - 1e-6)
    solution = minimise(objective, g, torch.zeros(len(g), dtype=torch.float64))
    assert list(weights.values()) == pytest.approx(solution.tolist(), abs=1e-5)


# Equal, fixed, and choosing between them


@pytest.mark.parametrize("name", ["equal", "adaptive-loss", "adaptive-gradient"])
def test_the_first_step_weighs_tasks_equally(name: str, shared: Tensor) -> None:
    weights = new_weighting(name, shared=[shared])(tasks(shared), step=0)
    assert weights == {"recall": 1 / 3, "match": 1 / 3, "elsewhere": 1 / 3}


def test_fixed_weights_are_taken_as_they_are(shared: Tensor) -> None:
    given = {"match": 2.0, "elsewhere": 0.0, "recall": 1.0}
    weighting = new_weighting("fixed", weights=given)
    assert weighting(tasks(shared), step=0) == given
    assert weighting(tasks(shared), step=1) == given


def test_equal_weights(shared: Tensor) -> None:
    assert EqualWeights()({"a": shared[0], "b": shared[1]}, step=3) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"match": -1.0, "recall": 1.0}, "'match' is -1.0"),
        ({"match": float("nan")}, "'match' is nan"),
        ({"match": 0.0}, "nothing to learn"),
    ],
)
def test_fixed_weights_that_make_no_sense(weights: dict[str, float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        FixedWeights(weights)


def test_fixed_weights_must_be_for_the_tasks_there_are(shared: Tensor) -> None:
    with pytest.raises(TrainingError, match="for match, but the tasks are elsewhere, match"):
        FixedWeights({"match": 1.0})(tasks(shared), step=1)


def test_choosing_a_weighting() -> None:
    assert list(WEIGHTINGS) == ["equal", "fixed", "adaptive-loss", "adaptive-gradient"]
    with pytest.raises(TrainingError, match="no weighting 'gradnorm': choose one of equal, fixed"):
        new_weighting("gradnorm")
    with pytest.raises(TrainingError, match="'fixed' needs"):
        new_weighting("fixed")
    with pytest.raises(TrainingError, match="the weighting is 'equal'"):
        new_weighting("equal", weights={"match": 1.0})


PROCESS = """
import gc, json, sys, torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from model.adaptive import AdaptiveGradients, AdaptiveLosses, weighted_sum

rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", f"file://{sys.argv[2]}", rank=rank, world_size=2)

class Tasks(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Parameter(torch.zeros(2))
    def forward(self, x):
        return {"a": x[0] * self.shared[0], "b": x[1] * self.shared[1] + x[1]}

model = Tasks()
wrapped = DistributedDataParallel(model)
losses = wrapped(torch.tensor([[4.0, 3.0], [16.0, 2.0]][rank]))  # mean norms 10 and 2.5
weights = AdaptiveGradients([model.shared])(losses, step=1)
by_loss = AdaptiveLosses()(losses, step=1)
weighted_sum(losses, weights).backward()
print(json.dumps([weights, by_loss, model.shared.grad.tolist()]))
del wrapped, losses  # before the group: see `Trainer.close`
gc.collect()
torch.distributed.destroy_process_group()
"""


def test_processes_agree_and_ddp_still_averages(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    running = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs[0] == outputs[1]
    by_gradient, by_loss, gradient = json.loads(outputs[0])
    # g = (1, ¼), K = 2: 1, 16/31
    assert by_gradient == pytest.approx({"a": 31 / 47, "b": 16 / 47}, abs=1e-6)
    g = torch.tensor([0.0, 2.5], dtype=torch.float64).softmax(0)
    assert list(by_loss.values()) == pytest.approx(solve_weights(g).tolist())
    assert gradient == pytest.approx([10 * by_gradient["a"], 2.5 * by_gradient["b"]])
