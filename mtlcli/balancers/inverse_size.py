"""Inverse data size: Chen, Zhang and Yang (Multi-Task Learning in Natural Language Processing: An Overview), 2024, section 3.1."""

import torch
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts


class InverseSize(Balancer):
    """Weight each task by 1 / n_t, where n_t is its number of training rows, so that large tasks do not drown small ones.

    Differences from the survey: its ``lambda_t = 1 / |D_t|`` would shrink the gradient with the size of the data. The
    weights here are scaled to the sum T of equal weights, so that the learning rate keeps its meaning.

    Native scale: sum.
    """

    def __init__(self, run: RunFacts) -> None:
        super().__init__(run)
        inverse = 1.0 / torch.tensor([float(task.rows) for task in run.tasks])
        # Normalized over the tasks of the run, not of a step, so that a task has the same weight in every step.
        self.register_buffer("weights", inverse * len(inverse) / inverse.sum())
        self.weights: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Return the weights (k,) of these tasks."""
        return self.weights[tasks]
