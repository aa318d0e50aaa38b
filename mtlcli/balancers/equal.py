"""Equal weights (the unweighted sum of the losses)."""

import torch
from torch import Tensor

from mtlcli.balancers.base import Balancer


class Equal(Balancer):
    """Weight every task by 1, the baseline for every other balancer.

    Native scale: sum.
    """

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Return ones (k,)."""
        return torch.ones(len(tasks), device=tasks.device)
