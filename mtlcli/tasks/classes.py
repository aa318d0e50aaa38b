"""Targets with classes: each row has one of several labels."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlcli.errors import MtlError, one_of, quotable
from mtlcli.tasks.class_matches import ClassMatches
from mtlcli.tasks.numbers import exact_numbers, number_in
from mtlcli.tasks.ragged import Arrays, Ragged, Tensors
from mtlcli.tasks.spelling import (
    NO_LABEL,
    are_floats_of_integers,
    float_spellings,
    look_alikes,
    plain_form,
    quoted,
    recipe_text,
    whole_number,
)
from mtlcli.tasks.target_base import BadLabel, LossOf, Raw, Target
from mtlcli.tasks.words import Text

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

POSITIVE = frozenset(("1", "yes", "true", "positive", "pos"))
"""Names of a class, in lower case, that is the positive one of two."""
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
        aliases: texts that stand for a label, by the text in the file; read before everything else.
        normalize: labels that look alike are one class, named by the most frequent spelling in training.
        positive: the class that metrics of one class, such as F1, measure; None: not stated.
        negative: the class that stands for nothing of interest, which the F1 of relations leaves out; None: there is none.
    """

    kind = "classes"
    noise = "softmax"

    values: Mapping[str, str] | None = None
    learned: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)
    normalize: bool = False
    positive: str | None = None
    negative: str | None = None

    @classmethod
    def named(cls, *labels: str) -> "Self":
        """Return declared classes that a file calls by their names."""
        return cls({label: label for label in labels})

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in index order; empty before the target is fitted."""
        return tuple(dict.fromkeys((self.values or {}).values()))

    @cached_property
    def _indices(self) -> dict[str, int]:
        """Class index by everything a file may say: names, what stands for them, and whole numbers as spreadsheets write them."""
        index = {label: number for number, label in enumerate(self.labels)}
        index |= {text: index[name] for text, name in (self.values or {}).items()}
        return {text: index[written] for text, written in float_spellings(index).items()} | index

    @cached_property
    def _plain_indices(self) -> dict[str, int]:
        """Class index by the plain form of everything a file may say; the first of two classes that look alike."""
        plain: dict[str, int] = {}
        for text, number in self._indices.items():
            plain.setdefault(plain_form(text), number)
        return plain

    def describe(self) -> str:
        """Return `one of bad, good`."""
        return (
            f"one of {one_of(map(quotable, self.labels))}" if self.labels else "one of the classes of the training rows"
        )

    @property
    def meaning(self) -> str:
        """The labels by name, whatever their order."""
        return f"the labels {one_of(sorted(self.labels))}"

    # Reading

    def declare(self, labels: Sequence[str] | None, bounds: Sequence[float] | None, where: str) -> "Self":
        """Return the classes of these names in this order."""
        if bounds is not None:
            raise MtlError(f"{where}.range: this task predicts classes; it has labels, not a range")
        if labels is None:
            return self
        names = [label.strip() for label in labels]
        if len(set(names)) < max(2, len(names)) or "" in names:
            raise MtlError(f"{where}.labels: found {names}: expected two or more different names")
        return replace(self, values={name: name for name in names}, learned=False)

    def spelled(self, aliases: Mapping[str, str] | None, normalize: bool, where: str) -> "Self":
        """Return the classes with aliases and, on request, without differences that do not show."""
        aliases = {text.strip(): label.strip() for text, label in (aliases or {}).items()}
        unknown = [label for label in aliases.values() if self.values is not None and label not in self._indices]
        if unknown:
            raise MtlError(f"{where}.aliases: found the label {unknown[0]!r}, expected one of {one_of(self.labels)}")
        if chained := [label for text, label in aliases.items() if label in aliases and label != text]:
            raise MtlError(f"{where}.aliases: {chained[0]!r} is both an alias and a label; give its final label")
        return replace(self, aliases=aliases, normalize=normalize or self.normalize) if aliases or normalize else self

    def with_positive(self, label: str, where: str) -> "Self":
        """Return the classes with this one as the positive class."""
        return replace(self, positive=label.strip())

    def positive_index(self, where: str) -> int:
        """Return the index of the positive class; of two classes, one called like 1, yes, true or positive needs no statement.

        Raises:
            MtlError: no class is positive. `where` names the task's section.
        """
        if self.positive is not None:
            if self.positive not in self._indices:
                raise MtlError(f'{where}.positive: found "{self.positive}", expected one of {one_of(self.labels)}')
            return self._indices[self.positive]
        usual = [number for number, label in enumerate(self.labels) if label.lower() in POSITIVE]
        if len(self.labels) == 2 and len(usual) == 1:
            return usual[0]
        raise MtlError(
            f"{where}.positive: say which class is the positive one: one of {one_of(map(quotable, self.labels))}"
        )

    def parse(self, raw: Raw) -> Any:
        """Return the index of the class. Whole numbers may be written `1` or `1.0`, unless labels differ in just that."""
        text = raw["label"]
        if not text:
            raise BadLabel("label", " is empty")
        text = self.aliases.get(text, text)
        index = self._indices.get(text)
        if index is None and self.normalize:
            index = self._plain_indices.get(plain_form(text))
        if index is None and (self.learned or self.values is None):
            return UNSEEN
        if index is None:
            expected = list(self.values or {})
            shown = f"{', '.join(expected[:8])}{', ...' if len(expected) > 8 else ''}"
            raise BadLabel("label", f": found '{quotable(text)}', expected one of {shown}")
        return index

    def unlabeled(self, raw: Raw) -> Any:
        """Return UNSEEN."""
        return UNSEEN

    def fit(self, raws: Iterable[Raw]) -> "Self":
        """Return the distinct labels as classes, as they are written: sorted by value where all are numbers, else as text.

        Only where every label ends in `.0` are the classes whole numbers: a spreadsheet wrote them.
        """
        if self.values is not None:
            return self
        counts = Counter(self.aliases.get(raw["label"], raw["label"]) for raw in raws)
        counts.pop("", None)
        if self.normalize:
            for group in look_alikes(sorted(counts)):
                name = max(group, key=lambda label: counts[label])
                counts[name] = sum(counts.pop(label) for label in group)
        floats = are_floats_of_integers(counts)
        numeric = all(number_in(label) is not None for label in counts)
        ordered = sorted(counts, key=lambda label: (float(label) if numeric else 0.0, label))
        values = {label: (whole_number(label) or label) if floats else label for label in ordered}
        return replace(self, values=values, learned=True)

    def pack(self, items: Sequence[Any]) -> Arrays:
        """Return `index` (n,) int64."""
        return Ragged({"index": np.asarray(items, dtype=np.int64)})

    def is_constant(self, gold: Arrays) -> bool:
        """Return whether there is a single class. Declared classes of which only one occurs are accepted."""
        return len(self.labels) < 2

    def remarks(self, raws: Sequence[Raw], gold: Arrays, column: str, *, training: bool) -> list[str]:
        """Return doubts about very many classes and classes that look alike, or the labels that training never saw."""
        if training:
            doubts = self._look_alike_doubts(raws) if self.learned else []
            if len(self.labels) > max(20, len(raws) / 4):
                doubts.append(
                    f'{len(raws)} rows have {len(self.labels)} classes; is "{column}" the right label column? If it is a number '
                    "to predict, use kind: regression"
                )
            return doubts
        pairs = zip(raws, gold["index"].tolist(), strict=True)
        unseen = Counter(raw["label"] for raw, index in pairs if index == UNSEEN)
        if not unseen:
            return []
        listed = ", ".join(f"'{quotable(label)}' ({count})" for label, count in unseen.most_common(5))
        alike = any(plain_form(label) in self._plain_indices for label in unseen)
        cure = "; some look like a label of training: normalize_labels: true reads them as that" if alike else ""
        return [f"{sum(unseen.values())} rows have a label unseen in training, counted as wrong: {listed}{cure}"]

    def _look_alike_doubts(self, raws: Sequence[Raw]) -> list[str]:
        """Return a sentence that names classes with the same plain form, and how to merge them."""
        groups = look_alikes(self.labels)
        if not groups:
            return []
        counts = Counter(self.aliases.get(raw["label"], raw["label"]) for raw in raws)
        # Letters that differ in more than case cannot be told apart unless their code points are shown.
        codes = any(len({label.casefold() for label in group}) > 1 for group in groups)
        listed = [
            " and ".join(f"{quoted(label, codes=codes)} ({counts[label]})" for label in group) for group in groups[:3]
        ]
        more = f", and {len(groups) - 3} more" if len(groups) > 3 else ""
        rarest, name = min(groups[0], key=counts.__getitem__), max(groups[0], key=counts.__getitem__)
        return [
            f"labels that look alike are different classes: {'; '.join(listed)}{more}; merge them with normalize_labels: true, or "
            f"by name with aliases: {{{recipe_text(rarest, codes=codes)}: {recipe_text(name, codes=codes)}}}"
        ]

    def notes(self, raws: Sequence[Raw], *, training: bool) -> list[str]:
        """Return that `.0` was taken away, which labels differ only as numbers are written, and marks of a missing label."""
        spellings = float_spellings({*self.labels, *(self.values or {})})
        respelled = sorted({raw["label"] for raw in raws} & set(spellings))
        notes = [f"{respelled[0]} is read as {spellings[respelled[0]]}"] if respelled else []
        if not training or not self.learned:
            return notes
        values = self.values or {}
        if any(text != label for text, label in values.items()):
            text, label = next(iter(values.items()))
            notes.append(f"every label ends in .0, so the classes are whole numbers: {text} is the class {label}")
        by_number: dict[float, list[str]] = {}
        for label in self.labels:
            if (number := number_in(label)) is not None:
                by_number.setdefault(number, []).append(label)
        same = [labels for labels in by_number.values() if len(labels) > 1]
        if same:
            listed = "; ".join(" and ".join(map(repr, labels)) for labels in same[:3])
            more = f", and {len(same) - 3} more" if len(same) > 3 else ""
            notes.append(
                f"labels that are the same number are different classes, as they are written: {listed}{more} (merge them with "
                "aliases)"
            )
        marks = [label for label in self.labels if label.lower() in NO_LABEL and not self._is_sign(label)]
        if marks:
            listed = ", ".join(map(repr, marks))
            notes.append(
                f"{listed} often marks a row without a label, and is a class in this file; to leave these rows out: no_label: "
                f"[{listed}]"
            )
        return notes

    def _is_sign(self, label: str) -> bool:
        """Return whether `-1` is half of the pair `-1` and `1`, rather than a mark."""
        return label == "-1" and set(self.labels) == {"-1", "1"}

    def check(self, gold: Arrays) -> list[str]:
        """Return the ten first labels with their numbers of rows."""
        counts = Counter(gold["index"].tolist())
        shown = [f"{quotable(label)} {counts.get(index, 0)}" for index, label in enumerate(self.labels[:10])]
        more = len(self.labels) - len(shown)
        return ["labels " + ", ".join(shown) + (f", and {more} more" if more else "")]

    def record(self) -> dict[str, Any]:
        """Return what a file may say for each class, in order, whether that was found in training, and other spellings."""
        values = None if self.values is None else dict(self.values)
        return {
            "kind": self.kind, "values": values, "learned": self.learned, "aliases": dict(self.aliases),
            "normalize": self.normalize, "positive": self.positive, "negative": self.negative,
        }  # fmt: skip

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Self":
        """Return the classes of a record."""
        values = record["values"]
        return cls(
            None if values is None else {str(text): str(name) for text, name in values.items()},
            record["learned"],
            {str(text): str(label) for text, label in record["aliases"].items()},
            record["normalize"],
            record.get("positive"),
            record.get("negative"),
        )

    # A batch

    def known(self, gold: Any) -> Any:
        """Return which rows have one of the classes (n,)."""
        return gold["index"] != UNSEEN

    def outputs(self) -> int:
        """Return the number of classes."""
        return len(self.labels)

    def strata(self, gold: Arrays) -> np.ndarray | None:
        """Return the class indices."""
        return gold["index"]

    def clusters(self, gold: Arrays) -> tuple[np.ndarray, int] | None:
        """Return the class indices."""
        return np.where(self.known(gold), gold["index"], -1), len(self.labels)

    def as_numbers(self, gold: Arrays) -> np.ndarray | None:
        """Return a column a class, 1 where the row has it and 0 elsewhere."""
        numbers: np.ndarray = np.eye(len(self.labels))[gold["index"]]
        numbers[~np.asarray(self.known(gold))] = np.nan
        return numbers

    def class_counts(self, gold: Arrays) -> np.ndarray | None:
        """Return the rows of each class."""
        return np.bincount(gold["index"][self.known(gold)], minlength=len(self.labels))

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

    @property
    def feature_size(self) -> int:
        """The number of classes."""
        return len(self.labels)

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

    def as_json(
        self, predicted: Arrays, row: int, texts: Sequence[Text] = (), *, exact: bool = False
    ) -> dict[str, Any]:
        """Return `label`, and `probabilities` by label where there are any."""
        values: dict[str, Any] = {"label": self.labels[int(predicted["index"][row])]}
        if "probabilities" in predicted:
            shares = predicted["probabilities"][row]
            digits = exact_numbers(shares) if exact else [round(share, 6) for share in shares.tolist()]
            values["probabilities"] = dict(zip(self.labels, digits, strict=True))
        return values

    def from_json(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Return `index`, and `probabilities` if all rows have some, 0 for a class that a row does not list."""
        packed = self.pack([self._index_of(row["label"]) for row in rows])
        if not rows or not all(row.get("probabilities") for row in rows):
            return packed
        shares = np.zeros((len(rows), len(self.labels)))
        # Runs of other labels are compared over the labels that occur; the remaining ones are in no metric.
        names = [name for name in rows[0]["probabilities"] if name in self._by_name]
        columns = [self._by_name[name] for name in names]
        for number, row in enumerate(rows):
            shares[number, columns] = [float(row["probabilities"][name]) for name in names]
        return Ragged({**packed.fields, "probabilities": shares})

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

    def widen(self, rows: Sequence[Mapping[str, Any]]) -> "Self":
        """Return the target with further predicted labels, then with further labels of the rows themselves."""
        names = [*(row.get("label") for row in rows), *(row["target"] for row in rows)]
        more = [name for name in dict.fromkeys(names) if name is not None and name not in self._by_name]
        return replace(self, values={**(self.values or {}), **{name: name for name in more}}) if more else self

    def cells(self) -> list[str]:
        """Return `label`, and `probability.LABEL` of each class."""
        return ["label", *(f"probability.{label}" for label in self.labels)]

    def as_cells(self, predicted: Arrays, row: int, texts: Sequence[Text] = ()) -> dict[str, str]:
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

    def class_matches(self, predicted: Arrays, gold: Arrays) -> ClassMatches | None:
        """Return the class of each row; a prediction for a row with an unseen label is wrong."""
        rows = np.arange(len(gold))
        return ClassMatches.of_items(self.labels, rows, gold["index"], predicted["index"], self.known(gold))

    def confusion(self, predicted: Arrays, gold: Arrays) -> np.ndarray | None:
        """Return counts (C, C); rows with an unseen label are left out."""
        labeled, classes = self.known(gold), len(self.labels)
        cells = gold["index"][labeled] * classes + predicted["index"][labeled]
        return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
