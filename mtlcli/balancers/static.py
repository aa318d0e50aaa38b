"""Static weights: Chen, Zhang and Yang (Multi-Task Learning in Natural Language Processing: An Overview), 2024, section 3.1."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.errors import MtlError, suggest
from mtlcli.facts import RunFacts


class Static(Balancer):
    """Weight each task by a constant; tuned constants are the baseline that gradient methods have to beat (Xin et al., 2022).

    Lozano and Bravo (Exploring Multi-Task Learning for Robust Language Encoding with BERT, 2023, section 4) scale their
    losses so.

    Native scale: sum. Raises MtlError for a task that the run does not have.
    """

    def __init__(
        self,
        run: RunFacts,
        *,
        weights: Annotated[
            dict[str, Annotated[float, Field(ge=0)]], Field(description="weight by task name; 1 if omitted")
        ],
    ) -> None:
        super().__init__(run)
        names = [task.name for task in run.tasks]
        # A misspelled name would otherwise leave its task at weight 1 without notice.
        for name in weights:
            if name not in names:
                raise MtlError(f"balancer.weights.{name}: no such task{suggest(name, names)}")
        self.register_buffer("weights", torch.tensor([float(weights.get(name, 1.0)) for name in names]))
        self.weights: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Return the constants (k,) of these tasks."""
        return self.weights[tasks]
