"""Target with one right choice of several, whose number varies from row to row."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mtlcli.errors import quotable
from mtlcli.tasks.ragged import Arrays, Ragged, Tensors
from mtlcli.tasks.target_base import BadLabel, LossOf, Raw, Target
from mtlcli.tasks.words import Text

if TYPE_CHECKING:
    from torch import Tensor

BEFORE_CHOICES = 2
"""Texts of a row before its choices: the context and the question."""
Form = Literal["number", "letter", "text"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Choices(Target):
    """One of the choices that a row states. One item is a choice, one unit of the loss a row.

    Gold: `chosen` int8 of each choice, 1 for the right one and 0 for the others, -1 for all of a row without a label. Predictions:
    `chosen`, 1 for the predicted one, and `probabilities` of each choice, which sum to 1 over a row.

    Attributes:
        form: how labels name the right choice: by its number, by a letter from A, or by its text; None: as training shows.
        base: number of the first choice; None: as training shows.
        mean_log: mean of log k over the training rows of k choices.
    """

    kind = "choice"
    hub_task = "multiple-choice"
    columns = ("label", "texts")
    noise = "softmax"

    form: Form | None = None
    base: int | None = None
    mean_log: float | None = None

    def describe(self) -> str:
        """Return `one of the choices of a row`."""
        return "one of the choices of a row"

    @property
    def meaning(self) -> str:
        """The same for all rows of choices."""
        return "one of the choices of a row"

    # Reading

    def parse(self, raw: Raw) -> tuple[int, int]:
        """Return the number of the right choice, counted from 0, and how many there are."""
        label, choices = raw["label"], [str(text).strip() for text in raw["texts"][BEFORE_CHOICES:]]
        for number, choice in enumerate(choices):
            # Equal texts get equal scores, so the right one of them could not be learned.
            if (first := choices.index(choice)) < number:
                raise BadLabel("choices", f" {first} and {number} (counted from 0) are the same text")
        if not label:
            raise BadLabel("label", " is empty")
        # How labels name a choice is open before the fit, so any valid number serves until then.
        if self.mean_log is None:
            return 0, len(choices)
        index = _index_of(label, choices, self.form or "number", self.base or 0)
        if index is None:
            expected = {
                "number": f"a number from {self.base} to {(self.base or 0) + len(choices) - 1}",
                "letter": f"a letter from A to {LETTERS[min(len(choices), len(LETTERS)) - 1]}",
                "text": "the text of a choice",
            }[self.form or "number"]
            raise BadLabel("label", f': found "{quotable(label)}", expected {expected}')
        return index, len(choices)

    def unlabeled(self, raw: Raw) -> tuple[int, int]:
        """Return that none of the choices is known to be right."""
        return -1, len(raw["texts"]) - BEFORE_CHOICES

    def fit(self, raws: Iterable[Raw]) -> "Choices":
        """Return the target with the form of the training labels.

        They are texts if every label is one of its row's choices and not all are numbers, else numbers or letters. Numbers count
        from 0 unless no label is 0 and one is the number of its row's choices.
        """
        labels, counts, are_texts = [], [], True
        for raw in raws:
            choices = [str(text).strip() for text in raw["texts"][BEFORE_CHOICES:]]
            labels.append(raw["label"])
            counts.append(len(choices))
            are_texts &= raw["label"] in choices
        are_numbers = all(label.isdecimal() for label in labels)
        form: Form = "number" if are_numbers else "text" if are_texts else "letter"
        if not are_numbers and not are_texts and not all(label.upper() in LETTERS for label in labels):
            # Most labels decide; the others are reported with their rows.
            form = "number" if sum(label.isdecimal() for label in labels) * 2 > len(labels) else "text"
        numbers = [(int(label), count) for label, count in zip(labels, counts, strict=True) if label.isdecimal()]
        from_one = all(number > 0 for number, _ in numbers) and any(number == count for number, count in numbers)
        base = int(form == "number" and from_one)
        return replace(
            self,
            form=self.form or form,
            base=base if self.base is None else self.base,
            mean_log=sum(map(math.log, counts)) / len(counts),
        )

    def pack(self, items: Sequence[tuple[int, int]]) -> Arrays:
        """Return `chosen` of all choices."""
        starts = np.zeros(len(items) + 1, dtype=np.int64)
        np.cumsum([count for _, count in items], out=starts[1:])
        # A row without choices has no label; `gold_from_json` gives such rows.
        index = np.array([index if count else -1 for index, count in items], dtype=np.int64)
        # The choices of a row with a label are 0, those of other rows -1.
        is_right = np.repeat((index >= 0).astype(np.int8) - 1, np.diff(starts))
        is_right[(starts[:-1] + index)[index >= 0]] = 1
        return Ragged({"chosen": is_right}, starts)

    def is_constant(self, gold: Arrays) -> bool:
        """Return False: the same number can be another choice in every row."""
        return False

    def remarks(self, raws: Sequence[Raw], gold: Arrays, column: str, *, training: bool) -> list[str]:
        """Return that the first choice is always the right one."""
        index = _first(gold["chosen"], gold)
        if len(index) > 1 and len(set(index.tolist())) == 1:
            return [f"choice {index[0]} (counted from 0) is the right one in every row"]
        return []

    def notes(self, raws: Sequence[Raw], *, training: bool) -> list[str]:
        """Return how labels name the right choice."""
        if not training:
            return []
        by = {"number": f"its number, counted from {self.base}", "letter": "its letter", "text": "its text"}
        return [f"a label names the right choice by {by[self.form or 'number']}"]

    def check(self, gold: Arrays) -> list[str]:
        """Return how many rows have how many choices, and how often each place is the right one."""
        sizes, rows = np.unique(np.diff(_starts(gold)), return_counts=True)
        listed = ", ".join(f"{row} rows of {size} choices" for size, row in zip(sizes, rows, strict=True))
        places = np.bincount(_first(gold["chosen"], gold))
        shares = ", ".join(f"choice {place} {count}" for place, count in enumerate(places[:10].tolist()))
        return [f"{listed}; right (counted from 0): {shares}"]

    def record(self) -> dict[str, Any]:
        """Return form, base and mean log."""
        return {"kind": self.kind, "form": self.form, "base": self.base, "mean_log": self.mean_log}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Choices":
        """Return the target of a record."""
        return cls(record["form"], record["base"], record["mean_log"])

    # A batch

    def known(self, gold: Any) -> Any:
        """Return which choices belong to a row with a label (m,)."""
        return gold["chosen"] >= 0

    def units(self, gold: Arrays) -> np.ndarray:
        """Return 1 for each row with a label (n,)."""
        before = np.concatenate([np.zeros(1), np.cumsum(gold["chosen"] == 1)])
        return np.diff(before[_starts(gold)])

    def outputs(self) -> int:
        """Return 1: one number for each choice."""
        return 1

    def examples(self, n: int) -> Arrays:
        """Return rows of two or three choices, the right one at every place in turn."""
        place = np.minimum(np.arange(n), n - 1 - np.arange(n))  # the same from both ends
        return self.pack([(int(at % (2 + at % 2)), int(2 + at % 2)) for at in place])

    # Losses

    @property
    def guess(self) -> float:
        """Mean of log k: cross-entropy of a uniform guess among k choices."""
        return math.log(2) if self.mean_log is None else self.mean_log

    def divergence(self, a: "Tensor", b: "Tensor") -> "Tensor":
        """Return the squared difference of two outputs (m,), choice by choice: a softmax needs to know the rows."""
        return (a.float() - b.float()) ** 2

    def soft(self, predicted: Arrays) -> Arrays:
        """Return `probabilities` of all choices: 1 for the predicted one where a teacher gives none."""
        name = "probabilities" if "probabilities" in predicted else "chosen"
        return Ragged({"probabilities": predicted[name].astype(np.float64)}, predicted.starts)

    def soft_loss(self, loss_of: LossOf, soft: Tensors) -> "Tensor":
        """Return sum_c p_c L(c) over the teacher's probabilities p, where L(c) is the head's loss if choice c were right."""
        import torch

        starts, probabilities = soft.starts, soft["probabilities"]
        if starts is None:
            raise ValueError("choices without rows")
        lengths = starts.diff()
        total = torch.zeros(len(lengths), device=probabilities.device)
        for place in range(int(lengths.max())):
            at = starts[:-1] + place
            exists = place < lengths
            # In each pass, every row with this place has one right choice. The share is 0 in the other rows.
            right = torch.zeros(len(probabilities), dtype=torch.int8, device=probabilities.device)
            right[at[exists]] = 1
            share = torch.zeros_like(total)
            share[exists] = probabilities[at[exists]].to(share)
            total = total + share * loss_of(Ragged({"chosen": right}, starts))
        return total

    # Predictions

    def average(self, votes: Sequence[Arrays], owners: Sequence[Target]) -> Arrays:
        """Return the mean of the probabilities and the choice with the largest one."""
        if len(votes) == 1:
            return votes[0]
        mean: np.ndarray = np.stack([self.soft(vote)["probabilities"] for vote in votes]).mean(axis=0, dtype=np.float64)
        return decided(mean, _starts(votes[0]))

    def as_json(
        self, predicted: Arrays, row: int, texts: Sequence[Text] = (), *, exact: bool = False
    ) -> dict[str, Any]:
        """Return `choice`, its number counted from 0, its `text`, and the `probabilities` of all choices."""
        of_row = predicted.take(np.array([row]))
        index = int(_first(of_row["chosen"], of_row)[0])
        values: dict[str, Any] = {"choice": index}
        if texts:
            values["text"] = str(texts[BEFORE_CHOICES + index])
        if "probabilities" in of_row:
            values["probabilities"] = [round(p, 6) for p in of_row["probabilities"].tolist()]
        else:
            values["choices"] = len(of_row["chosen"])
        return values

    def from_json(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Return `chosen`; the probabilities are rounded, and no metric reads them."""
        counts = [len(row["probabilities"]) if "probabilities" in row else int(row["choices"]) for row in rows]
        return self.pack([(_place(row["choice"], count), count) for row, count in zip(rows, counts, strict=True)])

    def gold_json(self, gold: Arrays, row: int) -> dict[str, int] | None:
        """Return `choice`, the number of the right one counted from 0, and how many `choices` there are."""
        of_row = gold.take(np.array([row]))
        if not (of_row["chosen"] == 1).any():
            return None
        return {"choice": int(of_row["chosen"].argmax()), "choices": len(of_row["chosen"])}

    def gold_from_json(self, values: Sequence[Any]) -> Arrays:
        """Return `chosen`; a row without a label has no choices."""
        return self.pack([
            (0, 0) if value is None else (_place(value["choice"], int(value["choices"])), int(value["choices"]))
            for value in values
        ])  # fmt: skip

    def cells(self) -> list[str]:
        """Return `choice`, `text`, and `probability` of the choice."""
        return ["choice", "text", "probability"]

    def as_cells(self, predicted: Arrays, row: int, texts: Sequence[Text] = ()) -> dict[str, str]:
        """Return the cells of one row."""
        values = self.as_json(predicted, row, texts)
        cells = {"choice": str(values["choice"]), "text": values.get("text", "")}
        if "probabilities" in values:
            cells["probability"] = f"{values['probabilities'][values['choice']]:.6f}"
        return cells

    def is_close(self, predicted: Arrays, margin: float) -> np.ndarray:
        """Return which choices (m,) are in a row whose most probable choice is that near to the next one."""
        starts, probabilities = _starts(predicted), predicted["probabilities"]
        close = np.zeros(len(probabilities), dtype=bool)
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            best = np.sort(probabilities[start:end])[-2:]
            close[start:end] = len(best) == 2 and best[1] - best[0] <= margin
        return close

    def uncertainty(self, predicted: Tensors) -> "Tensor | None":
        """Return the entropy of each row's probabilities over log k (n,)."""
        import torch

        if "probabilities" not in predicted or predicted.starts is None:
            return None
        lengths = predicted.starts.diff()
        row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        entropy = torch.special.entr(predicted["probabilities"].double())
        sums = entropy.new_zeros(len(lengths)).index_add(0, row, entropy)
        # For a row with one choice, log k would be 0.
        return (sums / lengths.clamp(min=2).double().log()).clamp(0, 1)


def decided(probabilities: np.ndarray, starts: np.ndarray) -> Arrays:
    """Return predictions from the probabilities (m,) of the choices of n rows; of equal ones, the first is chosen."""
    lengths = np.diff(starts)
    is_choice = np.zeros(len(probabilities), dtype=np.int8)
    if len(probabilities):
        # Only rows with choices: for an empty group, reduceat returns an entry of the next one.
        rows = np.flatnonzero(lengths)
        largest = np.repeat(np.maximum.reduceat(probabilities, starts[:-1][rows]), lengths[rows])
        is_largest = (probabilities >= largest).astype(np.int64)
        # Of several largest choices of a row, only the first has as many before it as the first choice of the row.
        before = np.cumsum(is_largest) - is_largest
        is_choice = ((is_largest == 1) & (before == np.repeat(before[starts[:-1][rows]], lengths[rows]))).astype(
            np.int8
        )
    return Ragged({"chosen": is_choice, "probabilities": probabilities}, starts)


def _index_of(label: str, choices: Sequence[str], form: Form, base: int) -> int | None:
    """Return the number of the choice that a label names, None for none of them."""
    if form == "text":
        return choices.index(label) if label in choices else None
    if form == "letter":
        number = LETTERS.find(label.upper()) if len(label) == 1 else -1
    else:
        number = int(label) - base if label.isdecimal() else -1
    return number if 0 <= number < len(choices) else None


def _place(value: Any, count: int) -> int:
    """Return the number of a choice in a JSON value. Raise ValueError for one that does not exist."""
    if not 0 <= int(value) < count:
        raise ValueError(f"found choice {value} of {count}")
    return int(value)


def _starts(rows: Arrays) -> np.ndarray:
    if rows.starts is None:
        raise ValueError("choices without rows")
    return rows.starts


def _first(flags: np.ndarray, rows: Arrays) -> np.ndarray:
    """Return the place of the choice with the flag 1, one in each row that has it."""
    starts = _starts(rows)
    items = np.flatnonzero(flags == 1)
    return items - starts[np.searchsorted(starts, items, side="right") - 1]
