"""Equal weights: survey 3.1, the plain sum, which every other balancer is measured against."""

import torch
from torch import Tensor

from mtlcli.balancers.base import Balancer


class Equal(Balancer):
    """Every task counts one. Native scale: sum over the step's tasks."""

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Ones (k,)."""
        return torch.ones(len(tasks), device=tasks.device)
