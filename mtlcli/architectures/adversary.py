"""What adversarial architectures share: reversed gradients (Ganin and Lempitsky, ICML 2015, arXiv 1409.7495; Ganin et al., JMLR 2016,
arXiv 1505.07818), their schedule, and discriminators."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, Part, run_encoder
from mtlcli.architectures.modules import mean_over_tokens, normal_linear
from mtlcli.architectures.options import of_heads

Schedule = Annotated[
    Literal["rising", "constant"],
    Field(description="lambda over the run: 2 / (1 + exp(-10 share)) - 1 of the steps done, or 1 in every step"),
]
Hidden = Annotated[int, Field(ge=0, description="width of the discriminator's hidden layer; 0 for a linear one")]

Gate = Annotated[
    float | None,
    Field(
        gt=0,
        description="the encoder learns from the discriminator only in batches where its loss is above this share of ln(classes)",
    ),
]


class _Reversal(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a negative factor."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float | Tensor) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradients[0], None


def reverse(values: Tensor, factor: float | Tensor) -> Tensor:
    """Return the values; their gradient is multiplied by -factor, a number or a scalar tensor."""
    reversed_values: Tensor = _Reversal.apply(values, factor)
    return reversed_values


def rising(share: float) -> float:
    """Return lambda when this share of a run is done: ``2 / (1 + exp(-10 share)) - 1``, from 0 to nearly 1."""
    return 2 / (1 + math.exp(-10 * share)) - 1


def discriminator(dim: int, hidden: int, classes: int) -> nn.Sequential:
    """Return a classifier of pooled features, whose weights start from N(0, 0.02)."""
    if not hidden:
        return nn.Sequential(normal_linear(dim, classes))
    return nn.Sequential(normal_linear(dim, hidden), nn.ReLU(), normal_linear(hidden, classes))


def similarity(shared: Tensor, private: Tensor, form: str) -> Tensor:
    """Return how much private features (n, dim) repeat shared ones (n, dim), one number.

    `sum` is ``||S^T P||_F^2`` (Liu et al., 2017). `normalized` subtracts the mean of the batch, scales rows to length 1, and
    takes the mean of the squares over the dim x dim entries (Bousmalis et al., NeurIPS 2016, arXiv 1608.06019, in its program).
    """
    if form == "sum":
        return (shared.T @ private).square().sum()
    # A batch of one text is 0 after the mean is subtracted; `eps` then gives 0 and not NaN.
    shared, private = (normalize(part - part.mean(0), dim=-1, eps=1e-6) for part in (shared, private))
    return (shared.T @ private).square().mean()


class Adversarial(Architecture):
    """The base of architectures in which a discriminator guesses where shared features come from, and the encoder prevents it.

    Attributes:
        classes: for each task the class that the discriminator should guess, None for a task without one.
        share: the share of the run's steps that is done.
        gate: the share of the loss of a random guess, ln(classes), that the discriminator must exceed in a batch for its reversed
            gradient to reach the encoder; None for every batch.
    """

    needs: ClassVar[frozenset[Literal["several-tasks"]]] = frozenset(("several-tasks",))
    adds_loss: ClassVar[bool] = True
    reverses: ClassVar[bool] = True

    def __init__(
        self,
        facts: ArchitectureFacts,
        classes: Sequence[int | None],
        *,
        hidden: int,
        schedule: str,
        lr: float | None,
        gate: float | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.names, self.classes = facts.encoder, facts.names, tuple(classes)
        self.schedule, self.share, self.gate = schedule, 0.0, gate
        # With a gate, the loss of a row depends on the mean over its batch.
        self.coupling = "rows" if gate is None else "batch"
        self.lr = of_heads(lr)
        # Classes are numbered from 0, and several tasks can have the same one.
        count = 1 + max((number for number in classes if number is not None), default=0)
        self.discriminator = discriminator(facts.width, hidden, count)
        self._loss_of_a_guess = math.log(count)
        self._right: list[Tensor] = []

    def set_progress(self, share: float) -> None:
        """Set the share of the run, from which lambda follows."""
        # Called before every step, so that the accuracy is that of one step.
        self.share, self._right = share, []

    @property
    def strength(self) -> float:
        """Return lambda: the factor of reversed gradients."""
        return rising(self.share) if self.schedule == "rising" else 1.0

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)

    def adversarial_loss(self, task: int, states: Tensor, inputs: Inputs, factor: float) -> Tensor:
        """Return the discriminator's cross-entropy of each text (n,) float32, whose gradient reaches the states times -factor.

        With `gate`, it does not reach them where the mean over the texts is not above the limit.
        """
        number = self.classes[task]
        if number is None:
            raise ValueError(f"{self.names[task]} has no class")
        # Autocast would compute the discriminator in half precision.
        with torch.autocast(states.device.type, enabled=False):
            pooled = mean_over_tokens(states.float(), inputs.full_mask)
            gold = torch.full((len(pooled),), number, device=pooled.device)
            # The gate closes the way to the encoder alone: the discriminator learns in every batch.
            applied = factor if self.gate is None else factor * self._is_confused(pooled, gold)
            logits = self.discriminator(reverse(pooled, applied))
        # Kept as tensors, so that the CPU does not wait for a GPU before the step is logged.
        self._right.append((logits.detach().argmax(-1) == gold).float())
        return cross_entropy(logits, gold, reduction="none")

    @torch.no_grad()
    def _is_confused(self, pooled: Tensor, gold: Tensor) -> Tensor:
        """Return 1 where the discriminator's loss is above the limit, else 0. A tensor, so that a GPU is not waited for."""
        limit = (self.gate or 0.0) * self._loss_of_a_guess
        return (cross_entropy(self.discriminator(pooled), gold) > limit).float()

    def measures(self) -> Mapping[str, float]:
        """Return lambda, and how often the discriminator was right in the last step."""
        values = {"lambda": self.strength}
        return values | ({"discriminator_accuracy": float(torch.cat(self._right).mean())} if self._right else {})

    def parts(self) -> dict[str, Part]:
        """Return the discriminator, whose gradient no method may change."""
        tasks = tuple(task for task, number in enumerate(self.classes) if number is not None)
        return {"discriminator": Part(tasks, self.lr, apart=True)} if tasks else {}
