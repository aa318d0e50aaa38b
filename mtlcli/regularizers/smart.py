"""SMART: Jiang et al., ACL 2020, arXiv:1911.03437, section 3.1 and Algorithm 1."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts, seed_for
from mtlcli.model.row_noise import normal_of_rows
from mtlcli.regularizers.base import Forward, Regularizer

TINY = torch.finfo(torch.float32).tiny


class SMART(Regularizer):
    """Search for the small change of the word embeddings that changes the output most, and penalize that change.

    Adds ``weight * mean_i l(f(x_i + noise_i), f(x_i))``, where l is the symmetric KL for classes and the squared error for
    scores (in standard deviations of the labels). The noise starts as N(0, sigma^2); each of `steps` inner steps follows
    its gradient g of the mean l. Both outputs get the outer gradient. Padding gets no noise. Each further inner step costs
    a forward and a backward pass.

    - form paper: ``noise <- Proj(noise + eta g / ||g||)``, where Proj projects onto the ball of radius epsilon; norms are
      over a text. With the paper's epsilon of 1e-5 the term is very small: on MiniLM with a new head its gradient was 1e-5
      of the task's, and mostly rounding in bf16; with epsilon and step_size 1e-2 it was 0.3 of it, as with form mtdnn.
    - form mtdnn, the authors' code (github.com/namisan/mt-dnn) and most that is called SMART: ``noise <- n / (||n|| +
      epsilon)`` with ``n = noise + eta g``, norms over a token and no projection, so that every token's noise has a norm of
      up to 1 and epsilon (1e-6 there) only guards the division. g is of the sum over rows of 2 p (logit p - logit q), with
      factor and q detached; in the outer symmetric KL the target of each half is detached.

    Differences from the authors' code:
      * it passes the output of BERT's embedding layer as word embeddings, so that positions and layer norm are applied
        twice; here the noise is added to the words' vectors;
      * its two passes draw different dropout masks, so that the term is not 0 without noise; here both use the masks of the
        plain pass (`same`), or none (`off`, for one more pass).

    The paper's weights are 1, 3 and 5. Mgbahurike, Mlauzi and Ocran (Jack of All Trades, Master of Some, 2024) use 15, no
    dropout, and an epsilon of 1e-6, which is the guard of the division.
    """

    reads_weights = False
    cost = "2 forward and 2 backward passes per batch"

    def __init__(
        self,
        run: RunFacts,
        *,
        weight: Annotated[float, Field(ge=0, description="weight of the term (lambda_s in the paper)")] = 5.0,
        form: Annotated[
            Literal["paper", "mtdnn"],
            Field(description="projected noise of the paper, or normalized noise of its code"),
        ] = "paper",
        steps: Annotated[int, Field(ge=1, description="inner steps of the search for the worst noise")] = 1,
        epsilon: Annotated[
            float, Field(ge=0, description="paper: radius of the ball; mtdnn: guard of a division")
        ] = 1e-5,
        step_size: Annotated[float, Field(gt=0, description="size of an inner step (eta in the paper)")] = 1e-3,
        sigma: Annotated[float, Field(ge=0, description="standard deviation of the initial noise")] = 1e-5,
        norm: Annotated[Literal["inf", "l2"], Field(description="norm of the noise and of its gradient")] = "inf",
        dropout: Annotated[
            Literal["same", "off"],
            Field(description="same: the masks of the plain pass for all passes; off: no dropout"),
        ] = "same",
    ) -> None:
        super().__init__(run)
        self.weight, self.form, self.steps, self.epsilon = weight, form, steps, epsilon
        self.step_size, self.sigma, self.norm, self.dropout = step_size, sigma, norm, dropout
        self.purpose = seed_for(run.seed, "smart")
        self.forward_passes = self.backward_passes = steps + 1.0 + (dropout == "off")

    def forward(self, forward: Forward) -> Tensor:
        """Return the weighted term; the search for the noise leaves no gradient in parameters."""
        if self.dropout == "same":
            return self.weight * self._term(forward, forward.output)
        # The clean output has to be recomputed, because the plain pass used dropout.
        was_training = forward.model.training
        forward.model.eval()
        try:
            return self.weight * self._term(forward, forward.rerun())
        finally:
            forward.model.train(was_training)

    def _term(self, forward: Forward, clean: Tensor) -> Tensor:
        """Return the mean divergence between the clean output and that of the worst noise."""
        words = forward.word_embeddings()
        perturbed = forward.rerun(words + self._worst(forward, words.detach(), clean.detach()))
        first, second = forward.logits(perturbed), forward.logits(clean)
        if self.form == "paper" or first is None or second is None:
            return forward.divergence(perturbed, clean).mean()
        p, q = torch.log_softmax(first, -1), torch.log_softmax(second, -1)
        # Each half treats the other distribution as a constant target.
        a, b = p.detach(), q.detach()
        return (b.exp() * (b - p) + a.exp() * (a - q)).sum(-1).mean()

    def _worst(self, forward: Forward, words: Tensor, clean: Tensor) -> Tensor:
        """Return the noise (sides * n, length, dim) that the inner steps find to change the output most."""
        mask = forward.batch.mask
        padding = torch.zeros(words.shape[:2], dtype=torch.bool, device=words.device) if mask is None else ~mask
        padding = padding.unsqueeze(-1)
        # By row, so that a text gets the noise that it would get in any other batch.
        noise = self.sigma * normal_of_rows(forward.batch, words, self.purpose)
        # Noise at padding would change norms over the text.
        noise = noise.masked_fill(padding, 0)
        for _ in range(self.steps):
            noise.requires_grad_()
            inner = self._inner(forward, forward.rerun(words + noise), clean)
            # With respect to the noise alone; `backward` would add to the gradients of the parameters.
            (gradient,) = torch.autograd.grad(inner, noise)
            noise = self._moved(noise.detach(), gradient).masked_fill(padding, 0)
        return noise

    def _inner(self, forward: Forward, perturbed: Tensor, clean: Tensor) -> Tensor:
        """Return the objective that an inner step increases."""
        if self.form == "paper":
            return forward.divergence(perturbed, clean).mean()
        first, second = forward.logits(perturbed), forward.logits(clean)
        if first is None or second is None:
            return forward.divergence(perturbed, clean).sum()
        p, q = torch.softmax(first, -1), torch.softmax(second, -1)
        return (2 * p * (torch.logit(p, 1e-6) - torch.logit(q, 1e-6)).detach()).sum()

    def _moved(self, noise: Tensor, gradient: Tensor) -> Tensor:
        """Return the noise after one inner step along its gradient."""
        if self.form == "mtdnn":
            noise = noise + self.step_size * gradient
            # With epsilon 0 and zero noise, the quotient would be NaN.
            return noise / (self._size(noise, (-1,)) + self.epsilon).clamp_min(TINY)
        # The bound avoids 0 / 0 for a text whose gradient is 0.
        noise = noise + self.step_size * gradient / self._size(gradient, (1, 2)).clamp_min(TINY)
        if self.norm == "inf":
            return noise.clamp(-self.epsilon, self.epsilon)
        return noise * (self.epsilon / self._size(noise, (1, 2)).clamp_min(TINY)).clamp(max=1)

    def _size(self, tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Return the norm over these axes, which are kept with length 1."""
        return torch.linalg.vector_norm(tensor, torch.inf if self.norm == "inf" else 2, dim=axes, keepdim=True)
