"""What schedulers, balancers and regularizers hear while a run goes on: small typed records, the same in every run."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StepNews:
    """After an optimizer update. tasks (k,), losses (k,) mean per row before balancing, weights (k,) given to them.

    gram (k, k) float64 on the CPU holds the inner products of the unweighted task gradients, where the engine made them.
    losses_after (k,) are the losses of the same batches after the update, with the same dropout masks, where the balancer
    needs them.
    """

    step: int
    tasks: Tensor
    losses: Tensor
    weights: Tensor
    gram: Tensor | None = None
    losses_after: Tensor | None = None


@dataclass(frozen=True)
class EpochNews:
    """After the last step of an epoch (counted from 0): mean training loss of each task visited in it, by task index."""

    epoch: int
    losses: Mapping[int, float]


@dataclass(frozen=True)
class EvaluationNews:
    """After an evaluation on dev: mean loss and metrics of each task that has a dev split, by task index."""

    step: int
    losses: Mapping[int, float]
    metrics: Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class ProbeNews:
    """After a small validation that a scheduler asked for: mean dev loss of each task it asked of, by task index."""

    step: int
    losses: Mapping[int, float]


class Listener:
    """Hears the news. Every family with state derives from it; a plugin overrides what it cares for."""

    def on_step(self, news: StepNews) -> None:
        """Called after every optimizer update; not after one that was skipped because of a value that is not finite."""

    def on_epoch(self, news: EpochNews) -> None:
        """Called after the last step of every epoch, before its evaluation."""

    def on_evaluation(self, news: EvaluationNews) -> None:
        """Called after every evaluation on dev."""
