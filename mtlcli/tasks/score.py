"""Targets with a score: each row has one number."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlcli.errors import MtlError, one_of, quotable
from mtlcli.tasks.items import Items
from mtlcli.tasks.numbers import number_in
from mtlcli.tasks.ragged import Arrays, Ragged, Tensors
from mtlcli.tasks.target_base import BadLabel, LossOf, Raw, Target
from mtlcli.tasks.words import Text

if TYPE_CHECKING:
    from torch import Tensor

BINS = 5
"""Groups of rows in a plot, equal parts of the range, and in `clusters`, equal parts of the rows."""


@dataclass(frozen=True)
class Score(Target):
    """A number between `low` and `high`, in the units of the file.

    Gold and predictions: `value` (n,) float64; NaN is a row without label. A batch that holds one has 0 in its place, and
    `known` (n,) bool beside it. Heads learn scores in standard deviations from the mean of the training rows.

    Attributes:
        low, high: the range to which predictions are clamped; None: not fitted yet, the range is that of training.
        mean, std: of the training rows, std 1 where all are equal.
    """

    kind = "score"
    noise = "gaussian"

    low: float | None = None
    high: float | None = None
    mean: float = 0.0
    std: float = 1.0

    @property
    def range(self) -> tuple[float, float]:
        """The range of a declared or fitted target.

        Raises:
            ValueError: the target is neither.
        """
        if self.low is None or self.high is None:
            raise ValueError("the range of a score is not known before it is fitted on training rows")
        return self.low, self.high

    @property
    def bounds(self) -> tuple[float, float]:
        """The range."""
        return self.range

    def describe(self) -> str:
        """Return `a score from 0 to 5`."""
        if self.low is None or self.high is None:
            return "a score in the range of the training rows"
        return f"a score from {self.low:g} to {self.high:g}"

    @property
    def meaning(self) -> str:
        """Scores of different ranges can be compared and averaged, with a caveat."""
        return "a score"

    # Reading

    def declare(self, labels: Sequence[str] | None, bounds: Sequence[float] | None, where: str) -> "Score":
        """Return the score with this range."""
        if labels is not None:
            raise MtlError(f"{where}.labels: this task predicts a score; it has a range, not labels")
        return self if bounds is None else Score(*bounds)

    def parse(self, raw: Raw) -> float:
        """Return the score."""
        text = raw["label"]
        if not text:
            raise BadLabel("label", " is empty")
        number = number_in(text)
        if number is None:
            raise BadLabel("label", f": found '{quotable(text)}', expected a number")
        return number

    def unlabeled(self, raw: Raw) -> float:
        """Return NaN."""
        return float("nan")

    def fit(self, raws: Iterable[Raw]) -> "Score":
        """Take mean and standard deviation from the training rows, and the range where none was declared."""
        numbers = np.asarray([self.parse(raw) for raw in raws], dtype=np.float64)
        low = float(numbers.min()) if self.low is None else self.low
        high = float(numbers.max()) if self.high is None else self.high
        return Score(low, high, float(numbers.mean()), float(numbers.std()) or 1.0)

    def pack(self, items: Sequence[float]) -> Arrays:
        """Return `value` (n,) float64."""
        return Ragged({"value": np.asarray(items, dtype=np.float64)})

    def is_constant(self, gold: Arrays) -> bool:
        """Return whether all scores are equal."""
        return bool((gold["value"] == gold["value"][0]).all())

    def remarks(self, raws: Sequence[Raw], gold: Arrays, column: str, *, training: bool) -> list[str]:
        """Return how many scores are outside a declared range."""
        low, high = self.range
        outside = int(((gold["value"] < low) | (gold["value"] > high)).sum())
        return [f"{outside} scores are outside [{low:g}, {high:g}]; predictions never are"] if outside else []

    def check(self, gold: Arrays) -> list[str]:
        """Return range, mean and standard deviation."""
        values = gold["value"][self.known(gold)]
        return [
            f"scores {values.min():g} to {values.max():g}, mean {values.mean():.3g}, standard deviation {values.std():.3g}"
        ]

    def record(self) -> dict[str, Any]:
        """Return range, mean and standard deviation."""
        return {"kind": self.kind, "low": self.low, "high": self.high, "mean": self.mean, "std": self.std}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Score":
        """Return the score of a record."""
        low, high = (None if record[key] is None else float(record[key]) for key in ("low", "high"))
        return cls(low, high, float(record["mean"]), float(record["std"]))

    # A batch

    def collate(self, gold: Arrays, rows: np.ndarray, items: Items | None = None) -> Tensors:
        """Return `value` without NaN, and where there was one, `known`: 0 times NaN would still be NaN in a gradient."""
        part = gold.take(rows)
        has_label = self.known(part)
        if has_label.all():
            return part.tensors()
        return Ragged({"value": np.where(has_label, part["value"], 0.0), "known": has_label}).tensors()

    def known(self, gold: Any) -> Any:
        """Return which rows have a score (n,)."""
        # NaN differs from itself, in arrays and tensors alike.
        return gold["known"] if "known" in gold else gold["value"] == gold["value"]

    def outputs(self) -> int:
        """Return 1."""
        return 1

    def examples(self, n: int) -> Arrays:
        """Return scores from the low end of the range to the high one."""
        return self.pack(np.linspace(*self.range, n).tolist())

    # Losses

    def clusters(self, gold: Arrays) -> tuple[np.ndarray, int] | None:
        """Return bins of equally many rows, fewer where many scores are equal."""
        values, known = gold["value"], np.asarray(self.known(gold))
        edges = np.unique(np.quantile(values[known], np.arange(1, BINS) / BINS)) if known.any() else np.zeros(0)
        return np.where(known, np.searchsorted(edges, values, side="right"), -1), len(edges) + 1

    def as_numbers(self, gold: Arrays) -> np.ndarray | None:
        """Return the scores in one column."""
        return np.where(self.known(gold), gold["value"], np.nan)[:, None]

    @property
    def guess(self) -> float:
        """1: squared error of the training mean, in standard deviations."""
        return 1.0

    def divergence(self, a: "Tensor", b: "Tensor") -> "Tensor":
        """Return (a - b)^2 of two scores (n,) (Jiang et al. 2020, SMART, section 3.1)."""
        return (a.float() - b.float()) ** 2

    @property
    def feature_size(self) -> int:
        """One number."""
        return 1

    def as_features(self, output: "Tensor") -> "Tensor":
        """Return the score in standard deviations of the training rows."""
        return output.float().unsqueeze(-1)

    def soft(self, predicted: Arrays) -> Arrays:
        """Return `value`: the teacher's score takes the place of the label."""
        return Ragged({"value": predicted["value"]})

    def soft_loss(self, loss_of: LossOf, soft: Tensors) -> "Tensor":
        """Return the loss for the teacher's score."""
        return loss_of(soft)

    # Predictions

    def average(self, votes: Sequence[Arrays], owners: Sequence[Target]) -> Arrays:
        """Return the mean, in the units of the file."""
        if len(votes) == 1:
            return votes[0]
        return Ragged({"value": np.stack([vote["value"] for vote in votes]).mean(axis=0, dtype=np.float64)})

    def merge(self, members: Sequence[Target]) -> "Score":
        """Return the score with the smallest range that holds those of all members."""
        ranges = [self.range, *(member.range for member in members if isinstance(member, Score))]
        return replace(self, low=min(low for low, _ in ranges), high=max(high for _, high in ranges))

    def caveat(self, members: Mapping[str, Target]) -> str:
        """Return the members' ranges where they differ."""
        ranges = {name: member.range for name, member in members.items() if isinstance(member, Score)}
        if len(set(ranges.values())) < 2:
            return ""
        spans = one_of(f"{name} {low:g} to {high:g}" for name, (low, high) in ranges.items())
        return f"the runs have scores of different ranges ({spans}), averaged as they are"

    def as_json(
        self, predicted: Arrays, row: int, texts: Sequence[Text] = (), *, exact: bool = False
    ) -> dict[str, Any]:
        """Return `score`."""
        value = float(predicted["value"][row])
        return {"score": value if exact else round(value, 6)}

    def from_json(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Return `value`."""
        predicted = self.pack([float(row["score"]) for row in rows])
        # Python reads NaN and Infinity in JSON.
        if not np.isfinite(predicted["value"]).all():
            raise ValueError("a score is not finite")
        return predicted

    def gold_json(self, gold: Arrays, row: int) -> float | None:
        """Return the score."""
        value = float(gold["value"][row])
        return value if value == value else None

    def gold_from_json(self, values: Sequence[Any]) -> Arrays:
        """Return `value`, NaN for None."""
        return self.pack([float("nan") if value is None else float(value) for value in values])

    def cells(self) -> list[str]:
        """Return `score`."""
        return ["score"]

    def as_cells(self, predicted: Arrays, row: int, texts: Sequence[Text] = ()) -> dict[str, str]:
        """Return the score with six digits."""
        return {"score": f"{float(predicted['value'][row]):.6f}"}

    def colour(self, gold: Arrays) -> tuple[np.ndarray, list[str]]:
        """Return equal parts of the range."""
        low, high = self.range
        # A range of one number has a width of 0, by which nothing can be divided.
        width = (high - low) / BINS or 1.0
        values = np.nan_to_num(gold["value"], nan=low)
        groups = np.clip(((values - low) / width).astype(int), 0, BINS - 1)
        return groups, [f"{low + width * part:g} to {low + width * (part + 1):g}" for part in range(BINS)]
