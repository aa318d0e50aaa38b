"""Mean and standard deviation over runs."""

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A metric over several runs: its mean, the standard deviation of a run (n - 1; 0 for a single run), and the single values."""

    mean: float
    deviation: float
    values: tuple[float, ...]


def spread_of(values: list[float]) -> Spread:
    """Return mean and deviation of one value or more."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, tuple(values))
