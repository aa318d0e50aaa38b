"""LogME: You, Liu, Wang and Long, ICML 2021, arXiv:2102.11005; how well features of one run suit the labels of another task.

LogME is the evidence of Bayesian linear regression from features F (N, D) to targets y (N,), per row, maximized over the precisions
alpha of the prior and beta of the noise. With F = U diag(s) V^T, q = s^2, x = (U^T y)^2 and t = alpha / beta, repeat

    gamma = sum q / (q + t),  m = sum q x / (t + q)^2,  e = sum x t^2 / (t + q)^2 + |y|^2 - sum x,
    alpha = gamma / m,  beta = (N - gamma) / e

Differences from the authors' code:
  * the evidence has k log alpha with the k = min(N, D) terms that are summed, where theirs has D log alpha, wrong for N < D;
  * y is centered and scaled to a variance of 1: shifting a 0/1 target would otherwise change the value.
"""

import math

import numpy as np
import torch

from mtlcli.affinity.rows import make_batch
from mtlcli.facts import seed_for
from mtlcli.model.predict import evaluating
from mtlcli.training.setup import TrainingRun

MOST_ROWS = 2000
FLOOR = 1e-5
"""Smallest m and e: where y lies in the span of the features, they are 0."""
ITERATIONS, TOLERANCE = 100, 1e-6


def evidence(features: np.ndarray, target: np.ndarray) -> tuple[float, float, float]:
    """Return the evidence per row, alpha and beta for features (N, D) and a target (N,) as it is."""
    n = len(features)
    # With one SVD, an iteration costs O(min(N, D)) instead of the solution of a linear system (D, D).
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    q, x = singular**2, (left.T @ target) ** 2
    # The part of y outside the span of F, which rounding can make slightly negative.
    rest = max(0.0, float(target @ target - x.sum()))
    k, t = len(q), 1.0
    for _ in range(ITERATIONS):
        gamma = float((q / (q + t)).sum())
        m = max(FLOOR, float((q * x / (t + q) ** 2).sum()))
        e = max(FLOOR, float((x * t**2 / (t + q) ** 2).sum()) + rest)
        # gamma approaches N where N <= D and the noise vanishes; beta has to stay above 0 for its logarithm.
        alpha, beta = gamma / m, max(FLOOR, n - gamma) / e
        before, t = t, alpha / beta
        if abs(t - before) < TOLERANCE * max(1.0, before):
            break
    # Again, because m and e of the last iteration are those of the t before it.
    m = max(FLOOR, float((q * x / (t + q) ** 2).sum()))
    e = max(FLOOR, float((x * t**2 / (t + q) ** 2).sum()) + rest)
    total = k * math.log(alpha) + n * math.log(beta) - float(np.log(alpha + beta * q).sum())
    total -= beta * e + alpha * m + n * math.log(2 * math.pi)
    return total / (2 * n), alpha, beta


def log_me(features: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean evidence per row over the columns of targets (N, C), each centered and scaled; constant columns are left out."""
    values = []
    for column in targets.T.astype(np.float64):
        deviation = column.std()
        if deviation > 0:
            # float64, because the squares of the singular values span many orders of magnitude.
            values.append(evidence(features.astype(np.float64), (column - column.mean()) / deviation)[0])
    return float(np.mean(values)) if values else math.nan


def targets_of(run: TrainingRun, task: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return up to `MOST_ROWS` labeled training rows (N,) of a task, and their targets: a column a class (N, C), or a score (N, 1).

    None for a task whose labels are not one class or score a row.
    """
    split = run.tasks[task].splits["train"]
    numbers = split.target.as_numbers(split.gold)
    if numbers is None:
        return None
    # NaN is an unknown label.
    labeled = np.flatnonzero(np.isfinite(numbers).all(1))
    # The rows depend on the seed and the task alone, so all sources are compared on the same rows.
    seed = seed_for(run.config.training.seed, "logme", run.facts[task].name)
    rows = np.sort(np.random.default_rng(seed).permutation(labeled)[:MOST_ROWS])
    return rows, numbers[rows]


@torch.no_grad()
def features_of(run: TrainingRun, task: int, rows: np.ndarray) -> np.ndarray:
    """Return the pooled features (N, D) of rows; of two texts u and v that are encoded apart, (u, v, |u - v|) side by side."""
    lengths = run.train[task].tokenized.lengths()[rows]
    # By length, so that batches have little padding; `stable` makes the order of ties the same on every platform.
    order = np.argsort(-lengths, kind="stable")
    parts: list[np.ndarray] = []
    with evaluating(run.model), run.autocast:
        for start in range(0, len(rows), 64):
            batch = make_batch(run, task, rows[order[start : start + 64]])
            hidden = run.model.features(task, batch, run.model.states_of([task], batch))
            # Autocast can return half precision.
            pooled = run.model.pooled(task, hidden, batch.mask).float()
            if batch.sides == 2:
                # A batch holds the first sides of all rows before the second ones.
                first, second = pooled.chunk(2)
                pooled = torch.cat([first, second, (first - second).abs()], 1)
            parts.append(pooled.cpu().numpy())
    # The argsort of a permutation is its inverse, which restores the order of the rows.
    back = np.argsort(order)
    features: np.ndarray = np.concatenate(parts)[back]
    return features
