"""Targets with any number of labels for each row."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mtlcli.errors import MtlError, did_you_mean, one_of, quotable
from mtlcli.tasks.class_loss import LARGEST_WEIGHT
from mtlcli.tasks.class_matches import ClassMatches
from mtlcli.tasks.numbers import number_in
from mtlcli.tasks.ragged import Arrays, Ragged, Tensors
from mtlcli.tasks.set_labels import Marks, marks_in
from mtlcli.tasks.spelling import float_spellings, look_alikes, plain_form
from mtlcli.tasks.target_base import BadLabel, LossOf, Raw, Target, states_nothing
from mtlcli.tasks.thresholds import HALF, tuned_thresholds
from mtlcli.tasks.words import Text

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN = 255
"""Entry of a label of which a row says nothing: nothing is learned from it, and no metric counts it."""


class Row(NamedTuple):
    """A row as `parse` reads it: the labels that hold and those that are unknown, by index, and how many training never saw."""

    positive: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    unseen: int = 0


@dataclass(frozen=True)
class LabelSets(Target):
    """Any number of C labels for each row, none included.

    Gold: `set` (n, C) uint8, 1 where a label holds, 0 where it does not, UNKNOWN where the row does not say; and `unseen` (n,)
    int64, how many labels of a row training never saw, each of which counts as missed. Predictions: `set` and `probabilities`
    (n, C), the latter absent where a head gives none.

    Attributes:
        names: names of the labels in index order; None: not fitted yet, they are those of training.
        learned: the labels are those of training, so that evaluated rows may have others. Declared labels bind every split.
        separator: what stands between the labels in a cell.
        aliases: texts that stand for a label.
        normalize: labels that look alike are one label, named by the most frequent spelling in training.
        thresholds: probability from which each label is predicted (C,); None: 0.5 for all.
    """

    kind = "label-set"
    forms = frozenset({"columns", "nested"})
    noise = "softmax"

    names: tuple[str, ...] | None = None
    learned: bool = False
    separator: str = "|"
    aliases: Mapping[str, str] = field(default_factory=dict)
    normalize: bool = False
    thresholds: tuple[float, ...] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels in index order; empty before the target is fitted."""
        return self.names or ()

    @cached_property
    def _indices(self) -> dict[str, int]:
        """Index of a label by its name, and by a whole number as a spreadsheet writes it."""
        index = {name: number for number, name in enumerate(self.labels)}
        # Names take precedence over other spellings of numbers.
        return {text: index[written] for text, written in float_spellings(index).items()} | index

    @cached_property
    def _plain_indices(self) -> dict[str, int]:
        """Index of a label by the plain form of its name."""
        # Reversed, so that of two labels that look alike the first one remains.
        return {plain_form(name): number for name, number in reversed(self._indices.items())}

    @property
    def levels(self) -> tuple[float, ...]:
        """The thresholds of all labels, those that are not tuned included."""
        return tuple(self.thresholds or [HALF] * len(self.labels))

    @cached_property
    def _levels(self) -> np.ndarray:
        """The thresholds (C,) float64."""
        return np.array(self.levels, dtype=np.float64)

    def describe(self) -> str:
        """Return `any of praise, speed`."""
        return (
            f"any of {one_of(map(quotable, self.labels))}" if self.labels else "any of the labels of the training rows"
        )

    @property
    def meaning(self) -> str:
        """The labels by name, whatever their order and thresholds."""
        return f"any of the labels {one_of(sorted(self.labels))}"

    # Reading

    def declare(self, labels: Sequence[str] | None, bounds: Sequence[float] | None, where: str) -> "LabelSets":
        """Return the target with labels of these names in this order."""
        if bounds is not None:
            raise MtlError(f"{where}.range: this task predicts labels; it has no range")
        if labels is None:
            return self
        names = tuple(label.strip() for label in labels)
        if not names or len(set(names)) < len(names) or "" in names:
            raise MtlError(f"{where}.labels: found {list(names)}: expected one or more different names")
        return replace(self, names=names, learned=False)

    def spelled(self, aliases: Mapping[str, str] | None, normalize: bool, where: str) -> "LabelSets":
        """Return the target with aliases and, on request, without differences that do not show."""
        aliases = {text.strip(): label.strip() for text, label in (aliases or {}).items()}
        unknown = [label for label in aliases.values() if self.names is not None and label not in self._indices]
        if unknown:
            raise MtlError(f"{where}.aliases: found the label {unknown[0]!r}, expected one of {one_of(self.labels)}")
        if chained := [label for text, label in aliases.items() if label in aliases and label != text]:
            raise MtlError(f"{where}.aliases: {chained[0]!r} is both an alias and a label; give its final label")
        return replace(self, aliases=aliases, normalize=normalize) if aliases or normalize else self

    def parse(self, raw: Raw) -> Row:
        """Return the labels of a row; before the target is fitted, only check the label's form."""
        marks = self._marks(raw)
        if self.names is None:
            return Row()
        if marks is None:
            return Row(unknown=self._all)
        positive, negative, unseen = set[int](), set[int](), 0
        for name, holds in marks.holds.items():
            index = self._index(name)
            if index is not None:
                if holds is not None:
                    # Two columns can have aliases of one label, which then holds if either column says so.
                    (positive if holds else negative).add(index)
            elif not self.learned:
                raise BadLabel("label", self._not_declared(name))
            else:
                unseen += holds is True
        stated = positive | negative
        unknown = () if marks.is_complete else (index for index in self._all if index not in stated)
        return Row(tuple(sorted(positive)), tuple(unknown), unseen)

    @cached_property
    def _all(self) -> tuple[int, ...]:
        return tuple(range(len(self.labels)))

    def is_missing(self, label: Any) -> bool:
        """Return whether a label states nothing; an empty text is a row without labels."""
        return label != "" and states_nothing(label)

    def unlabeled(self, raw: Raw) -> Row:
        """Return a row of which no label is known."""
        return Row(unknown=self._all)

    def _marks(self, raw: Raw) -> Marks | None:
        """Return what a row says, numbers replaced by the labels that they count."""
        marks = marks_in(raw["label"], self.separator)
        if marks is None or not self.declares:
            if marks is not None and marks.numbers:
                raise BadLabel(
                    "label",
                    f": found the number {min(marks.numbers)}; list the labels that numbers stand for in labels",
                )
            return marks
        if marks.numbers:
            return replace(marks, holds={self._counted(name, marks): holds for name, holds in marks.holds.items()})
        numbered = not marks.is_complete and all(name.isdecimal() for name in marks.holds)
        if numbered and len(marks.holds) == len(self.labels) and not set(marks.holds) & set(self._indices):
            # Columns of a file without a header, in the order of the labels.
            return replace(marks, holds=dict(zip(self.labels, marks.holds.values(), strict=True)))
        return marks

    @property
    def declares(self) -> bool:
        """Whether the configuration lists the labels."""
        return self.names is not None and not self.learned

    def _counted(self, name: str, marks: Marks) -> str:
        """Return the label that a number counts from 0."""
        if name not in marks.numbers or name in self._indices:
            return name
        if not name.isdecimal() or int(name) >= len(self.labels):
            raise BadLabel(
                "label", f": found the number {name}, expected one from 0 to {len(self.labels) - 1} (labels)"
            )
        return self.labels[int(name)]

    def _index(self, name: str) -> int | None:
        name = self.aliases.get(name, name)
        index = self._indices.get(name)
        return self._plain_indices.get(plain_form(name)) if index is None and self.normalize else index

    def _not_declared(self, name: str) -> str:
        listed = f"{one_of(map(quotable, self.labels[:8]))}{', ...' if len(self.labels) > 8 else ''}"
        return f': found "{quotable(name)}", expected any of {listed}{did_you_mean(name, self.labels)}'

    def fit(self, raws: Iterable[Raw]) -> "LabelSets":
        """Return the target with the labels of the training rows: columns in their order, and names sorted."""
        if self.names is not None:
            return self
        counts, columns = Counter[str](), dict[str, None]()
        for raw in raws:
            marks = self._marks(raw)
            for name, holds in () if marks is None else marks.holds.items():
                name = self.aliases.get(name, name)
                # Names with a count of 0 are kept, because a column of zeros is a label too.
                counts[name] += holds is True
                if marks is not None and not marks.is_complete:
                    columns[name] = None
        if self.normalize:
            for group in look_alikes(sorted(counts)):
                spelling = max(group, key=lambda name: counts[name])
                counts[spelling] = sum(counts.pop(name) for name in group)
        numeric = all(number_in(name) is not None for name in counts)
        ordered = sorted(counts, key=lambda name: (float(name) if numeric else 0.0, name))
        # With `normalize`, the name of a column can have been merged into another spelling.
        first = [name for name in columns if name in counts]
        return replace(self, names=tuple(dict.fromkeys([*first, *ordered])), learned=True)

    def pack(self, items: Sequence[Row]) -> Arrays:
        """Return `set` (n, C) uint8 and `unseen` (n,) int64."""
        sets = np.zeros((len(items), len(self.labels)), dtype=np.uint8)
        for number, item in enumerate(items):
            sets[number, list(item.unknown)] = UNKNOWN
            sets[number, list(item.positive)] = 1
        return Ragged({"set": sets, "unseen": np.array([item.unseen for item in items], dtype=np.int64)})

    def is_constant(self, gold: Arrays) -> bool:
        """Return whether no label holds in some rows and not in others."""
        return not ((gold["set"] == 1).any(0) & (gold["set"] == 0).any(0)).any()

    def remarks(self, raws: Sequence[Raw], gold: Arrays, column: str, *, training: bool) -> list[str]:
        """Return doubts about the form of the labels, labels without a positive row, or labels that training never saw."""
        marks = [marks for raw in raws if (marks := self._marks(raw)) is not None]
        remarks = []
        if repeated := sum(row.repeated > 0 for row in marks):
            remarks.append(f"{_rows(repeated)} with a label that is named twice, which counts once")
        if not training:
            unseen = Counter(
                name for row in marks for name, holds in row.holds.items() if holds and self._index(name) is None
            )
            if unseen:
                listed = ", ".join(f"'{quotable(name)}' ({count})" for name, count in unseen.most_common(5))
                rows = int((gold["unseen"] > 0).sum())
                remarks.append(f"{_rows(rows)} with a label unseen in training, counted as missed: {listed}")
            return remarks
        absent = [self.labels[index] for index in np.flatnonzero(self.class_counts(gold) == 0).tolist()]
        if absent:
            listed = one_of(f'"{quotable(name)}"' for name in absent[:5]) + (", ..." if len(absent) > 5 else "")
            remarks.append(f"no training row has {listed}: the model learns that it never holds")
        if all(sum(map(bool, row.holds.values())) == 1 for row in marks):
            remarks.append(self._single_doubt(marks))
        if len(self.labels) > max(20, len(raws) / 4):
            remarks.append(
                f'{len(raws)} rows have {len(self.labels)} different labels; is "{column}" the right column?'
            )
        return remarks

    def notes(self, raws: Sequence[Raw], *, training: bool) -> list[str]:
        """Return how many rows leave labels unknown."""
        items = [self.parse(raw) for raw in raws]
        partly = sum(bool(item.unknown) for item in items)
        nothing = sum(len(item.unknown) == len(self.labels) for item in items)
        return (
            [f"{_rows(partly)} that leave labels unknown, {nothing} of them all: nothing is learned there"]
            if partly
            else []
        )

    def _single_doubt(self, marks: Sequence[Marks]) -> str:
        """Return the doubt about rows with exactly one label each: another separator, or another kind of task."""
        names = [name for row in marks for name in row.holds]
        for separator in (",", ";", "|", "/"):
            if separator != self.separator and sum(separator in name for name in names) > len(names) / 3:
                return f'every row has exactly one label, and many contain "{separator}"; is it a separator? (separator: "{separator}")'
        return "every row has exactly one label; is this kind: classification?"

    def check(self, gold: Arrays) -> list[str]:
        """Return the ten first labels with their rows, and how many rows have none or an unknown label."""
        counts, sets = self.class_counts(gold), gold["set"]
        shown = [f"{quotable(name)} {count}" for name, count in zip(self.labels[:10], counts.tolist(), strict=False)]
        more = len(self.labels) - len(shown)
        none, partly = int((sets == 0).all(1).sum()), int((sets == UNKNOWN).any(1).sum())
        mean = counts.sum() / max(1, int(self.known(gold).sum()))
        parts = [f"{mean:.3g} per row", f"{_rows(none)} without any"] + (
            [f"{partly} with unknown ones"] if partly else []
        )
        return ["labels " + ", ".join(shown) + (f", and {more} more" if more else "") + f"; {', '.join(parts)}"]

    def record(self) -> dict[str, Any]:
        """Return the labels, how files write them, and the thresholds."""
        return {
            "kind": self.kind, "names": None if self.names is None else list(self.names), "learned": self.learned,
            "separator": self.separator, "aliases": dict(self.aliases), "normalize": self.normalize,
            "thresholds": None if self.thresholds is None else list(self.thresholds),
        }  # fmt: skip

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "LabelSets":
        """Return the target of a record."""
        names, thresholds = record["names"], record["thresholds"]
        target = cls(
            None if names is None else tuple(map(str, names)), record["learned"], str(record["separator"]),
            {str(text): str(label) for text, label in record["aliases"].items()}, record["normalize"],
            None if thresholds is None else tuple(map(float, thresholds)),
        )  # fmt: skip
        if target.thresholds is not None and len(target.thresholds) != len(target.labels):
            raise ValueError(f"{len(target.thresholds)} thresholds for {len(target.labels)} labels")
        return target

    # A batch

    def known(self, gold: Any) -> Any:
        """Return which rows say something of a label (n,)."""
        return (gold["set"] != UNKNOWN).any(-1)

    def outputs(self) -> int:
        """Return the number of labels."""
        return len(self.labels)

    def class_counts(self, gold: Arrays) -> np.ndarray:
        """Return the rows in which each label holds."""
        return (gold["set"] == 1).sum(0, dtype=np.int64)

    def balanced_weights(self, gold: Arrays, *, root: bool = False) -> np.ndarray:
        """Return how many rows without a label there are for each row with it (C,), from 1 to 100; 1 for one that never holds."""
        positives, negatives = self.class_counts(gold), (gold["set"] == 0).sum(0, dtype=np.int64)
        ratios = np.where(positives > 0, negatives / np.maximum(positives, 1), 1.0)
        clipped: np.ndarray = np.clip(np.sqrt(ratios) if root else ratios, 1.0, LARGEST_WEIGHT)
        return clipped

    def mean_weight(self, gold: Arrays, weights: np.ndarray) -> float:
        """Return the mean factor of the loss of a label in a row: its weight where it holds, else 1."""
        positives, negatives = self.class_counts(gold), int((gold["set"] == 0).sum())
        return float((positives @ weights + negatives) / (positives.sum() + negatives))

    @property
    def alternatives(self) -> int:
        """2: each label holds or does not."""
        return 2

    def examples(self, n: int) -> Arrays:
        """Return rows without a label, with one, with two, ...: each label holds in a third of the rows, or in half of them if alone."""
        rows, labels = np.arange(n)[:, None], np.arange(len(self.labels))[None]
        period = 2 if len(self.labels) == 1 else 3
        return Ragged({"set": ((rows + labels) % period == 1).astype(np.uint8), "unseen": np.zeros(n, dtype=np.int64)})

    # Losses

    @property
    def guess(self) -> float:
        """log 2: binary cross-entropy of a probability of one half, the mean over labels."""
        return math.log(2)

    def divergence(self, a: "Tensor", b: "Tensor") -> "Tensor":
        """Return KL(P || Q) + KL(Q || P) of each label's sigmoid of two logits (n, C), the mean over labels (n,)."""
        first, second = a.float(), b.float()
        # For two Bernoulli distributions p and q, the sum of both divergences is (p - q) (logit p - logit q).
        return ((first.sigmoid() - second.sigmoid()) * (first - second)).mean(-1)

    @property
    def feature_size(self) -> int:
        """The number of labels."""
        return len(self.labels)

    def as_features(self, output: "Tensor") -> "Tensor":
        """Return the sigmoid of each label's logit."""
        return output.float().sigmoid().reshape(len(output), -1)  # one label: (m,)

    def soft(self, predicted: Arrays) -> Arrays:
        """Return probabilities (n, C) in place of 0 and 1: those of the teacher, or its decisions where it gives none."""
        return Ragged({"set": _scores(predicted)})

    def soft_loss(self, loss_of: LossOf, soft: Tensors) -> "Tensor":
        """Return the loss under the teacher's probabilities p, which is p L(1) + (1 - p) L(0) for each label."""
        return loss_of(soft)

    # Predictions

    def tune(self, predicted: Arrays, gold: Arrays) -> "LabelSets":
        """Return the target with the threshold of each label that has the best F1 on dev rows, see `thresholds.best_threshold`."""
        if "probabilities" not in predicted:
            return self
        sets = gold["set"]
        thresholds = tuned_thresholds(predicted["probabilities"], sets == 1, sets != UNKNOWN)
        return replace(self, thresholds=tuple(thresholds.tolist()))

    def tuning(self) -> str:
        """Return the ten first thresholds."""
        pairs = zip(self.labels[:10], self.thresholds or (), strict=False)
        shown = [f"{quotable(name)} {threshold:.3g}" for name, threshold in pairs]
        more = len(self.labels) - len(shown)
        return f"thresholds {', '.join(shown)}{f', and {more} more' if more else ''}" if shown else ""

    def decide(self, predicted: Arrays) -> Arrays:
        """Return predictions with the labels whose probability reaches its threshold."""
        if "probabilities" not in predicted:
            return predicted
        probabilities = predicted["probabilities"]
        return Ragged({"set": (probabilities >= self._levels).astype(np.uint8), "probabilities": probabilities})

    def is_close(self, predicted: Arrays, margin: float) -> np.ndarray:
        """Return which probabilities (n, C) are that near to the threshold of their label."""
        close: np.ndarray = np.abs(predicted["probabilities"] - self._levels) <= margin
        return close

    def with_threshold(self, threshold: float, where: str) -> "LabelSets":
        """Return the target with the same threshold for every label."""
        return replace(self, thresholds=(threshold,) * len(self.labels))

    def average(self, votes: Sequence[Arrays], owners: Sequence[Target]) -> Arrays:
        """Return the mean of probabilities (n, C), decided by the thresholds of this target."""
        ordered = [self._in_order(vote, owner) for vote, owner in zip(votes, owners, strict=True)]
        if len(ordered) == 1:
            return self.decide(ordered[0])
        mean: np.ndarray = np.stack([_scores(vote) for vote in ordered]).mean(axis=0, dtype=np.float64)
        return self.decide(Ragged({"probabilities": mean}))

    def _in_order(self, vote: Arrays, owner: Target) -> Arrays:
        """Return predictions over another run's labels as such over these, matched by name."""
        theirs = owner.labels or ()
        if theirs == self.labels:
            return vote
        columns = [theirs.index(label) for label in self.labels]
        names = [name for name in ("set", "probabilities") if name in vote]
        return Ragged({name: vote[name][:, columns] for name in names})

    def merge(self, members: Sequence[Target]) -> "LabelSets":
        """Return the target with the mean of all members' thresholds."""
        every = [self, *(member for member in members if isinstance(member, LabelSets))]
        if all(member.thresholds is None for member in every):
            return self
        levels = [[member._levels[member.labels.index(label)] for label in self.labels] for member in every]
        return replace(self, thresholds=tuple(np.mean(levels, axis=0).tolist()))

    def as_json(
        self, predicted: Arrays, row: int, texts: Sequence[Text] = (), *, exact: bool = False
    ) -> dict[str, Any]:
        """Return `labels`, and `probabilities` by label where there are any."""
        values: dict[str, Any] = {"labels": self._row(predicted, row)}
        if "probabilities" in predicted:
            shares = predicted["probabilities"][row].tolist()
            pairs = zip(self.labels, shares, strict=True)
            values["probabilities"] = {label: p if exact else round(p, 6) for label, p in pairs}
        return values

    def _row(self, rows: Arrays, row: int) -> list[str]:
        return [self.labels[index] for index in np.flatnonzero(rows["set"][row] == 1).tolist()]

    def from_json(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Return `set`, and `probabilities` where the rows have them; 0 for labels that a row's run does not know."""
        # The reshape is for no rows, of which np.array makes the shape (0,).
        sets = np.array([self._entries(row["labels"]) for row in rows]).reshape(len(rows), len(self.labels))
        if not all("probabilities" in row for row in rows):
            return Ragged({"set": sets})
        shares = [[float(row["probabilities"].get(label, 0.0)) for label in self.labels] for row in rows]
        return Ragged({"set": sets, "probabilities": np.array(shares)})

    def _entries(self, names: Any) -> np.ndarray:
        """Return the entries (C,) of a list of labels."""
        entries = np.zeros(len(self.labels), dtype=np.uint8)
        entries[[self._place(name) for name in list(names)]] = 1
        return entries

    def _place(self, name: Any) -> int:
        if name not in self.labels:
            raise ValueError(f"found the label {name!r}, expected any of {one_of(self.labels)}")
        return self.labels.index(name)

    def gold_json(self, gold: Arrays, row: int) -> Any:
        """Return the labels that hold, sorted, and null for each that training never saw; true or false by label if some are unknown.

        A row of which nothing is known is None.
        """
        entries, unseen = gold["set"][row], int(gold["unseen"][row])
        if not len(entries) or (entries == UNKNOWN).all():
            return None
        if (entries == UNKNOWN).any():
            stated = [
                (label, bool(entry))
                for label, entry in zip(self.labels, entries.tolist(), strict=True)
                if entry != UNKNOWN
            ]
            # No label has an empty name, so that key is free for the number of unseen labels.
            return dict(sorted(stated)) | ({"": unseen} if unseen else {})
        return [*sorted(self._row(gold, row)), *[None] * unseen]

    def gold_from_json(self, values: Sequence[Any]) -> Arrays:
        """Return the labels that `gold_json` wrote."""
        sets = np.full((len(values), len(self.labels)), UNKNOWN, dtype=np.uint8)
        unseen = np.zeros(len(values), dtype=np.int64)
        for number, value in enumerate(values):
            if isinstance(value, dict):
                unseen[number] = value.get("", 0)
                for name, holds in value.items():
                    if name:
                        sets[number, self._place(name)] = bool(holds)
            elif value is not None:
                sets[number] = self._entries([name for name in value if name is not None])
                unseen[number] = sum(name is None for name in value)
        return Ragged({"set": sets, "unseen": unseen})

    def widen(self, rows: Sequence[Mapping[str, Any]]) -> "LabelSets":
        """Return the target with further labels of other runs' predictions, and of the rows themselves."""
        more: dict[str, None] = {}
        for row in rows:
            more |= dict.fromkeys([*row.get("labels", ()), *row.get("probabilities", ()), *(row["target"] or ())])
        names = {*self.labels}
        new = [name for name in more if name and name not in names]
        # The predictions that are read with this target are decided already, so further labels need no thresholds.
        return replace(self, names=(*self.labels, *new), thresholds=None) if new else self

    def class_matches(self, predicted: Arrays, gold: Arrays) -> ClassMatches:
        """Return the labels that hold and those that are predicted, in rows that say whether they hold."""
        predicted_labels, holds = (predicted["set"] == 1) & (gold["set"] != UNKNOWN), gold["set"] == 1
        return ClassMatches(
            self.labels, np.argwhere(holds), np.argwhere(predicted_labels), np.argwhere(predicted_labels & holds)
        )

    def cells(self) -> list[str]:
        """Return `labels`, and `probability.LABEL` of each label."""
        return ["labels", *(f"probability.{label}" for label in self.labels)]

    def as_cells(self, predicted: Arrays, row: int, texts: Sequence[Text] = ()) -> dict[str, str]:
        """Return the labels with the separator between them, and the probabilities, six digits each."""
        values = {"labels": self.separator.join(self._row(predicted, row))}
        if "probabilities" in predicted:
            shares = predicted["probabilities"][row].tolist()
            values |= {f"probability.{label}": f"{p:.6f}" for label, p in zip(self.labels, shares, strict=True)}
        return values

    def uncertainty(self, predicted: Tensors) -> "Tensor | None":
        """Return the entropy of each label's probability over log 2, the mean over labels (n,) float64."""
        import torch

        if "probabilities" not in predicted:
            return None
        p = predicted["probabilities"].double()
        return (torch.special.entr(p) + torch.special.entr(1 - p)).mean(-1) / math.log(2)


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _scores(predicted: Arrays) -> np.ndarray:
    """Return the probabilities (n, C); 0 and 1 where there are none."""
    return predicted["probabilities"] if "probabilities" in predicted else predicted["set"].astype(np.float64)
