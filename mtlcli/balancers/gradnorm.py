"""GradNorm: Chen, Badrinarayanan, Lee, Rabinovich, ICML 2018, arXiv:1711.02257."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult

MIN_WEIGHT = 1e-3  # keeps a weight positive after the optimizer's step; not in the paper
EPSILON = 1e-8


class GradNorm(Balancer):
    """Learn one weight per task so that all tasks train at a similar rate, measured by gradient norms at the last shared
    layer.

    The weights minimize ``sum_i |G_i - mean(G) * r_i**alpha|`` with the second term held constant, where ``G_i = w_i *
    ||grad_W L_i||`` on the last shared layer W and ``r_i`` is ``L_i / L_i(0)`` divided by its mean over tasks. The current
    step uses the weights from before the update. Sums and means run over the tasks of the step: an absent task keeps its
    weight, and the weights of present tasks keep their sum, so ``sum(w) == T`` after every step.

    A small alpha suits similar tasks: the paper uses 0.12 for its toy problem and 1.5 for NYUv2. L_i(0) is the first loss
    observed, or the loss of a constant guess, for which the paper allows log C with C classes.

    Differences from the paper:
      * weights are clamped to at least 0.001;
      * their learning rate (`optimizer.balancer_lr`, 0.025 as in the paper) follows the run's schedule.

    Differences from LibMTL: it uses all shared parameters, ``T * softmax(v)`` instead of renormalizing, and the mean loss
    of the first epoch as L_i(0).

    Native scale: sum.
    """

    needs = frozenset({"several-tasks", "last-layer-gram"})
    native_scale = "sum"
    assumes_zero = True
    cost = "gradient rows, norms on the last shared layer"

    def __init__(
        self,
        run: RunFacts,
        *,
        alpha: Annotated[
            float, Field(ge=0, le=10, description="how strongly to speed up slow tasks; 0 gives equal gradient norms")
        ] = 1.5,
        initial_loss: Annotated[
            Literal["first", "log-classes"],
            Field(description="L(0): the first loss observed, or that of a constant guess (log C; 1 for a score)"),
        ] = "first",
    ) -> None:
        super().__init__(run)
        self.alpha = alpha
        # One parameter per task: in a common tensor, Adam's momentum would move absent tasks.
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in run.tasks)
        guess = [task.guess for task in run.tasks]
        initial = torch.tensor(guess) if initial_loss == "log-classes" else torch.zeros(len(guess))
        # 0 marks a task whose first loss has not been observed yet.
        self.register_buffer("initial", initial)
        self.initial: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Return the weights (k,) of these tasks."""
        return self._weights_of(tasks).detach()

    def own_objective(self, losses: Tensor, tasks: Tensor, gram: Tensor) -> Tensor:
        """Return the L1 distance between weighted gradient norms and their targets.

        Args:
            losses: current losses, shape (k,).
            tasks: indices of the tasks in this step, shape (k,).
            gram: Gram matrix of the gradients on the last shared layer, shape (k, k).
        """
        initial = self.initial[tasks]
        # A loss that is not finite is of a step that will be skipped, so the next finite one replaces it.
        is_observed = (initial > 0) & torch.isfinite(initial)
        initial = self.initial[tasks] = torch.where(is_observed, initial, losses.clamp_min(EPSILON))
        loss_ratios = losses / initial
        # If all losses are 0, r_i would be 0 / 0.
        relative_rates = loss_ratios / loss_ratios.mean().clamp_min(EPSILON)
        norms = self._weights_of(tasks) * gram.diagonal().clamp_min(0).sqrt()
        # Constant, as in the paper: only the norms move towards the targets.
        targets = (norms.mean() * relative_rates**self.alpha).detach()
        return (norms - targets).abs().sum()

    def on_step(self, result: StepResult) -> None:
        """Clamp the weights of present tasks and restore the sum of all weights to T."""
        with torch.no_grad():
            weights = torch.stack(list(self.weights))
            present = weights[result.tasks]
            # Absent weights did not move, so this is the sum of the present ones before the optimizer's step.
            sum_of_present = len(weights) - (weights.sum() - present.sum())
            present = present.clamp_min(MIN_WEIGHT)
            for task, weight in zip(result.tasks.tolist(), present * sum_of_present / present.sum(), strict=True):
                self.weights[task].copy_(weight)

    def _weights_of(self, tasks: Tensor) -> Tensor:
        return torch.stack([self.weights[task] for task in tasks.tolist()])
