"""Equal norms: an example to change. Say here where the method is from: authors, venue, year, arXiv id."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale


class Example(GradientRegularizer):
    """Scale every task's gradient to the mean norm before adding them, so that no task dominates.

    A gradient of norm zero stays zero. Native scale: sum.
    """

    native_scale = "sum"

    def __init__(
        self,
        run: RunFacts,
        *,
        scale: Annotated[Scale, Field(description="native is sum; mean divides by the number of tasks")] = "native",
    ) -> None:
        super().__init__(run)
        self.scale = scale

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """Return weights (k,) for a Gram matrix (k, k), float64 on the CPU."""
        norms = gram.diagonal().sqrt()
        return torch.where(norms > 0, norms.mean() / norms, 1.0)
