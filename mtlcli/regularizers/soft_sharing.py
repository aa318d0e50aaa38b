"""Soft-sharing distance: Duong et al., ACL 2015, P15-2139; Guo, Pasunuru, Bansal, ACL 2018, arXiv:1805.11004."""

from typing import Annotated

import torch
from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.regularizers.base import Regularizer
from mtlcli.regularizers.snapshot import pull


class SoftSharingDistance(Regularizer):
    """Pull the tasks' encoders towards each other; the larger the weight, the closer the result is to one shared encoder.

    The penalty is ``weight * sum_{i<j} ||theta_i - theta_j||^2`` over all parameters of the towers; ``2 weight sum_j
    (theta_i - theta_j)`` is added to the gradient of tower i, before clipping. The tower of a task that is not in the step
    stays unchanged.

    Differences from the papers: both tie a few layers of two models; this ties all layers of all pairs of towers. The
    default weight is a choice made here.
    """

    needs = frozenset({"towers"})
    cost = "two passes over the weights of every tower"

    def __init__(
        self,
        run: RunFacts,
        *,
        weight: Annotated[
            float, Field(ge=0, description="weight of the squared distance between each pair of towers")
        ] = 1e-3,
    ) -> None:
        super().__init__(run)
        self.weight = weight

    def after_backward(self, model: MultiTaskModel) -> None:
        """Add the pull of each tower towards the mean of all."""
        towers = [list(tower.parameters()) for tower in model.architecture.towers()]
        # The pull is added to the gradients by hand, so it needs no graph.
        with torch.no_grad():
            mean = [torch.stack(same).mean(0) for same in zip(*towers, strict=True)]
        # sum_j (theta_i - theta_j) is T times the distance from the mean.
        for tower in towers:
            pull(zip(tower, mean, strict=True), 2 * self.weight * len(towers))
