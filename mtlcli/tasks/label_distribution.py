"""Label distributions: a probability for each class as the label."""

from typing import Annotated

from pydantic import Field

from mtlcli.tasks.base import Task
from mtlcli.tasks.distributions import Distributions


class LabelDistribution(Task):
    """Predict a distribution over classes for a text.

    The label is a column of numbers for each class (`label: [joy, fear]`), or an object of JSON from classes to numbers.
    """

    target: Distributions
    heads = {"single": "linear"}
    metrics = ("total-variation", "kl-divergence", "accuracy")

    def __init__(
        self,
        name: str,
        *,
        counts: Annotated[
            bool,
            Field(description="whether numbers are counts, such as votes of annotators, and are divided by their sum"),
        ] = False,
    ) -> None:
        super().__init__(name)
        self.target = Distributions(counts=counts)
