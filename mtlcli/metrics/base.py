"""The contract of a metric."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np

from mtlcli.facts import TaskFacts


class Metric(ABC):
    """A number that says how good predictions are, and the same number for many resamples of the rows at once.

    `measures` says which predictions it is for, None both; `bounds` are the worst and best value a metric can take, used
    where metrics of several tasks are averaged on one scale; `higher_is_better` is its direction. `precision` is `fp32` or
    `bf16`, what the model predicts in: a metric that is undefined for constant scores asks `mtlcli.metrics.rounding.are_constant` with it.
    """

    measures: ClassVar[Literal["classes", "scores"] | None] = None
    higher_is_better: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    precision: str = "fp32"

    def __init__(self, task: TaskFacts) -> None:
        self.task = task

    @abstractmethod
    def values(self, predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """predictions (n,), targets (n,), counts (b, n) of how often resample b holds row n -> values (b,), never NaN.

        Classes come as int64 indices, scores as float64 in the units of the data. A row with count 0 is not in the
        resample. The value on the rows as they are is the one for counts of one everywhere.
        """
