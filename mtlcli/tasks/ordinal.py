"""Ordinal classification: classes in an order, such as ratings."""

from typing import Annotated

from pydantic import Field

from mtlcli.tasks.base import Task
from mtlcli.tasks.ranks import Decode, Ranks

METRICS = ("quadratic-weighted-kappa", "mae", "accuracy", "within-one")
Decoding = Annotated[
    Decode,
    Field(
        description="how probabilities become a class: rank, the median; argmax; or mean, the class nearest to the mean"
    ),
]


class Ordinal(Task):
    """Predict one of several ordered classes of a text: numbers, or names that `labels` lists from the lowest to the highest."""

    target: Ranks
    heads = {"single": "ordinal-cumulative"}
    metrics = METRICS

    def __init__(self, name: str, *, decode: Decoding = "rank") -> None:
        super().__init__(name)
        self.target = Ranks(decode=decode)


class PairOrdinal(Task):
    """Predict one of several ordered classes of a pair of texts. Both texts are encoded as one sequence, unless set to `bi`."""

    pair = True
    target: Ranks
    heads = {"cross": "ordinal-cumulative", "bi": "pair-concat"}
    metrics = METRICS

    def __init__(self, name: str, *, decode: Decoding = "rank") -> None:
        super().__init__(name)
        self.target = Ranks(decode=decode)
