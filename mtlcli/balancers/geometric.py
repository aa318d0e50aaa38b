"""GLS (geometric loss strategy): Chennupati et al. (MultiNet++), CVPR Workshops 2019, arXiv:1904.08492."""

from torch import Tensor

from mtlcli.balancers.base import Balancer

EPSILON = 1e-8
"""Smaller losses are clamped to this, which also removes their gradient."""


class Geometric(Balancer):
    """Minimize the geometric mean of the losses, so that halving any loss has the same effect, whatever its unit.

    ``GLS = (product of L_t)^(1/k)`` over the k tasks of the step, computed as ``exp(mean log L)``. The weight of task t is
    ``GLS / (k L_t)``, and its objective is GLS / k. A loss below 1e-8 is clamped and has weight 0.

    Native scale: own. It equals the mean if all losses are equal, and is larger otherwise.
    """

    needs = frozenset({"several-tasks"})
    native_scale = "own"
    assumes_zero = True
    cost = "gradient rows"

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Return the objectives (k,), each 1 / k of the geometric mean of losses (k,), means per row."""
        # In logs, because the product of many losses can overflow or underflow in float32.
        mean = losses.clamp_min(EPSILON).log().mean().exp()
        # The engine minimizes the sum of the objectives, so each is an equal part of the mean.
        return (mean / len(losses)).expand(len(losses))
