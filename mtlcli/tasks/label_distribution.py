"""Label distributions: a probability for each class as the label."""

from typing import Annotated

from pydantic import Field

from mtlcli.tasks.base import Task
from mtlcli.tasks.distributions import Distributions

METRICS = ("total-variation", "kl-divergence", "accuracy")
Counts = Annotated[
    bool, Field(description="whether numbers are counts, such as votes of annotators, and are divided by their sum")
]


class LabelDistribution(Task):
    """Predict a distribution over classes for a text.

    The label is a column of numbers for each class (`label: [joy, fear]`), or an object of JSON from classes to numbers.
    """

    target: Distributions
    heads = {"single": "linear"}
    metrics = METRICS
    usual_labels = ("probabilities",)

    def __init__(self, name: str, *, counts: Counts = False) -> None:
        super().__init__(name)
        self.target = Distributions(counts=counts)


class PairLabelDistribution(Task):
    """Predict a distribution over classes for a pair of texts. Both texts are encoded as one sequence, unless set to `bi`.

    The label is a column of numbers for each class, or an object of JSON from classes to numbers.
    """

    pair = True
    target: Distributions
    heads = {"cross": "linear", "bi": "pair-concat"}
    metrics = METRICS
    usual_labels = ("probabilities",)

    def __init__(self, name: str, *, counts: Counts = False) -> None:
        super().__init__(name)
        self.target = Distributions(counts=counts)
