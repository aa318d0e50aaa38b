"""Epoch sigmoid: Nishino et al., EMNLP-IJCNLP 2019 (as described by Chen, Zhang and Yang, 2024, section 3.1, equation 1)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.errors import MtlError, suggest
from mtlcli.facts import RunFacts
from mtlcli.plugin import EpochResult


class EpochSigmoid(Balancer):
    """Phase in hard tasks later: each weight rises along a sigmoid around its start epoch.

    ``lambda_t(e) = weights_t / (1 + exp((start_t - e) / temperature))``, where e is the number of finished epochs. The
    weight is constant within an epoch, and half of weights_t after start_t epochs. A task without a start has its full
    weight from the first step, as with start = -infinity.

    The formula is the survey's; the original paper was not available.

    Native scale: sum. Raises MtlError for a task that the run does not have.
    """

    native_scale = "sum"

    def __init__(
        self,
        run: RunFacts,
        *,
        start: Annotated[
            dict[str, float], Field(description="epoch at which a task reaches half its weight, by task name")
        ],
        weights: Annotated[
            dict[str, Annotated[float, Field(ge=0)]] | None,
            Field(description="final weight by task name; 1 if omitted"),
        ] = None,
        temperature: Annotated[
            float, Field(gt=0, description="width of the rise in epochs (alpha in the survey)")
        ] = 1.0,
    ) -> None:
        super().__init__(run)
        names = [task.name for task in run.tasks]
        final = weights or {}
        named = [("start", name) for name in start] + [("weights", name) for name in final]
        unknown = [
            f"balancer.{option}.{name}: no such task{suggest(name, names)}"
            for option, name in named
            if name not in names
        ]
        if unknown:
            raise MtlError(*unknown)
        self.temperature = temperature
        # The sigmoid of -(-inf) is 1: full weight from the first step.
        self.register_buffer("start", torch.tensor([float(start.get(name, -torch.inf)) for name in names]))
        self.register_buffer("final", torch.tensor([float(final.get(name, 1.0)) for name in names]))
        self.register_buffer("epochs", torch.tensor(0.0))
        self.start: Tensor
        self.final: Tensor
        self.epochs: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Return the weights (k,) of these tasks in this epoch."""
        # `sigmoid` does not overflow, unlike `exp` of a large difference.
        return self.final[tasks] * torch.sigmoid((self.epochs - self.start[tasks]) / self.temperature)

    def on_epoch(self, result: EpochResult) -> None:
        """Count the epoch."""
        self.epochs.fill_(result.epoch + 1)
