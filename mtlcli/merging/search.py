"""Choose the coefficients of a merge by its score on dev."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mtlcli.merging.merger import SCALED, Coefficients, Method

SCALINGS: dict[Method, tuple[float, ...]] = {
    "task-arithmetic": tuple(round(0.1 * step, 1) for step in range(1, 11)),
    "dare": tuple(round(0.1 * step, 1) for step in range(1, 11)),
    "ties": tuple(round(0.2 * step, 1) for step in range(2, 13)),
}
"""Values of lambda that are tried: up to 1, the sum of the task vectors; for TIES, whose mean is smaller, further."""

# Without 1, which is the best trial so far.
FACTORS = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
"""Factors by which the weight of one run is changed while the others stay."""


@dataclass(frozen=True)
class Trial:
    """Coefficients that were tried, and their score on dev."""

    coefficients: Coefficients
    score: float


def search(
    method: Method, given: Coefficients, score: Callable[[Coefficients], float], *, weights: bool, scaling: bool
) -> Iterator[Trial]:
    """Yield each trial; the first one with the highest score is the best.

    First lambda, with the given weights; then the weight of each run in turn, with the best values so far.

    Args:
        given: where the search starts.
        score: measures a merge; higher is better.
        weights: whether the weights are to be chosen.
        scaling: whether lambda is to be chosen, for methods that have one.
    """
    scalings = SCALINGS[method] if scaling and method in SCALED else (given.scaling,)
    best: Trial | None = None
    for value in scalings:
        trial = _try(replace(given, scaling=value), score)
        yield trial
        best = trial if best is None or trial.score > best.score else best
    # The weight of a single run is its scaling, or has no effect.
    if best is None or not weights or len(given.weights) == 1:
        return
    for run in range(len(given.weights)):
        start = best.coefficients
        for factor in FACTORS:
            changed = tuple(value * (factor if index == run else 1) for index, value in enumerate(start.weights))
            trial = _try(replace(start, weights=changed), score)
            yield trial
            best = trial if trial.score > best.score else best


def _try(coefficients: Coefficients, score: Callable[[Coefficients], float]) -> Trial:
    return Trial(coefficients, score(coefficients))
