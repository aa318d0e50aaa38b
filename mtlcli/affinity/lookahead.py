"""Lookahead affinity (TAG): Fifty, Amid, Zhao, Yu, Anil and Finn, NeurIPS 2021, arXiv:2109.04617.

After t updates, with shared weights theta and the heads as they are,

    Z_ij = 1 - L_j(theta - eta u_i) / L_j(theta),

where u_i is the step made of task i's gradient alone. Z_ij > 0: a step for task i lowers the loss of task j. Then theta is put back.

Differences from the paper and its code:
  * u_i is the step of the recipe's AdamW without momentum and weight decay, ``g_i / (sqrt(v) + eps)``, where v is the second moment
    of the joint run after one more step with g_i. Momentum would add the same joint direction to every task. Without g_i in v, the
    step would be g_i / eps for every word that the run has not met yet, and Z would measure nothing else;
  * the rows of the step and of the loss differ, also for i = j, or the diagonal would measure memorization;
  * u_i is the mean of several batches and the loss that of many rows, because single batches give noise;
  * no measurement in the first tenth of the run, where v is too young and u_i close to the sign of g_i.

The first-order value ``eta <u_i, g_j> / L_j`` is stored too. For small steps it has the same expectation and needs no forward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mtlcli.affinity.rows import MeasuredBatches, gradient_row, make_batch, mean_loss, measured_batches, shared_encoder
from mtlcli.facts import seed_for
from mtlcli.model.predict import evaluating
from mtlcli.training.optimizer import rate_factor
from mtlcli.training.setup import TrainingRun

EVERY = 4
"""Updates between two measurements."""
WARMUP = 0.1
"""Share of the run without measurements."""
STEP_BATCHES, LOSS_ROWS = 4, 128
"""Batches of which u_i is the mean, and rows of which L_j is."""
ENOUGH = 50
"""Measurements that a usable matrix needs."""
FLOOR = 1e-3
"""Smallest L_j, as a share of the task's first loss: of a task that is learned, the ratio would explode."""
BLOCK = 5
"""Neighboring measurements that the bootstrap draws together, because they are correlated."""


def lookahead_steps(updates: int) -> list[int]:
    """Return the numbers of updates after which the lookahead is measured."""
    # Never before the first update, when the optimizer has no second moment.
    return [step for step in range(0, updates, EVERY) if step >= max(1.0, WARMUP * updates)]


@dataclass(frozen=True)
class Lookahead:
    """Hold one measurement: Z (k, k) and its first-order value, row i the step's task, and the learning rate."""

    affinity: np.ndarray
    first_order: np.ndarray
    rate: float
    losses: np.ndarray


class LookaheadRows:
    """Draw the batches of the measurements: disjoint parts of each task's rows, from the start again when they are used up."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.sets: list[MeasuredBatches] = [
            measured_batches(run, task, "lookahead", len(run.train[task].tokenized)) for task in range(len(run.tasks))
        ]

    def of(self, number: int, task: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the batches of step and loss of measurement `number`, as row numbers; they share no row.

        A task with too few rows for both has smaller batches of either: the step has a fifth of its rows at least.
        """
        batches, size = self.sets[task].batches, self.run.train[task].batch_size
        if not batches:
            return [], []
        for_loss = max(1, -(-LOSS_ROWS // size))
        wanted = min(STEP_BATCHES + for_loss, len(batches))
        for_step = max(1, min(STEP_BATCHES, wanted // 2))
        start = number * wanted % len(batches)
        next_batches = [batches[(start + place) % len(batches)] for place in range(wanted)]
        # A task with a single batch uses it for both.
        return (next_batches[:for_step], next_batches[for_step:]) if wanted > 1 else (next_batches, next_batches)


def measure_lookahead(
    run: TrainingRun, rows: LookaheadRows, number: int, step: int, floors: Sequence[float]
) -> Lookahead:
    """Return the lookahead affinity after `step` updates. No weight, gradient, buffer or random state changes.

    Args:
        number: number of the measurement, from 0.
        floors: smallest loss of each task (k,).
    """
    model, k = run.model, len(run.tasks)
    parameters = [parameter for _, parameter in shared_encoder(model)]
    rate = rate_factor(run.config.optimizer, step, run.plan.steps) * run.config.optimizer.lr
    with evaluating(model):
        batches_of_step = [rows.of(number, task) for task in range(k)]
        # All gradients are taken at the original weights, before any step is tried.
        gradients = [_mean_gradient(run, task, batches_of_step[task][0], parameters) for task in range(k)]
        with torch.no_grad():
            # The rows of `before` and `after` are the same, so that their noise cancels in the difference.
            before = torch.tensor([_loss(run, task, batches_of_step[task][1]) for task in range(k)])
            divisors = torch.maximum(before, torch.tensor(list(floors), dtype=before.dtype))
            original = [parameter.detach().clone() for parameter in parameters]
            affinity, first_order = torch.zeros(k, k), torch.zeros(k, k)
            try:
                for i in range(k):
                    direction = gradients[i] / _denominators(run, parameters, gradients[i])
                    for j in range(k):
                        first_order[i, j] = rate * (direction @ gradients[j]) / divisors[j]
                    # Always from the original weights, so that the steps of other tasks do not add up.
                    _put(parameters, original, direction, rate)
                    after = torch.tensor([_loss(run, task, batches_of_step[task][1]) for task in range(k)])
                    affinity[i] = (before - after) / divisors
            finally:
                # By copying: adding the step again would leave rounding behind.
                for parameter, value in zip(parameters, original, strict=True):
                    parameter.copy_(value)
    return Lookahead(affinity.double().numpy(), first_order.double().numpy(), rate, before.double().numpy())


def _put(parameters: Sequence[nn.Parameter], original: Sequence[Tensor], direction: Tensor, rate: float) -> None:
    start = 0
    for parameter, value in zip(parameters, original, strict=True):
        part = direction[start : start + parameter.numel()].view_as(parameter)
        parameter.copy_(value - rate * part.to(value))
        start += parameter.numel()


def _mean_gradient(
    run: TrainingRun, task: int, batches: Sequence[np.ndarray], parameters: Sequence[nn.Parameter]
) -> Tensor:
    total: Tensor | None = None
    for rows in batches:
        row = gradient_row(run.model, make_batch(run, task, rows), parameters)
        # In place, because a row is as long as all shared parameters together.
        total = row if total is None else total.add_(row)
    if total is None:
        return torch.zeros(sum(parameter.numel() for parameter in parameters), device=run.device)
    return total / len(batches)


def _loss(run: TrainingRun, task: int, batches: Sequence[np.ndarray]) -> float:
    if not batches:
        return float("nan")
    return float(np.mean([float(mean_loss(run.model, make_batch(run, task, rows))) for rows in batches]))


def _denominators(run: TrainingRun, parameters: Sequence[nn.Parameter], gradient: Tensor) -> Tensor:
    """Return sqrt(v) + eps (P,) as the optimizer's next step with this gradient would have it, corrected for the bias of a young v."""
    optimizer, config = run.optimizer, run.config.optimizer
    parts = []
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, own in zip(parameters, gradient.split(sizes), strict=True):
        state = optimizer.state.get(parameter)
        if not state:  # an unused parameter has not moved; its gradient is 0
            parts.append(torch.ones(parameter.numel(), device=parameter.device))
            continue
        # A copy: the second moment of the run itself is not updated.
        moment = config.beta2 * state["exp_avg_sq"].reshape(-1).float() + (1 - config.beta2) * own**2
        # Adam's correction of the bias, for one update more than the run has made.
        parts.append((moment / (1 - config.beta2 ** (float(state["step"]) + 1))).sqrt() + config.eps)
    return torch.cat(parts)


@dataclass(frozen=True)
class Averaged:
    """Hold the mean over the measurements (k, k), its interval, and the reliability of the order of the pairs; None if not known."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    reliability: float | None
    count: int


def average(values: np.ndarray, rates: np.ndarray, *, seed: int, resamples: int = 1000) -> Averaged:
    """Return the mean of Z / eta over the measurements, times the mean eta, with a bootstrap over blocks of neighbors.

    Args:
        values: (m, k, k), in the order of the steps.
        rates: learning rate of each (m,).
    """
    from mtlcli.affinity.prediction import spearman, spearman_brown

    # Z grows with the rate, so measurements during a warm-up would otherwise count less.
    scaled = values / rates[:, None, None] * rates.mean()
    count = len(scaled)
    mean = scaled.mean(0)
    low, high = np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    # An incomplete last block is left out, unless it is the only one.
    blocks = [scaled[start : start + BLOCK].mean(0) for start in range(0, count - count % BLOCK or count, BLOCK)]
    if len(blocks) > 1:
        generator = np.random.default_rng(seed_for(seed, "lookahead"))
        drawn = generator.integers(len(blocks), size=(resamples, len(blocks)))
        low, high = np.quantile(np.stack(blocks)[drawn].mean(1), [0.025, 0.975], axis=0)
    reliability = None
    if count > 1:
        off = ~np.eye(mean.shape[0], dtype=bool)
        # Interleaved halves, so that both cover the whole run.
        rho = spearman(scaled[::2].mean(0)[off], scaled[1::2].mean(0)[off])
        reliability = None if rho is None else spearman_brown(rho, 1, 1)
    return Averaged(mean, low, high, reliability, count)
