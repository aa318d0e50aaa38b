"""Adversarial shared and private features: Liu, Qiu and Huang (ASP-MTL), ACL 2017, arXiv 1704.05742."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.adapters import Bottleneck
from mtlcli.architectures.adversary import Adversarial, Gate, Hidden, Schedule, similarity
from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs, Part
from mtlcli.architectures.modules import mean_over_tokens, zero_linear
from mtlcli.architectures.options import RateOfHeads


class AdversarialSharedPrivate(Adversarial):
    """Share features from which a discriminator cannot tell the task, and add private features that do not repeat them.

    With S = H^N, ``P_t = S + U_t relu(D_t S)``, and s, p_t their means over the tokens of a text:

    * heads read ``Z = S + W_t [S; P_t]`` (`concat`), or ``Z = g * S + (1 - g) * P_t`` with ``g = sigmoid(V_t [S; P_t])`` (`gate`);
    * ``L_adv = - log softmax(D(R(s)))_t``, where R is the identity whose gradient is multiplied by -lambda: the discriminator D
      minimizes it, the encoder maximizes it;
    * ``L_diff``: the similarity of s and p_t in a batch, see `adversary.similarity`.

    Each task minimizes ``L + adversarial * L_adv + difference * L_diff``, lambda following `schedule`. With `weight_on: features`
    the discriminator trains at its full rate, and `adversarial` only weighs what reaches the encoder. U and W start at 0 and g at 1/2,
    so that every task starts with the encoder's states. With `gate: 0.9` the reversed gradient reaches the encoder only in batches where
    L_adv is above 0.9 ln(T), as in the adversarial form of the Tchebycheff procedure (Mao et al., ACL 2020,
    doi 10.18653/v1/2020.acl-main.388; a review of the paper was read, not the paper, so that its threshold may be another); `balancer:
    tchebycheff` is the rest of that procedure. The terms join the loss of a task before the balancer weighs it, and are left out
    in evaluation.

    Parameters: ``T (d + 1)`` for D without a hidden layer; for each task ``2 d m + m + d`` and ``2 d^2 + d``, m = d / 4.

    Differences from the paper: one pretrained encoder and small private modules in place of recurrent networks; heads read states of
    width d instead of [s; p]; the weights and the normalized L_diff are those of a re-implementation, and the
    paper's text was not read. Every gradient regularizer is refused,
    because it removes the conflicts that reversed gradients are.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        adversarial: Annotated[float, Field(ge=0, description="weight of the discriminator's loss")] = 0.05,
        difference: Annotated[
            float, Field(ge=0, description="weight of the similarity of shared and private features")
        ] = 0.01,
        similarity_form: Annotated[
            Literal["normalized", "sum"], Field(description="how this similarity is measured")
        ] = "normalized",
        weight_on: Annotated[
            Literal["features", "both"],
            Field(description="whether `adversarial` weighs the gradient of the encoder, or the discriminator's too"),
        ] = "features",
        schedule: Schedule = "rising",
        combine: Annotated[
            Literal["concat", "gate"], Field(description="how shared and private features are joined")
        ] = "concat",
        width: Annotated[
            int | None, Field(ge=1, description="width of the private modules; the default is that of the encoder / 4")
        ] = None,
        hidden: Hidden = 0,
        gate: Gate = None,
        lr: RateOfHeads = None,
    ) -> None:
        super().__init__(facts, range(len(facts.tasks)), hidden=hidden, schedule=schedule, lr=lr, gate=gate)
        self.adversarial, self.difference, self.weight_on = adversarial, difference, weight_on
        self.similarity_form, self.combine = similarity_form, combine
        # The similarity is that of all texts of a batch.
        if difference:
            self.coupling = "batch"
        dim, m = facts.width, width or max(1, facts.width // 4)
        self.private = facts.task_modules("private", lambda _: Bottleneck(dim, m, activation="relu"))
        self.join = facts.task_modules("join", lambda _: zero_linear(2 * dim, dim))

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return shared and private features joined, in training with the weighted losses of each text."""
        shared = hidden.last
        private = shared + self.private.of(task)(shared)
        joined = hidden.with_last(self._joined(self.join.of(task), shared, private))
        if not self.training:
            return joined
        # The encoder's gradient has both factors in either case; the discriminator's has the outer one alone.
        outside, inside = (self.adversarial, 1.0) if self.weight_on == "both" else (1.0, self.adversarial)
        extra = outside * self.adversarial_loss(task, shared, inputs, inside * self.strength)
        if self.difference:
            # The gradient of the similarity also reaches the encoder, and is not reversed.
            first, second = (mean_over_tokens(states.float(), inputs.full_mask) for states in (shared, private))
            with torch.autocast(shared.device.type, enabled=False):
                extra = extra + self.difference * similarity(first, second, self.similarity_form)
        return HiddenStates(joined.last, joined.layers, extra)

    def _joined(self, module: nn.Module, shared: Tensor, private: Tensor) -> Tensor:
        numbers: Tensor = module(torch.cat([shared, private], dim=-1))
        if self.combine == "concat":
            return shared + numbers
        # Written so that the states are exactly the shared ones while both are equal.
        return private + torch.sigmoid(numbers) * (shared - private)

    def parts(self) -> dict[str, Part]:
        """Return the discriminator, and the private modules of each task."""
        modules = (self.private.parts("private", lr=self.lr), self.join.parts("join", lr=self.lr))
        return {**super().parts(), **modules[0], **modules[1]}
