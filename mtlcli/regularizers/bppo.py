"""BPPO (Bregman proximal point optimization, with momentum): Jiang et al., ACL 2020, arXiv:1911.03437, section 3.2."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.plugin import SetupContext
from mtlcli.regularizers.base import Forward, Regularizer
from mtlcli.regularizers.snapshot import Snapshot


class BPPO(Regularizer):
    """Keep each output close to that of a teacher, a moving average of the model, so that single updates stay small.

    Adds ``mu * mean divergence(f(x; theta), f(x; teacher))``, symmetric KL for classes and squared error for scores,
    without gradient through the teacher. After each update ``teacher <- beta teacher + (1 - beta) theta``, heads included;
    beta rises after the first 10 % of the updates, as in all runs of the paper. The teacher uses the dropout masks of the
    model's pass, so that the term is 0 at the first step and measures the weights alone; the paper does not state its
    masks.

    Differences from other implementations: the released MT-DNN code does not enable its teacher. Mgbahurike, Mlauzi and
    Ocran (Jack of All Trades, Master of Some, 2024) keep beta constant (switch 0), and gain with beta 0.75, mu 1 and a
    learning rate of 1e-6 on a tuned model.
    """

    cost = "1 forward pass per batch and a copy of the weights"
    forward_passes = 1.0

    def __init__(
        self,
        run: RunFacts,
        *,
        mu: Annotated[float, Field(ge=0, description="weight of the divergence from the teacher")] = 1.0,
        beta: Annotated[float, Field(ge=0, lt=1, description="momentum of the teacher after the switch")] = 0.999,
        early_beta: Annotated[float, Field(ge=0, lt=1, description="momentum of the teacher before the switch")] = 0.99,
        switch: Annotated[
            float, Field(ge=0, le=1, description="fraction of the updates with early_beta; 0: none")
        ] = 0.1,
    ) -> None:
        super().__init__(run)
        self.mu, self.beta, self.early_beta, self.switch = mu, beta, early_beta, switch
        # A buffer, so that a resumed run switches beta at the same update.
        self.register_buffer("updates", torch.tensor(0))
        self.updates: Tensor

    def setup(self, context: SetupContext) -> None:
        """Initialize the teacher with the model's weights."""
        # Frozen parameters never change, so the teacher uses the model's.
        self.teacher = Snapshot((name, p) for name, p in context.model.named_parameters() if p.requires_grad)
        self.early_updates = round(self.switch * context.steps)

    def forward(self, forward: Forward) -> Tensor:
        """Return mu times the mean divergence of the batch's outputs from the teacher's."""
        # The term pulls the model to the teacher, never the other way.
        with torch.no_grad():
            teacher = forward.rerun(weights=self.teacher.tensors())
        return self.mu * forward.divergence(forward.output, teacher).mean()

    def after_step(self, model: MultiTaskModel) -> None:
        """Move the teacher towards the model."""
        self.updates += 1
        self.teacher.follow(model, self.early_beta if self.updates <= self.early_updates else self.beta)
