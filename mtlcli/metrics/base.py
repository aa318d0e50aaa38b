"""The contract of a metric."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from mtlcli.facts import TaskFacts
from mtlcli.tasks.targets import Arrays


class Resampled(Protocol):
    """A metric of certain predictions, for many resamples of the rows at once."""

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return the metric of each resample (b,) float64, never NaN.

        Args:
            counts: (b, n) int64 or float64, how often resample b holds row n. Counts of 1 give the metric of the rows as they are. They
                are fractions where rows have weights: a row counts as often as it was drawn, times its weight.
        """


class Metric(ABC):
    """A number that says how good predictions are. The unit of resampling is a row of the file.

    Attributes:
        measures: kinds of targets (`Target.kind`) whose predictions the metric can read.
        higher_is_better: its direction.
        bounds: worst and best value, by which metrics of several tasks are averaged on one scale.
        is_proportion: the metric is the share of rows that are right, so that an exact binomial interval applies to it.
        reads_probabilities: the metric reads the field `probabilities` of predictions. `mtl compare` withholds it from others, because
            rows are then equal much more often, and equal rows are counted instead of repeated.
        weighted: the metric counts each row by its weight. This is about the rows; a metric does nothing for it.
        precision: `fp32` or `bf16`, in which the model predicts. A metric that is undefined for constant scores passes it to
            `mtlcli.metrics.rounding.are_constant`.
    """

    measures: ClassVar[frozenset[str]]
    higher_is_better: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    is_proportion: ClassVar[bool] = False
    reads_probabilities: ClassVar[bool] = False
    weighted: bool = False
    precision: str = "fp32"

    def __init__(self, task: TaskFacts) -> None:
        self.task = task

    @abstractmethod
    def bind(self, predicted: Arrays, gold: Arrays) -> Resampled:
        """Prepare the metric for predictions and labels of n rows: whatever all resamples share is done here, once."""

    def value(self, predicted: Arrays, gold: Arrays) -> float:
        """Return the metric of n rows."""
        # Computed like a resample, so that the value and the resamples have the same rounding.
        return float(self.bind(predicted, gold).values(np.ones((1, len(gold)), dtype=np.int64))[0])


@dataclass(frozen=True)
class Statistics:
    """Numbers of each row (n, s) float64, and the metric of their sums."""

    statistics: np.ndarray
    score: Callable[[np.ndarray], np.ndarray]

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return `score` of the sums over each resample's rows (b,)."""
        weights = counts.astype(np.float64)
        # One product for each column: a product of matrices adds up in another order, and its last digit depends on the width.
        totals = [weights @ column for column in np.ascontiguousarray(self.statistics.T)]
        return self.score(np.stack(totals, axis=1))


class Decomposed(Metric):
    """A metric of sums over rows: a resample costs a product of its counts with the rows' statistics.

    A plugin overrides `statistics` and `score`.
    """

    @abstractmethod
    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return s numbers of each row (n, s) float64, whose sums over rows determine the metric."""

    @abstractmethod
    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the metric (b,) of sums (b, s) of the statistics of one row or more."""

    def bind(self, predicted: Arrays, gold: Arrays) -> Statistics:
        """Compute the statistics of each row once."""
        return Statistics(self.statistics(predicted, gold), self.score)
