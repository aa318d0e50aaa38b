"""GLS (geometric loss strategy): Chennupati et al. (MultiNet++), CVPR Workshops 2019, arXiv:1904.08492."""

from torch import Tensor

from mtlcli.balancers.base import Balancer

SMALLEST = 1e-8
"""What a smaller loss counts as."""


class Geometric(Balancer):
    """Minimises the geometric mean of the losses: halving any loss is worth the same, whatever its unit.

    GLS = (product of L_t)^(1/k) over the k tasks of the step, computed as exp(mean log L), so that task t has the weight
    GLS / (k L_t) and each task 1/k of the objective. A loss below 1e-8 counts as 1e-8 and gets no weight. Native scale: its
    own; the mean where all losses are equal, more where they are not.
    """

    needs = frozenset({"several-tasks"})
    native_scale = "own"
    cost = "gradient rows"

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """losses (k,) mean per row -> objectives (k,), each the k-th part of their geometric mean."""
        mean = losses.clamp_min(SMALLEST).log().mean().exp()
        return (mean / len(losses)).expand(len(losses))
