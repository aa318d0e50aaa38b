"""Targets with classes: each row has one of several labels."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlcli.errors import MtlError, one_of, quotable
from mtlcli.tasks.numbers import number_in
from mtlcli.tasks.ragged import Arrays, Ragged, Tensors
from mtlcli.tasks.target_base import BadLabel, LossOf, Raw, Target

if TYPE_CHECKING:
    from torch import Tensor

UNSEEN = -1
"""Index of a label that did not occur in training: nothing is learned from it, and every prediction of it is wrong."""


@dataclass(frozen=True)
class Classes(Target):
    """One of several classes.

    Gold: `index` (n,) int64, UNSEEN for a label that is none of the classes. Predictions: `index` (n,) int64 and
    `probabilities` (n, classes), the latter absent where a head gives none.

    Attributes:
        values: maps what a file may say to the name of the class; None: not fitted yet, the classes are those of training.
        learned: the classes are those that occur in training, so an evaluated row with another label is UNSEEN. Declared
            classes bind every split: a row with another label cannot be used.
    """

    kind = "classes"
    noise = "softmax"

    values: Mapping[str, str] | None = None
    learned: bool = False

    @classmethod
    def named(cls, *labels: str) -> "Classes":
        """Return declared classes that a file calls by their names."""
        return cls({label: label for label in labels})

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in index order; empty before the target is fitted."""
        return tuple(dict.fromkeys((self.values or {}).values()))

    @cached_property
    def _indices(self) -> dict[str, int]:
        """Class index by everything a file may say: names, what stands for them, and both as whole numbers."""
        index = {label: number for number, label in enumerate(self.labels)}
        index |= {text: index[name] for text, name in (self.values or {}).items()}
        return {_whole(text): number for text, number in index.items()} | index

    def describe(self) -> str:
        """Return `one of bad, good`."""
        return f"one of {one_of(self.labels)}" if self.labels else "one of the classes of the training rows"

    @property
    def meaning(self) -> str:
        """The labels by name, whatever their order."""
        return f"the labels {one_of(sorted(self.labels))}"

    # Reading

    def declare(self, labels: Sequence[str] | None, bounds: Sequence[float] | None, where: str) -> "Classes":
        """Return the classes of these names in this order."""
        if bounds is not None:
            raise MtlError(f"{where}.range: this task predicts classes; it has labels, not a range")
        if labels is None:
            return self
        names = [label.strip() for label in labels]
        if len(set(names)) < max(2, len(names)) or "" in names:
            raise MtlError(f"{where}.labels: found {names}: expected two or more different names")
        return Classes.named(*names)

    def parse(self, raw: Raw) -> int:
        """Return the index of the class. `1.0` is read as `1`."""
        text = raw["label"]
        if not text:
            raise BadLabel("label", " is empty")
        index = self._indices.get(text)
        if index is None:
            index = self._indices.get(_whole(text))
        if index is None and (self.learned or self.values is None):
            return UNSEEN
        if index is None:
            expected = list(self.values or {})
            shown = f"{', '.join(expected[:8])}{', ...' if len(expected) > 8 else ''}"
            raise BadLabel("label", f": found '{quotable(text)}', expected one of {shown}")
        return index

    def fit(self, raws: Iterable[Raw]) -> "Classes":
        """Return the distinct labels as classes: sorted by value where all are numbers, else as text. `1.0` is the class `1`."""
        if self.values is not None:
            return self
        distinct = {_whole(raw["label"]) for raw in raws} - {""}
        numeric = all(number_in(label) is not None for label in distinct)
        ordered = sorted(distinct, key=lambda label: (float(label) if numeric else 0.0, label))
        return replace(self, values={label: label for label in ordered}, learned=True)

    def pack(self, items: Sequence[int]) -> Arrays:
        """Return `index` (n,) int64."""
        return Ragged({"index": np.asarray(items, dtype=np.int64)})

    def is_constant(self, gold: Arrays) -> bool:
        """Return whether there is a single class. Declared classes of which only one occurs are accepted."""
        return len(self.labels) < 2

    def remarks(self, raws: Sequence[Raw], gold: Arrays, column: str, *, training: bool) -> list[str]:
        """Return a doubt if training rows have very many classes, and the labels of another split that training never saw."""
        if training:
            if len(self.labels) <= max(20, len(raws) / 4):
                return []
            return [
                f'{len(raws)} rows have {len(self.labels)} classes; is "{column}" the right label column? If it is a number to '
                "predict, use kind: regression"
            ]
        pairs = zip(raws, gold["index"].tolist(), strict=True)
        unseen = Counter(raw["label"] for raw, index in pairs if index == UNSEEN)
        if not unseen:
            return []
        listed = ", ".join(f"'{quotable(label)}' ({count})" for label, count in unseen.most_common(5))
        return [f"{sum(unseen.values())} rows have a label unseen in training, counted as wrong: {listed}"]

    def check(self, gold: Arrays) -> list[str]:
        """Return the ten first labels with their numbers of rows."""
        counts = Counter(gold["index"].tolist())
        shown = [f"{label} {counts.get(index, 0)}" for index, label in enumerate(self.labels[:10])]
        more = len(self.labels) - len(shown)
        return ["labels " + ", ".join(shown) + (f", and {more} more" if more else "")]

    def record(self) -> dict[str, Any]:
        """Return what a file may say for each class, in order, and whether that was found in training."""
        values = None if self.values is None else dict(self.values)
        return {"kind": self.kind, "values": values, "learned": self.learned}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Classes":
        """Return the classes of a record."""
        values = record["values"]
        return cls(
            None if values is None else {str(text): str(name) for text, name in values.items()}, record["learned"]
        )

    # A batch

    def known(self, gold: Any) -> Any:
        """Return which rows have one of the classes (n,)."""
        return gold["index"] != UNSEEN

    def outputs(self) -> int:
        """Return the number of classes."""
        return len(self.labels)

    def strata(self, gold: Arrays) -> np.ndarray:
        """Return the class indices."""
        return gold["index"]

    def examples(self, n: int) -> Arrays:
        """Return one class after the other."""
        return self.pack(list(range(len(self.labels))) * n).take(slice(n))

    # Losses

    @property
    def guess(self) -> float:
        """log C: cross-entropy of a uniform guess."""
        return math.log(max(2, len(self.labels)))

    def divergence(self, a: "Tensor", b: "Tensor") -> "Tensor":
        """Return KL(P || Q) + KL(Q || P) of the softmax of two logits (n, classes) (Jiang et al. 2020, SMART, section 3.1)."""
        import torch

        p, q = (torch.log_softmax(self.logits(output), -1) for output in (a, b))
        return ((p.exp() - q.exp()) * (p - q)).sum(-1)

    def logits(self, output: "Tensor") -> "Tensor":
        """Return the output (n, classes)."""
        return output.float()

    def soft(self, predicted: Arrays) -> Arrays:
        """Return `probabilities` (n, classes): 1 for the predicted class where a teacher gives none."""
        if "probabilities" in predicted:
            return Ragged({"probabilities": predicted["probabilities"]})
        return Ragged({"probabilities": np.eye(len(self.labels))[predicted["index"]]})

    def soft_loss(self, loss_of: LossOf, soft: Tensors) -> "Tensor":
        """Return sum_c p_c L(c) over the teacher's probabilities p: any head has a loss L for a class."""
        import torch

        probabilities = soft["probabilities"]
        count, classes = probabilities.shape
        labels = [torch.full((count,), index, device=probabilities.device) for index in range(classes)]
        losses = torch.stack([loss_of(Ragged({"index": label})) for label in labels], dim=1)
        return (probabilities.to(losses) * losses).sum(1)

    # Predictions

    def average(self, votes: Sequence[Arrays], owners: Sequence[Target]) -> Arrays:
        """Return the mean of probabilities (n, classes) and its largest class. A vote without probabilities is sure of its class."""
        ordered = [self._in_order(vote, owner) for vote, owner in zip(votes, owners, strict=True)]
        if len(ordered) == 1:
            return ordered[0]
        mean: np.ndarray = np.stack([self.soft(vote)["probabilities"] for vote in ordered]).mean(
            axis=0, dtype=np.float64
        )
        return Ragged({"index": mean.argmax(axis=1), "probabilities": mean})

    def _in_order(self, vote: Arrays, owner: Target) -> Arrays:
        """Return predictions over another run's classes as such over these, matched by name."""
        theirs = owner.labels or ()
        if theirs == self.labels:
            return vote
        place = np.array([self.labels.index(label) for label in theirs])
        fields = {"index": place[vote["index"]]}
        if "probabilities" in vote:
            fields["probabilities"] = vote["probabilities"][:, [theirs.index(label) for label in self.labels]]
        return Ragged(fields)

    def as_json(self, predicted: Arrays, row: int, texts: Sequence[str] = (), *, exact: bool = False) -> dict[str, Any]:
        """Return `label`, and `probabilities` by label where there are any."""
        values: dict[str, Any] = {"label": self.labels[int(predicted["index"][row])]}
        if "probabilities" in predicted:
            shares = predicted["probabilities"][row].tolist()
            values["probabilities"] = {label: round(p, 6) for label, p in zip(self.labels, shares, strict=True)}
        return values

    def from_json(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Return `index`; the probabilities are rounded, and no metric reads them."""
        return self.pack([self._index_of(row["label"]) for row in rows])

    def gold_json(self, gold: Arrays, row: int) -> str | None:
        """Return the name of the class."""
        index = int(gold["index"][row])
        return None if index == UNSEEN else self.labels[index]

    def gold_from_json(self, values: Sequence[Any]) -> Arrays:
        """Return `index`, UNSEEN for None."""
        return self.pack([UNSEEN if name is None else self._index_of(name) for name in values])

    def _index_of(self, name: Any) -> int:
        """Return the index of a class by its name alone: what a file may say for it can be the name of another class."""
        if name not in self._by_name:
            raise ValueError(f"found the label {name!r}, expected one of {one_of(self.labels)}")
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[Any, int]:
        return {label: number for number, label in enumerate(self.labels)}

    def widen(self, rows: Sequence[Mapping[str, Any]]) -> "Classes":
        """Return the target with further predicted labels, then with further labels of the rows themselves."""
        names = [*(row.get("label") for row in rows), *(row["target"] for row in rows)]
        more = [name for name in dict.fromkeys(names) if name is not None and name not in self._by_name]
        return replace(self, values={**(self.values or {}), **{name: name for name in more}}) if more else self

    def cells(self) -> list[str]:
        """Return `label`, and `probability.LABEL` of each class."""
        return ["label", *(f"probability.{label}" for label in self.labels)]

    def as_cells(self, predicted: Arrays, row: int, texts: Sequence[str] = ()) -> dict[str, str]:
        """Return the label and its probabilities, six digits each."""
        values = {"label": self.labels[int(predicted["index"][row])]}
        if "probabilities" in predicted:
            shares = predicted["probabilities"][row].tolist()
            values |= {f"probability.{label}": f"{p:.6f}" for label, p in zip(self.labels, shares, strict=True)}
        return values

    def uncertainty(self, predicted: Tensors) -> "Tensor | None":
        """Return the entropy of the probabilities over log C, the largest one (n,) float64."""
        import torch

        if "probabilities" not in predicted:
            return None
        entropies = torch.special.entr(predicted["probabilities"].double()).sum(1)
        return entropies / math.log(max(2, len(self.labels)))

    def colour(self, gold: Arrays) -> tuple[np.ndarray, list[str]]:
        """Return the classes; an unseen label gets the first one's colour."""
        return np.clip(gold["index"], 0, len(self.labels) - 1), list(self.labels)

    def confusion(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return counts (C, C); rows with an unseen label are left out."""
        labeled, classes = self.known(gold), len(self.labels)
        cells = gold["index"][labeled] * classes + predicted["index"][labeled]
        return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def _whole(text: str) -> str:
    """Return a whole number without the `.0` that a spreadsheet gave it; any other text as it is."""
    match = re.fullmatch(r"([-+]?[0-9]+)\.0*", text)
    return match[1] if match else text
