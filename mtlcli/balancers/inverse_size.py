"""Inverse data size: survey 3.1, lambda_t proportional to 1 / |D_t|."""

import torch
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts


class InverseSize(Balancer):
    """Weighs each task by 1 / n_t, n_t its training rows, so that a small task is not drowned by a large one.

    The survey's 1 / |D_t| depends on the unit of data; the weights here are scaled to the sum T of equal weighting, so
    that the learning rate keeps its meaning.
    """

    def __init__(self, run: RunFacts) -> None:
        super().__init__(run)
        inverse = 1.0 / torch.tensor([float(task.rows) for task in run.tasks])
        self.register_buffer("weights", inverse * len(inverse) / inverse.sum())
        self.weights: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """The weights of these tasks (k,)."""
        return self.weights[tasks]
