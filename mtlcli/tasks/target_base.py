"""The contract of a target: a task's label space, from the text in a file to losses, predictions and metrics."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from mtlcli.errors import MtlError
from mtlcli.tasks.class_loss import balanced_weights
from mtlcli.tasks.class_matches import ClassMatches
from mtlcli.tasks.items import Items
from mtlcli.tasks.ragged import Arrays, Tensors
from mtlcli.tasks.words import Text

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

Raw = Mapping[str, Any]
"""What a row's reader gives, by the names in `Target.columns`. `label` is text, or one of the further forms in `Target.forms`."""

Form = Literal["columns", "nested"]
"""A label besides the text of one cell: `columns`, the texts of several columns by name; `nested`, a list or object of JSON or
Parquet as it is, None for null and for a missing key."""


def states_nothing(label: Any) -> bool:
    """Return whether a label is an empty cell, null, or empty cells of all columns."""
    if isinstance(label, Mapping):
        return all(states_nothing(value) for value in label.values())
    return label is None or label == ""


LossOf = Callable[[Tensors], "Tensor"]
"""A head's loss (n,) of one output for other labels."""


class BadLabel(ValueError):
    """A label that cannot be read. `column` is one of `Target.columns`; the text goes on behind the column's name in the file."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(problem)
        self.column = column


class Target(ABC):
    """What a task predicts. Immutable; fitted once on the training rows, and stored with the run.

    One item is what one label stands for, and one unit of the loss: a row, a word of it, a token, a query (`unit`). Labels of a
    split, labels of a batch and predictions are all `Ragged`: arrays over items. Labels are called gold where predictions stand
    beside them.

    Attributes:
        kind: name of the label space, by which metrics say what they measure and run.json is read.
        unit: what one item is.
        columns: names of what `parse` reads of a row: `label`, and `texts` where it needs those too; empty for rows without labels.
        forms: what a label can be, besides the text of a cell.
        hub_task: name of such tasks on the Hugging Face Hub.
        noise: which of the two objectives of uncertainty weighting (Kendall et al. 2018, equations 7 and 10) fits the loss.
    """

    kind: ClassVar[str]
    unit: ClassVar[Literal["row", "word", "token", "query"]] = "row"
    columns: ClassVar[tuple[str, ...]] = ("label",)
    forms: ClassVar[frozenset[Form]] = frozenset()
    hub_task: ClassVar[str] = "text-classification"
    noise: ClassVar[Literal["softmax", "gaussian"]]

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes in index order; None for a target without classes."""
        return None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Lowest and highest prediction of a fitted score; None for a target that is no score."""
        return None

    @property
    def has_labels(self) -> bool:
        """True if it predicts labels by name, which a target that is not fitted may not know yet."""
        return self.labels is not None

    # What it is, in words

    @abstractmethod
    def describe(self) -> str:
        """Return what is predicted, for documentation: `one of bad, good`, `a score from 0 to 5`."""

    @property
    @abstractmethod
    def meaning(self) -> str:
        """What is predicted, in words that are equal exactly where predictions of two runs can be compared and averaged."""

    def agree(self, other: "Target") -> str:
        """Return "" where predictions for `other` can stand for this target, else what is different."""
        return "" if self.meaning == other.meaning else f"{other.meaning} instead of {self.meaning}"

    # Reading

    def declare(self, labels: Sequence[str] | None, bounds: Sequence[float] | None, where: str) -> "Self":
        """Return the target with the label names or the range that a configuration declares.

        Raises:
            MtlError: this target has no labels, or no range. `where` names the task's section.
        """
        for key, value in (("labels", labels), ("range", bounds)):
            if value is not None:
                raise MtlError(f"{where}.{key}: this task predicts {self.describe()}; remove {key}")
        return self

    def spelled(self, aliases: Mapping[str, str] | None, normalize: bool, where: str) -> "Self":
        """Return the target with other spellings of its labels.

        Args:
            aliases: the label that each of these texts stands for.
            normalize: read labels that look alike, such as `True` and `TRUE`, as the same label.
            where: the task's section, for messages.

        Raises:
            MtlError: this target has no labels, or an alias stands for no label.
        """
        for key, value in (("aliases", aliases), ("normalize_labels", normalize)):
            if value:
                raise MtlError(f"{where}.{key}: this task predicts {self.describe()}; remove {key}")
        return self

    def with_positive(self, label: str, where: str) -> "Self":
        """Return the target with the class that metrics of one class measure.

        Raises:
            MtlError: this target has no classes.
        """
        raise MtlError(f"{where}.positive: this task predicts {self.describe()}; remove positive")

    @abstractmethod
    def parse(self, raw: Raw) -> Any:
        """Return the item or items of one row, as numbers for `pack`. A target that is not fitted reads what it can.

        Raises:
            BadLabel: the row cannot be used; says what was found and what was expected.
        """

    def is_missing(self, label: Any) -> bool:
        """Return whether a label, in one of the target's forms, states nothing."""
        return states_nothing(label)

    def unlabeled(self, raw: Raw) -> Any:
        """Return the item or items of a row whose label is missing, which have no units.

        Raises:
            BadLabel: this target cannot keep such a row.
        """
        raise BadLabel("label", " is empty")

    @abstractmethod
    def fit(self, raws: Iterable[Raw]) -> "Self":
        """Return the target with everything that was left open (label names, range) taken from the training rows.

        Raises:
            MtlError: the rows leave something open; each line begins with the option of the task that settles it.
        """

    @abstractmethod
    def pack(self, items: Sequence[Any]) -> Arrays:
        """Return what `parse` gave for the rows of a split, as arrays."""

    @abstractmethod
    def is_constant(self, gold: Arrays) -> bool:
        """Return whether all training rows have the same label, so that there is nothing to learn."""

    def remarks(self, raws: Sequence[Raw], gold: Arrays, column: str, *, training: bool) -> list[str]:
        """Return what a user should know of a split's labels, a clause each. `column` is the label's name in the file."""
        return []

    def notes(self, raws: Sequence[Raw], *, training: bool) -> list[str]:
        """Return how labels were read and what they may mean, a clause each: nothing that a user must act on."""
        return []

    @abstractmethod
    def check(self, gold: Arrays) -> list[str]:
        """Return lines for `mtl check` about the labels of the training rows: names with counts, or range and spread."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Return the target as JSON values, exact to the last digit; `targets.target_of` reads them."""

    @classmethod
    @abstractmethod
    def of(cls, record: Mapping[str, Any]) -> "Self":
        """Return the target that gave this record.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: the record is damaged.
        """

    # A batch

    def collate(self, gold: Arrays, rows: np.ndarray, items: Items | None = None) -> Tensors:
        """Return the labels of some rows of a split as the tensors that `Head.loss` gets, all of them finite.

        Args:
            items: where the items of these rows stand, for labels that depend on it.
        """
        return gold.take(rows).tensors()

    @abstractmethod
    def known(self, gold: Any) -> Any:
        """Return which items have a label that can be learned (m,) bool, of arrays or of a batch's tensors."""

    def units(self, gold: Arrays) -> np.ndarray:
        """Return the loss units of each row (n,) float64: its items with a known label."""
        of_items = np.asarray(self.known(gold), dtype=np.float64)
        if gold.starts is None:
            return of_items
        # Differences of running counts give 0 for a row without items, for which reduceat returns an entry of the next
        # row.
        before = np.concatenate([np.zeros(1), of_items.cumsum()])
        return np.diff(before[gold.starts])

    @abstractmethod
    def outputs(self) -> int:
        """Return how many numbers a plain head gives for one item."""

    def strata(self, gold: Arrays) -> np.ndarray | None:
        """Return the class index of each row (n,) int64, by which batches can be composed; None for rows without a class."""
        return None

    def class_counts(self, gold: Arrays) -> np.ndarray | None:
        """Return how many items have each class (C,) int64, for class weights; None for items that have none.

        A target that overrides this supports `class_weights`, `label_smoothing` and `focal`.
        """
        return None

    def clusters(self, gold: Arrays) -> tuple[np.ndarray, int] | None:
        """Return one label for each item (m,) int64, -1 for an unknown one, and the number of labels, to compare data sets by.

        None where an item has several labels, or none.
        """
        return None

    def as_numbers(self, gold: Arrays) -> np.ndarray | None:
        """Return the labels of rows as numbers (n, C) float64 that a linear model can be fitted to, NaN for an unknown label.

        None for labels that are not one class or one score a row.
        """
        return None

    def perfect(self, gold: Arrays) -> Arrays:
        """Return the predictions of a model that is right about every label."""
        return gold

    def balanced_weights(self, gold: Arrays, *, root: bool = False) -> np.ndarray:
        """Return the weight of each class (C,) that `class_weights: auto` stands for; with `root`, `auto-sqrt`."""
        return balanced_weights(self._counts(gold), root=root)

    def mean_weight(self, gold: Arrays, weights: np.ndarray) -> float:
        """Return the mean class weight of what the loss is a mean over, for weights (C,) of the classes."""
        counts = self._counts(gold)
        return float(counts @ weights / counts.sum())

    def _counts(self, gold: Arrays) -> np.ndarray:
        counts = self.class_counts(gold)
        if counts is None:
            raise ValueError(f"{type(self).__qualname__} has no classes to weight")
        return counts

    @property
    def alternatives(self) -> int:
        """Between how many classes a loss decides: all of the target's, or 2 where each label holds or does not."""
        return len(self.labels or ())

    @abstractmethod
    def examples(self, n: int) -> Arrays:
        """Return n made-up labels spread evenly over the label space: plugins are tried on them."""

    # Losses

    @property
    @abstractmethod
    def guess(self) -> float:
        """Loss per unit of a model that knows nothing of the text."""

    @abstractmethod
    def divergence(self, a: "Tensor", b: "Tensor") -> "Tensor":
        """Return how far two outputs (m, ...) are apart, item by item (m,)."""

    def logits(self, output: "Tensor") -> "Tensor | None":
        """Return numbers (m, C) float32 whose softmax is what an output predicts; None for an output that is no distribution."""
        return None

    @property
    def feature_size(self) -> int:
        """How many numbers `as_features` gives for an item; 0 where a prediction means nothing outside its own row.

        A target that overrides this can be read by other tasks.
        """
        return 0

    def as_features(self, output: "Tensor") -> "Tensor":
        """Return an output (m, ...) as what other tasks can read of it (m, feature_size) float32: probabilities, or a score in
        standard deviations."""
        logits = self.logits(output)
        if logits is None:
            raise NotImplementedError(f"{type(self).__qualname__} cannot be read by other tasks")
        return logits.softmax(-1)

    def soft(self, predicted: Arrays) -> Arrays | None:
        """Return a teacher's predictions as what `soft_loss` learns from; None for a target that cannot be taught like this."""
        return None

    def where_known(self, soft: Arrays, gold: Arrays) -> Arrays:
        """Return a teacher's predictions without those for items of which no label is known, in rows that have some."""
        return soft

    def soft_loss(self, loss_of: LossOf, soft: Tensors) -> "Tensor":
        """Return the loss (n,) of an output under a teacher's predictions, by any head's loss for labels."""
        raise NotImplementedError(f"{type(self).__qualname__} cannot be taught by another run")

    # Predictions

    @abstractmethod
    def average(self, votes: Sequence[Arrays], owners: Sequence["Target"]) -> Arrays:
        """Return the mean of the predictions of several runs for the same rows.

        Args:
            votes: predictions of each run.
            owners: each run's own target, whose classes may stand in another order. A single vote stays as it is.
        """

    def merge(self, members: Sequence["Target"]) -> "Target":
        """Return the target of an ensemble whose first member has this one, and whose further members have `members`."""
        return self

    def caveat(self, members: Mapping[str, "Target"]) -> str:
        """Return what differs between runs that are averaged all the same, by name; "" where nothing does."""
        return ""

    @abstractmethod
    def as_json(
        self, predicted: Arrays, row: int, texts: Sequence[Text] = (), *, exact: bool = False
    ) -> dict[str, Any]:
        """Return the prediction for one row as JSON values.

        Args:
            texts: the row's texts, for predictions that are parts of them.
            exact: keep all digits of what metrics read, instead of six.
        """

    @abstractmethod
    def from_json(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Return the predictions that `as_json` wrote with `exact`, as far as metrics read them.

        Raises:
            ValueError, KeyError, TypeError: a row is no prediction of this target.
        """

    @abstractmethod
    def gold_json(self, gold: Arrays, row: int) -> Any:
        """Return the label of one row as a JSON value, None for one that is unknown."""

    @abstractmethod
    def gold_from_json(self, values: Sequence[Any]) -> Arrays:
        """Return the labels that `gold_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: a value is no label of this target.
        """

    # Decisions that dev rows settle

    def tune(self, predicted: Arrays, gold: Arrays) -> "Self":
        """Return the target with what decides between predictions, such as thresholds, fitted on dev rows.

        Called with the predictions of every evaluation for the dev rows that select checkpoints. The run is stored with the target
        of the selected checkpoint, so that its heads, and ensembles of it, decide by that.
        """
        return self

    def tuning(self) -> str:
        """Return what `tune` fitted, as a clause for the log of a run; "" where nothing is."""
        return ""

    def decide(self, predicted: Arrays) -> Arrays:
        """Return predictions as this target decides them, from the numbers behind them; as they are where nothing is tuned."""
        return predicted

    def is_close(self, predicted: Arrays, margin: float) -> np.ndarray:
        """Return which decisions an error of `margin` in the probabilities could change, in the shape of the decisions.

        By default the most probable class is predicted, and its probability is compared with the next one.
        """
        probabilities = predicted["probabilities"]
        # With one class, nothing can be decided differently.
        if probabilities.shape[-1] < 2:
            return np.zeros(len(probabilities), dtype=bool)
        best = np.partition(probabilities, -2, axis=-1)
        close: np.ndarray = best[..., -1] - best[..., -2] <= margin
        return close

    def with_threshold(self, threshold: float, where: str) -> "Self":
        """Return the target with the same threshold for every decision, in place of those that are tuned.

        Raises:
            MtlError: predictions do not depend on thresholds. `where` names the task.
        """
        raise MtlError(f"{where}: this task predicts {self.describe()}, without thresholds; remove the threshold")

    def widen(self, rows: Sequence[Mapping[str, Any]]) -> "Self":
        """Return the target with all labels that occur in predictions of other runs, after its own.

        Args:
            rows: as `as_json` wrote them, with the label of the row (`gold_json`) as `target`.
        """
        return self

    @abstractmethod
    def cells(self) -> list[str]:
        """Return the columns of predictions in CSV and TSV."""

    @abstractmethod
    def as_cells(self, predicted: Arrays, row: int, texts: Sequence[Text] = ()) -> dict[str, str]:
        """Return the cells of one row, by the names in `cells`."""

    def uncertainty(self, predicted: Tensors) -> "Tensor | None":
        """Return how unsure each prediction is (n,), from 0 to 1; None for predictions that do not tell."""
        return None

    def colour(self, gold: Arrays) -> tuple[np.ndarray, list[str]] | None:
        """Return groups of rows for a plot, a number of each row (n,) and the groups' names; None for rows that have none."""
        return None

    def class_matches(self, predicted: Arrays, gold: Arrays) -> ClassMatches | None:
        """Return which classes the rows have, are predicted to have, and have rightly; None for a target without classes.

        A target that overrides this has precision, recall and F1 of each class in `mtl eval --per-class` and in reports.
        """
        return None

    def confusion(self, predicted: Arrays, gold: Arrays) -> np.ndarray | None:
        """Return how often each class (rows) was predicted as each class (columns), by label index; None without classes."""
        return None
