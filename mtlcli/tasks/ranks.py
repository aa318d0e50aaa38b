"""Targets with ordered classes: ratings, grades, levels."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mtlcli.errors import MtlError, one_of, quotable
from mtlcli.tasks.classes import UNSEEN, Classes
from mtlcli.tasks.numbers import number_in
from mtlcli.tasks.ragged import Arrays, Ragged
from mtlcli.tasks.target_base import BadLabel, Raw, Target

if TYPE_CHECKING:
    from typing import Self

LONGEST_LIST = 8
"""Labels that a message lists."""
Decode = Literal["rank", "argmax", "mean"]


@dataclass(frozen=True)
class Ranks(Classes):
    """One of several classes in an order, lowest first. Gold and predictions are those of `Classes`.

    Attributes:
        decode: how probabilities become a class: `rank`, the number of k with P(y > k) > 1/2, which is the median; `argmax`; or `mean`,
            the class nearest to the mean of the class numbers.
        above: P(y > k) among the training rows for k = 0 .. C - 2; empty before the target is fitted.
    """

    kind = "ranks"

    decode: Decode = "rank"
    above: tuple[float, ...] = ()

    # No metric of ordered classes measures one of them.
    with_positive = Target.with_positive

    def describe(self) -> str:
        """Return `one of bad < fair < good`."""
        if not self.labels:
            return "one of the ordered classes of the training rows"
        return f"one of {' < '.join(map(quotable, self.labels))}"

    @property
    def meaning(self) -> str:
        """The labels in their order."""
        return f"the ordered labels {' < '.join(self.labels)}"

    def parse(self, raw: Raw) -> int:
        """Return the index of the class. A number that training rows lack would stand between others, so it is no class."""
        index: int = super().parse(raw)
        if index == UNSEEN and self.values is not None:
            names = ", ".join(map(quotable, self.labels[:LONGEST_LIST])) + (
                ", ..." if len(self.labels) > LONGEST_LIST else ""
            )
            raise BadLabel(
                "label",
                f": found '{quotable(raw['label'])}', expected one of those of the training rows, {names}; to allow others, list "
                "all in labels",
            )
        return index

    def fit(self, raws: Iterable[Raw]) -> "Self":
        """Return the target with the labels of training in the order of their numbers, and their shares.

        Raises:
            MtlError: labels that are not numbers have no order unless the configuration lists them.
        """
        labels = [raw["label"] for raw in raws]
        fitted = super().fit([{"label": label} for label in labels])
        if self.values is None and any(number_in(label) is None for label in fitted.labels):
            names = one_of(f'"{quotable(label)}"' for label in fitted.labels[:LONGEST_LIST])
            more = f" and {len(fitted.labels) - LONGEST_LIST} more" if len(fitted.labels) > LONGEST_LIST else ""
            raise MtlError(f"labels: {names}{more} have no order: list all labels here, the lowest first")
        # Parsed again, so that aliases and other spellings count for their class.
        counts = Counter(fitted.parse({"label": label}) for label in labels if label)
        total = sum(counts.values())
        above = tuple(
            sum(counts[index] for index in range(k + 1, len(fitted.labels))) / total
            for k in range(len(fitted.labels) - 1)
        )
        return replace(fitted, above=above)

    def record(self) -> dict[str, Any]:
        """Return what `Classes.record` does, how probabilities are decoded, and the shares of training."""
        return {**super().record(), "decode": self.decode, "above": list(self.above)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Self":
        """Return the target of a record."""
        return replace(super().of(record), decode=record["decode"], above=tuple(map(float, record["above"])))

    def decided(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the class (n,) int64 of probabilities (n, C), see `decode`."""
        if self.decode == "argmax":
            return probabilities.argmax(axis=1)
        if self.decode == "mean":
            numbers = probabilities @ np.arange(probabilities.shape[1])
            return np.clip(np.floor(numbers + 0.5), 0, probabilities.shape[1] - 1).astype(np.int64)
        above = 1 - probabilities[:, :-1].cumsum(axis=1, dtype=np.float64)
        # The rounding of float32 must not decide a tie of exactly one half.
        return (above > 0.5 + 1e-6).sum(axis=1)

    def is_close(self, predicted: Arrays, margin: float) -> np.ndarray:
        """Return which classes an error of `margin` in each probability could change."""
        if self.decode == "argmax":
            return super().is_close(predicted, margin)
        probabilities = predicted["probabilities"]
        classes = probabilities.shape[1]
        if self.decode == "mean":
            numbers = probabilities @ np.arange(classes)
            # The error of a mean is at most that of all its terms.
            near: np.ndarray = np.abs(numbers - np.floor(numbers) - 0.5) <= margin * classes * (classes - 1) / 2
            return near
        above = 1 - probabilities[:, :-1].cumsum(axis=1, dtype=np.float64)
        # P(y > k) is a sum of up to C probabilities, so its error is at most C times the margin.
        close: np.ndarray = (np.abs(above - 0.5) <= margin * classes).any(axis=1)
        return close

    def average(self, votes: Sequence[Arrays], owners: Sequence[Target]) -> Arrays:
        """Return the mean of the probabilities (n, C), so that of P(y > k) too, and the class that it gives."""
        mean = super().average(votes, owners)
        if len(votes) == 1:
            return mean
        # `Classes.average` took the most probable class, which need not be the one that `decode` asks for.
        return Ragged({"index": self.decided(mean["probabilities"]), "probabilities": mean["probabilities"]})


def logit(share: float) -> float:
    """Return log(p / (1 - p)) of a share that is kept off 0 and 1."""
    # A share of 0 or 1 would be an infinite bias or threshold at the start.
    bounded = min(max(share, 1e-3), 1 - 1e-3)
    return math.log(bounded / (1 - bounded))
