"""FAMO (fast adaptive multitask optimization): Liu et al., NeurIPS 2023, arXiv:2306.03792."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult

EPSILON = 1e-8
# The defaults of torch.optim.Adam, which the authors' code uses.
BETAS = (0.9, 0.999)


class FAMO(Balancer):
    """Shift weight to the tasks whose loss fell least in the last step, so that all improve at a similar rate.

    The objective is ``c sum_t z_t log D_t``, where ``z = softmax(w)`` of the logits w, ``D = L + 1e-8`` (each task's
    smallest loss is taken as 0), and the constant ``c = 1 / sum_t (z_t / D_t)`` makes the weights ``c z_t / D_t`` sum to 1.
    After the update, the losses of the same batches are computed again, and Adam moves w along the derivative of ``sum_t
    z_t (log D_t before - after)``. Softmax and sums run over the tasks of the step; an absent task keeps its logit and
    Adam's averages.

    w moves after the optimizer's step, so it has a separate Adam whose state is in buffers and whose learning rate does not
    follow the schedule.

    Differences from the authors' code:
      * it draws new dropout masks for the second pass, whose noise then counts as progress; here the masks are the same;
      * weight decay is 0.001, as in most of its run scripts; the class default is 0.01;
      * it clips the shared gradient to norm 1; here optimizer.clip does.

    Native scale: mean.
    """

    needs = frozenset({"several-tasks", "losses-after"})
    native_scale = "mean"
    assumes_zero = True
    cost = "gradient rows and one more forward pass per step"

    def __init__(
        self,
        run: RunFacts,
        *,
        lr: Annotated[float, Field(gt=0, description="learning rate of the logits w")] = 0.025,
        weight_decay: Annotated[
            float, Field(ge=0, description="weight decay of w, part of its gradient (gamma in the paper)")
        ] = 1e-3,
    ) -> None:
        super().__init__(run)
        self.lr, self.weight_decay = lr, weight_decay
        for name in ("logits", "average", "square", "steps"):
            self.register_buffer(name, torch.zeros(len(run.tasks)))
        self.logits: Tensor
        self.average: Tensor
        self.square: Tensor
        self.steps: Tensor

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Return the objectives (k,), which can be negative, of losses (k,), means per row, of tasks (k,)."""
        shares, distances = torch.softmax(self.logits[tasks], 0), losses + EPSILON
        # 1 / c is detached, so that only log D_t is differentiated.
        return shares * distances.log() / (shares / distances).sum().detach()

    def on_step(self, result: StepResult) -> None:
        """Move w by the update's effect on the losses."""
        if result.losses_after is None:
            return
        tasks = result.tasks
        progress = (result.losses + EPSILON).log() - (result.losses_after + EPSILON).log()
        shares = torch.softmax(self.logits[tasks], 0)
        # The derivative through the softmax, with decay as in Adam (not AdamW).
        gradient = shares * (progress - (shares * progress).sum()) + self.weight_decay * self.logits[tasks]
        self.steps[tasks] += 1
        self.average[tasks] += (1 - BETAS[0]) * (gradient - self.average[tasks])
        self.square[tasks] += (1 - BETAS[1]) * (gradient**2 - self.square[tasks])
        # Steps are counted per task, because an absent task takes none.
        average = self.average[tasks] / (1 - BETAS[0] ** self.steps[tasks])
        square = self.square[tasks] / (1 - BETAS[1] ** self.steps[tasks])
        self.logits[tasks] -= self.lr * average / (square.sqrt() + EPSILON)
