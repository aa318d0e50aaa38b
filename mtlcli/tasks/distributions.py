"""Targets with a distribution over classes as the label, such as the votes of several annotators."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlcli.errors import MtlError, did_you_mean, quotable
from mtlcli.tasks.classes import Classes
from mtlcli.tasks.items import Items
from mtlcli.tasks.numbers import number_in
from mtlcli.tasks.ragged import Arrays, Ragged, Tensors
from mtlcli.tasks.target_base import BadLabel, LossOf, Raw, Target
from mtlcli.tasks.words import Text

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

LONGEST_LIST = 8
"""Classes that a message lists."""
TOLERANCE = 1e-3
"""How far the sum of probabilities may be from 1."""


@dataclass(frozen=True)
class Distributions(Classes):
    """A probability for each of several classes.

    Gold: `probabilities` (n, C) float64, NaN in a row without a label; a batch has 0 there, and `known` (n,) bool. Predictions:
    `index`, the most probable class, and `probabilities` (n, C).

    Attributes:
        counts: numbers are divided by their sum, such as counts of annotators.
        entropy: mean entropy of the training labels in nats.
    """

    kind = "distribution"
    forms = frozenset({"columns", "nested"})

    counts: bool = False
    entropy: float | None = None

    # The options of classes are for rows with one certain class.
    class_counts = Target.class_counts
    clusters = Target.clusters
    as_numbers = Target.as_numbers
    strata = Target.strata
    confusion = Target.confusion
    class_matches = Target.class_matches
    with_positive = Target.with_positive

    def spelled(self, aliases: Mapping[str, str] | None, normalize: bool, where: str) -> "Self":
        """Return the classes with other names of columns or keys."""
        if normalize:
            raise MtlError(
                f"{where}.normalize_labels: the classes of this task are names of columns or keys; merge them with aliases"
            )
        return super().spelled(aliases, normalize, where)

    def describe(self) -> str:
        """Return `a distribution over joy, fear`."""
        return f"a distribution over {', '.join(map(quotable, self.labels)) or 'the classes of the training rows'}"

    @property
    def meaning(self) -> str:
        """The labels by name, whatever their order."""
        return f"a distribution over {', '.join(sorted(self.labels))}"

    # Reading

    def parse(self, raw: Raw) -> np.ndarray:
        """Return the probabilities (C,) float64; before the target is fitted, only check the label."""
        stated = self._stated(raw["label"])
        if self.values is None:
            return np.zeros(0)
        unknown = [name for name in stated if name not in self._by_name]
        if unknown:
            names = ", ".join(map(quotable, self.labels[:LONGEST_LIST])) + (
                ", ..." if len(self.labels) > LONGEST_LIST else ""
            )
            expected = f"those of the training rows, {names}" if self.learned else f"some of {names}"
            near = did_you_mean(unknown[0], self.labels)
            raise BadLabel("label", f": found the class '{quotable(unknown[0])}', expected {expected}{near}")
        probabilities = np.zeros(len(self.labels))
        for name, number in stated.items():
            probabilities[self._by_name[name]] = number
        return probabilities / probabilities.sum()

    def _stated(self, label: Any) -> dict[str, float]:
        """Return the numbers of a label by class.

        Raises:
            BadLabel: it is no distribution.
        """
        if isinstance(label, dict) and isinstance(label.get("probabilities"), dict):
            label = label["probabilities"]
        numbers_by_name = list(label.values()) if isinstance(label, dict) else [label]
        if numbers_by_name and all(number is None or number == "" for number in numbers_by_name):
            raise BadLabel("label", " is empty")
        if not isinstance(label, dict) or not label:
            raise BadLabel("label", ": expected a number for each class: several columns, or an object of JSON")
        numbers: dict[str, float] = {}
        for name, text in label.items():
            name = self.aliases.get(str(name), str(name))
            # An empty cell beside others is a probability of 0.
            number = number_in(str(text)) if text not in ("", None) else 0.0
            if number is None or number < 0:
                raise BadLabel(
                    "label", f": found '{quotable(str(text))}' for '{quotable(name)}', expected a number >= 0"
                )
            numbers[name] = numbers.get(name, 0.0) + number
        total = sum(numbers.values())
        if not total:
            raise BadLabel("label", ": all numbers are 0")
        # A sum of finite numbers can overflow.
        if not math.isfinite(total):
            raise BadLabel("label", ": the sum of the numbers is too large")
        if not self.counts and abs(total - 1) > TOLERANCE:
            raise BadLabel("label", f": probabilities sum to {total:.4g}, expected 1 (counts: true divides by the sum)")
        return numbers

    def unlabeled(self, raw: Raw) -> np.ndarray:
        """Return NaN for every class."""
        return np.full(len(self.labels), np.nan)

    def fit(self, raws: Iterable[Raw]) -> "Self":
        """Return the target with the classes of the training rows: columns in their order, keys of objects sorted."""
        names: dict[str, None] = {}
        rows = []
        for raw in raws:
            rows.append(self._stated(raw["label"]))
            names |= dict.fromkeys(rows[-1])
        # Rows of a table name all columns in the same order; objects name what they like.
        ordered = list(names) if all(list(row) == list(names) for row in rows) else sorted(names)
        values = self.values if self.values is not None else {name: name for name in ordered}
        entropies = []
        for row in rows:
            p = np.array([number for number in row.values() if number]) / sum(row.values())
            entropies.append(float(-(p * np.log(p)).sum()))
        return replace(self, values=values, learned=self.values is None, entropy=float(np.mean(entropies)))

    def pack(self, items: Sequence[np.ndarray]) -> Arrays:
        """Return `probabilities` (n, C) float64."""
        return Ragged({"probabilities": np.asarray(items, dtype=np.float64).reshape(len(items), len(self.labels))})

    def is_constant(self, gold: Arrays) -> bool:
        """Return whether all rows have the same distribution."""
        p = gold["probabilities"][self.known(gold)]
        return len(self.labels) < 2 or bool((p == p[:1]).all())

    def remarks(self, raws: Sequence[Raw], gold: Arrays, column: str, *, training: bool) -> list[str]:
        """Return that every label is one certain class."""
        certain = (gold["probabilities"][self.known(gold)].max(axis=1) > 1 - TOLERANCE).all()
        return ["every label is one certain class; is it kind: classification?"] if training and certain else []

    def notes(self, raws: Sequence[Raw], *, training: bool) -> list[str]:
        """Return nothing: probabilities are read as they are."""
        return []

    def check(self, gold: Arrays) -> list[str]:
        """Return the mean probability of the first ten classes."""
        means = gold["probabilities"][self.known(gold)].mean(axis=0)
        shown = [f"{quotable(label)} {mean:.3g}" for label, mean in zip(self.labels[:10], means, strict=False)]
        more = len(self.labels) - len(shown)
        return ["mean probabilities " + ", ".join(shown) + (f", and {more} more" if more else "")]

    def record(self) -> dict[str, Any]:
        """Return what `Classes.record` does, how numbers are read, and the mean entropy."""
        return {**super().record(), "counts": self.counts, "entropy": self.entropy}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Self":
        """Return the target of a record."""
        return replace(super().of(record), counts=record["counts"], entropy=record["entropy"])

    # A batch

    def collate(self, gold: Arrays, rows: np.ndarray, items: Items | None = None) -> Tensors:
        """Return `probabilities` without NaN, and `known`."""
        part = gold.take(rows)
        return Ragged({"probabilities": np.nan_to_num(part["probabilities"]), "known": self.known(part)}).tensors()

    def known(self, gold: Any) -> Any:
        """Return which rows have a label (n,)."""
        # NaN differs from itself, in arrays and tensors alike.
        return gold["known"] if "known" in gold else gold["probabilities"][:, 0] == gold["probabilities"][:, 0]

    def examples(self, n: int) -> Arrays:
        """Return distributions between a certain class and its neighbor."""
        classes = len(self.labels)
        first = np.arange(n) % classes
        p = np.zeros((n, classes))
        p[np.arange(n), first] = 0.75
        # Added and not assigned, because with one class both places are the same.
        p[np.arange(n), (first + 1) % classes] += 0.25
        return Ragged({"probabilities": p})

    def perfect(self, gold: Arrays) -> Arrays:
        """Return the label as prediction."""
        return Ragged({"index": gold["probabilities"].argmax(axis=1), "probabilities": gold["probabilities"]})

    # Losses

    @property
    def guess(self) -> float:
        """log C minus the mean entropy of the labels: the mean divergence of a uniform guess."""
        # Above 0 for uniform labels too, because schedulers divide losses by it.
        return max(1e-3, math.log(max(2, len(self.labels))) - (self.entropy or 0.0))

    def soft(self, predicted: Arrays) -> Arrays:
        """Return `probabilities` (n, C)."""
        return Ragged({"probabilities": predicted["probabilities"]})

    def soft_loss(self, loss_of: LossOf, soft: Tensors) -> "Tensor":
        """Return the loss for the teacher's probabilities, which take the place of the label."""
        return loss_of(soft)

    # Predictions

    def as_json(
        self, predicted: Arrays, row: int, texts: Sequence[Text] = (), *, exact: bool = False
    ) -> dict[str, Any]:
        """Return `label`, the most probable class, and `probabilities` by label."""
        values = super().as_json(predicted, row, texts)
        if exact:
            values["probabilities"] = dict(zip(self.labels, predicted["probabilities"][row].tolist(), strict=True))
        return values

    def from_json(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Return `index` and `probabilities`."""
        probabilities = self._rows_of([row["probabilities"] for row in rows])
        return Ragged(
            {"index": np.array([self._index_of(row["label"]) for row in rows]), "probabilities": probabilities}
        )

    def gold_json(self, gold: Arrays, row: int) -> Any:
        """Return the probabilities by label."""
        p = gold["probabilities"][row].tolist()
        return None if math.isnan(p[0]) else dict(zip(self.labels, p, strict=True))

    def gold_from_json(self, values: Sequence[Any]) -> Arrays:
        """Return `probabilities`, NaN for None."""
        return Ragged({"probabilities": self._rows_of(values)})

    def _rows_of(self, values: Sequence[Any]) -> np.ndarray:
        """Return probabilities by label as rows (n, C), NaN for None."""
        rows = np.full((len(values), len(self.labels)), np.nan)
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[:] = [float(value[label]) for label in self.labels]
        return rows

    def widen(self, rows: Sequence[Mapping[str, Any]]) -> "Self":
        """Return the target as it is: a distribution names all its classes."""
        return self

    def colour(self, gold: Arrays) -> tuple[np.ndarray, list[str]]:
        """Return the most probable class."""
        return np.nan_to_num(gold["probabilities"]).argmax(axis=1), list(self.labels)
