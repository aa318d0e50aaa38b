"""Static weights: survey 3.1; the loss constants c_i of LB 4."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.errors import MtlError, suggest
from mtlcli.facts import RunFacts


class Static(Balancer):
    """Constants chosen by hand; a tuned choice is the baseline that gradient methods have to beat (Xin et al. 2022).

    Raises MtlError for a weight of a task that the run does not have.
    """

    def __init__(
        self,
        run: RunFacts,
        *,
        weights: Annotated[
            dict[str, Annotated[float, Field(ge=0)]], Field(description="weight by task name; 1 for a task left out")
        ],
    ) -> None:
        super().__init__(run)
        names = [task.name for task in run.tasks]
        for name in weights:
            if name not in names:
                raise MtlError(f"balancer.weights.{name}: no such task{suggest(name, names)}")
        self.register_buffer("weights", torch.tensor([float(weights.get(name, 1.0)) for name in names]))
        self.weights: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """The constants of these tasks (k,)."""
        return self.weights[tasks]
