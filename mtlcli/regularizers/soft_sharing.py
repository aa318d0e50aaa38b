"""Soft-sharing distance: Duong et al., ACL 2015, P15-2139; Guo, Pasunuru, Bansal, ACL 2018, arXiv:1805.11004."""

from typing import Annotated

import torch
from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.regularizers.base import Regularizer
from mtlcli.regularizers.snapshot import pull


class SoftSharingDistance(Regularizer):
    """Pulls the tasks' own encoders towards each other: the larger the weight, the closer to one shared encoder.

    The penalty is weight * sum_{i<j} ||theta_i - theta_j||^2 over all parameters of the towers; tower i gets
    2 weight sum_j (theta_i - theta_j) on top of its task's gradient, before clipping. The tower of a task that is not in the
    step stays where it is. Both papers tie a few layers of two models; this is every layer, and every two towers. The default
    weight is a choice of ours.
    """

    needs = frozenset({"towers"})
    cost = "two passes over the weights of every tower"

    def __init__(
        self,
        run: RunFacts,
        *,
        weight: Annotated[float, Field(ge=0, description="of the squared distance of every two towers")] = 1e-3,
    ) -> None:
        super().__init__(run)
        self.weight = weight

    def after_backward(self, model: MultiTaskModel) -> None:
        """Adds each tower's pull towards all others."""
        towers = [list(tower.parameters()) for tower in model.architecture.towers()]
        with torch.no_grad():
            mean = [torch.stack(same).mean(0) for same in zip(*towers, strict=True)]
        for tower in towers:  # sum_j (theta_i - theta_j) is T times the way from the mean
            pull(zip(tower, mean, strict=True), 2 * self.weight * len(towers))
