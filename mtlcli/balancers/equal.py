"""Equal weights: Chen, Zhang and Yang (Multi-Task Learning in Natural Language Processing: An Overview), 2024, section 3.1."""

import torch
from torch import Tensor

from mtlcli.balancers.base import Balancer


class Equal(Balancer):
    """Weight every task by 1 and minimize the sum of the losses, the baseline for every other balancer.

    Native scale: sum.
    """

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Return ones (k,)."""
        return torch.ones(len(tasks), device=tasks.device)
