"""Target with the answer to a question as a span of its context, or none."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlcli.errors import quotable
from mtlcli.tasks.answer_text import best_f1
from mtlcli.tasks.items import NO_SPAN, Items
from mtlcli.tasks.ragged import Arrays, Ragged, Tensors
from mtlcli.tasks.target_base import BadLabel, Raw, Target
from mtlcli.tasks.words import Text

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Span = tuple[int, int]
CONTEXT = 1
"""Number of the context among a row's texts, behind the question."""


@dataclass(frozen=True)
class Row:
    """What the rows of a split know of one question: its context, and the spans of its answers.

    Attributes:
        answers: first character and the one after the last of each; empty for a question without an answer, None if unknown.
    """

    context: str
    answers: tuple[Span, ...] | None


@dataclass(frozen=True)
class Answers(Target):
    """The span of the context that answers a question, or no answer.

    Gold: `codes` of each row, uint32: how many answers there are plus 1 (0 if that is unknown), their spans, and the characters of
    the context, with which metrics compare texts. Predictions: `start` and `end` (n,) int64, the best span in characters of the
    context, and `score` (n,) float64, its log-odds against no answer.

    Attributes:
        threshold: scores below it mean no answer; None: every question has one.
        fix_offsets: move an answer that stands elsewhere than its offset says to its nearest occurrence, instead of rejecting it.
        log_places: mean of log p over the training rows of p characters; None: not fitted yet.
    """

    kind = "answers"
    hub_task = "question-answering"
    unit = "query"
    columns = ("label", "texts")
    forms = frozenset({"nested", "columns"})
    noise = "softmax"

    threshold: float | None = None
    fix_offsets: bool = False
    log_places: float | None = None

    def describe(self) -> str:
        """Return `a span of the context that answers a question`."""
        return "a span of the context that answers a question"

    @property
    def meaning(self) -> str:
        """The same for all rows, with or without questions that have no answer."""
        return "a span of the context that answers a question"

    # Reading

    def parse(self, raw: Raw) -> Row:
        """Return the context and the spans of the answers."""
        context = str(raw["texts"][CONTEXT])
        return Row(context, tuple(self._span(text, start, context) for text, start in _stated(raw["label"])))

    def _span(self, text: str, start: int | None, context: str) -> Span:
        """Return the span of an answer.

        Raises:
            BadLabel: the answer does not stand in the context, or not where its offset says.
        """
        # A negative offset would count from the end of the context.
        if start is not None and context[start : start + len(text)] == text and start >= 0:
            return start, start + len(text)
        places = _occurrences(text, context)
        if not places:
            raise BadLabel("label", f': the answer "{quotable(text)}" does not stand in the context')
        if start is None:
            if len(places) > 1:
                raise BadLabel(
                    "label",
                    f': the answer "{quotable(text)}" stands {len(places)} times in the context; give its offset',
                )
            return places[0], places[0] + len(text)
        # Of two equally near occurrences, the earlier one.
        nearest = min(places, key=lambda place: (abs(place - start), place))
        if self.fix_offsets:
            return nearest, nearest + len(text)
        there = quotable(context[max(0, start) : max(0, start) + len(text)])
        raise BadLabel(
            "label",
            f': the answer "{quotable(text)}" is not at character {start} (found "{there}"); it stands at {nearest} (fix_offsets: '
            "true moves it)",
        )

    def unlabeled(self, raw: Raw) -> Row:
        """Return the context without an answer that is known."""
        return Row(str(raw["texts"][CONTEXT]), None)

    def fit(self, raws: Iterable[Raw]) -> "Answers":
        """Return the target with the threshold 0 if a training question has no answer."""
        lengths, unanswerable = [], False
        for raw in raws:
            # At least 2, so that `guess` is above 0.
            lengths.append(math.log(max(2, len(raw["texts"][CONTEXT]))))
            unanswerable |= not _stated(raw["label"])
        threshold = 0.0 if unanswerable and self.threshold is None else self.threshold
        return replace(self, threshold=threshold, log_places=sum(lengths) / len(lengths))

    def pack(self, items: Sequence[Row]) -> Arrays:
        """Return `codes` of all rows."""
        parts = []
        for row in items:
            spans = (
                () if row.answers is None else (len(row.answers) + 1, *(end for span in row.answers for end in span))
            )
            # One number for each code point, as offsets count them. With `surrogatepass`, every Python string can be
            # encoded.
            context = np.frombuffer(row.context.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
            parts.append(np.concatenate([np.array(spans or (0,), dtype=np.uint32), context]))
        starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum([len(part) for part in parts], dtype=np.int64)])
        # The empty array is for a split without rows, because NumPy cannot concatenate nothing.
        return Ragged({"codes": np.concatenate([*parts, np.zeros(0, dtype=np.uint32)])}, starts)

    def is_constant(self, gold: Arrays) -> bool:
        """Return whether no question has an answer."""
        return not any(row_of(gold, row).answers for row in range(len(gold)))

    def remarks(self, raws: Sequence[Raw], gold: Arrays, column: str, *, training: bool) -> list[str]:
        """Return that questions of an evaluated split have no answer, which the model has not learned."""
        if not training and self.threshold is None:
            without = sum(row_of(gold, row).answers == () for row in range(len(gold)))
            if without:
                return [f"{without} questions have no answer, and those of training all have one: counted as wrong"]
        return []

    def check(self, gold: Arrays) -> list[str]:
        """Return how many questions have no answer, and how long contexts and answers are."""
        rows = [row_of(gold, row) for row in range(len(gold))]
        lengths = [end - start for row in rows for start, end in (row.answers or ())[:1]]
        without = sum(row.answers == () for row in rows)
        contexts = [len(row.context) for row in rows]
        return [
            f"{len(rows)} questions, {without} without an answer; contexts of {min(contexts)} to {max(contexts)} characters, answers "
            f"of {min(lengths, default=0)} to {max(lengths, default=0)}"
        ]

    def record(self) -> dict[str, Any]:
        """Return threshold, how offsets are read, and the mean log length."""
        return {
            "kind": self.kind, "threshold": self.threshold, "fix_offsets": self.fix_offsets, "log_places": self.log_places,
        }  # fmt: skip

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Answers":
        """Return the target of a record."""
        return cls(record["threshold"], record["fix_offsets"], record["log_places"])

    # A batch

    def collate(self, gold: Arrays, rows: np.ndarray, items: Items | None = None) -> Tensors:
        """Return `start` and `end` of each item, 1 where the row's first answer begins or ends, and its `window` in the batch.

        In each window they are marked once: at the answer if it lies wholly inside, else at the item that stands for none. A row
        without a label has no marks.
        """
        import torch

        if items is None or items.spans is None:
            raise ValueError("answers need the places where they can stand")
        spans, sequence, item_starts = items.spans.numpy(), items.sequence.numpy(), items.starts.numpy()
        marks = np.zeros((2, len(spans)), dtype=np.int8)
        is_none = (spans == NO_SPAN).all(axis=1)
        # Each window begins with its item for no answer, so a running count numbers the windows of the batch.
        window = np.cumsum(is_none) - 1
        for number, row in enumerate(rows.tolist()):
            answers = row_of(gold, row).answers
            if answers is None:
                continue
            at = np.arange(item_starts[number], item_starts[number + 1])
            for _, part in _by_sequence(at, sequence):
                # Training learns the first answer, metrics accept all. `part[0]` stands for no answer, so token k is
                # `part[1 + k]`.
                first, last = _tokens_of(answers[0], spans[part[1:]]) if answers else (-1, -1)
                marks[0, part[0] if first < 0 else part[1 + first]] = 1
                marks[1, part[0] if first < 0 else part[1 + last]] = 1
        fields = {"start": marks[0], "end": marks[1], "window": window.astype(np.int64)}
        return Ragged({name: torch.from_numpy(array) for name, array in fields.items()}, items.starts)

    def known(self, gold: Any) -> Any:
        """Return which rows have a label (n,)."""
        if "codes" in gold:
            return gold["codes"][_starts(gold)[:-1]] > 0
        # In a batch, every window of a labeled row has a mark, and the windows of other rows have none.
        before = gold["start"].new_zeros(len(gold["start"]) + 1, dtype=int)
        before[1:] = gold["start"].cumsum(0)
        return before[gold.starts].diff() > 0

    def units(self, gold: Arrays) -> np.ndarray:
        """Return 1 for each question with a label (n,)."""
        return np.asarray(self.known(gold), dtype=np.float64)

    def perfect(self, gold: Arrays) -> Arrays:
        """Return the first answer of each question with the log-odds 1, -1 where it has none."""
        rows = [row_of(gold, row) for row in range(len(gold))]
        spans = np.array([(row.answers or ((0, 0),))[0] for row in rows], dtype=np.int64).reshape(-1, 2)
        score = np.array([1.0 if row.answers else -1.0 for row in rows])
        return Ragged({"start": spans[:, 0], "end": spans[:, 1], "score": score})

    def outputs(self) -> int:
        """Return 2: a number for the beginning and one for the end at each place."""
        return 2

    def examples(self, n: int) -> Arrays:
        """Return questions about `a b c`, each with another answer or none."""
        place = np.minimum(np.arange(n), n - 1 - np.arange(n))  # the same from both ends
        spans = [(), ((0, 1),), ((2, 5),), ((4, 5),)]
        return self.pack([Row("a b c", spans[int(at) % len(spans)]) for at in place])

    # Losses

    @property
    def guess(self) -> float:
        """Mean of log p for p characters: about the cross-entropy of a uniform guess among the places of a context."""
        return math.log(100) if self.log_places is None else self.log_places

    def divergence(self, a: "Tensor", b: "Tensor") -> "Tensor":
        """Return the squared difference of two outputs (m, 2), place by place (m,): a softmax needs to know the windows."""
        return ((a.float() - b.float()) ** 2).sum(-1)

    # Predictions

    def average(self, votes: Sequence[Arrays], owners: Sequence[Target]) -> Arrays:
        """Return the span with the largest sum of the votes' odds in favour of an answer, and the mean of the log-odds.

        Runs with other tokenizers have other places, so that spans are compared by their characters.
        """
        if len(votes) == 1:
            return votes[0]
        score = np.stack([vote["score"] for vote in votes])
        start, end = (np.stack([vote[name] for vote in votes]) for name in ("start", "end"))
        same = (start[:, None] == start[None]) & (end[:, None] == end[None])  # (votes, votes, n)
        # Clipped, because exp overflows above 709.
        weight = 1 / (1 + np.exp(-score.clip(-500, 500)))
        support = (same * weight[None]).sum(axis=1)
        # Of equal support, the span that begins first, then the shorter one: whatever the order of votes.
        order = np.lexsort((end, start, -support), axis=0)[0]
        best = np.arange(score.shape[1])
        return Ragged(
            # Sorted, so that the order of the votes does not change the rounding of the mean.
            {"start": start[order, best], "end": end[order, best], "score": np.sort(score, axis=0).mean(axis=0)}
        )

    def merge(self, members: Sequence[Target]) -> "Answers":
        """Return the target with the mean of the members' thresholds, if all have one."""
        thresholds = [member.threshold for member in (self, *members) if isinstance(member, Answers)]
        stated = [threshold for threshold in thresholds if threshold is not None]
        return replace(self, threshold=sum(stated) / len(stated)) if len(stated) == len(thresholds) else self

    def is_answered(self, predicted: Arrays) -> np.ndarray:
        """Return which questions get an answer (n,) bool: as another run decided, where predictions say so."""
        if "answered" in predicted:
            return predicted["answered"]
        if self.threshold is None:
            return np.ones(len(predicted), dtype=bool)
        return predicted["score"] >= self.threshold

    # Decisions that dev rows settle

    def tune(self, predicted: Arrays, gold: Arrays) -> "Answers":
        """Return the target with the threshold of the highest mean F1 on dev rows, halfway between two scores.

        Of equally good thresholds it is the one nearest to 0. Without training questions that have no answer there is none.
        """
        if self.threshold is None:
            return self
        rows = [row_of(gold, row) for row in range(len(gold))]
        labeled = np.array([number for number, row in enumerate(rows) if row.answers is not None], dtype=np.int64)
        if not len(labeled):
            return self
        gains = np.zeros(len(labeled))  # how much better an answer is than none
        for place, number in enumerate(labeled.tolist()):
            row, start, end = rows[number], int(predicted["start"][number]), int(predicted["end"][number])
            answers = [row.context[first:last] for first, last in row.answers or ()]
            gains[place] = best_f1(row.context[start:end], answers) - best_f1("", answers)
        scores, group = np.unique(predicted["score"][labeled], return_inverse=True)
        by_score = np.bincount(group, gains, minlength=len(scores))
        # Total gain of answering from each score on, and of answering nothing.
        totals = np.append(np.cumsum(by_score[::-1])[::-1], 0.0)
        # One edge below all scores, one between neighbors, and one above all, as many as there are totals.
        edges = np.concatenate([[scores[0] - 1], (scores[1:] + scores[:-1]) / 2, [scores[-1] + 1]])
        # Sums of F1 that are equal in exact arithmetic can differ by rounding.
        best = np.flatnonzero(totals >= totals.max() - 1e-9)
        return replace(self, threshold=float(edges[best[np.abs(edges[best]).argmin()]]))

    def tuning(self) -> str:
        """Return the threshold."""
        return "" if self.threshold is None else f"log-odds from {self.threshold:.3g} on are an answer"

    def with_threshold(self, threshold: float, where: str) -> "Answers":
        """Return the target with the log-odds of this probability of an answer as its threshold."""
        with np.errstate(divide="ignore"):
            return replace(self, threshold=float(np.log(threshold) - np.log1p(-threshold)))

    def as_json(
        self, predicted: Arrays, row: int, texts: Sequence[Text] = (), *, exact: bool = False
    ) -> dict[str, Any]:
        """Return `answer`, empty where there is none, its `start` and `end` in characters, and its `log_odds` against no
        answer.

        With `exact`, start and end are those of the best span even where it is no answer, and `answered` says whether it is one.
        """
        start, end, score = (predicted[name][row].item() for name in ("start", "end", "score"))
        answered = bool(self.is_answered(predicted.take(np.array([row])))[0])
        values: dict[str, Any] = {"answer": str(texts[CONTEXT])[start:end] if answered else ""} if texts else {}
        if exact:
            return {**values, "start": start, "end": end, "log_odds": score, "answered": answered}
        shown = (start, end) if answered else (None, None)
        return {**values, "start": shown[0], "end": shown[1], "log_odds": round(score, 6)}

    def from_json(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Return `start`, `end` and `score`, and `answered`, because each run has a threshold of its own."""
        predicted = Ragged(
            {
                "start": np.array([int(row["start"]) for row in rows], dtype=np.int64),
                "end": np.array([int(row["end"]) for row in rows], dtype=np.int64),
                "score": np.array([float(row["log_odds"]) for row in rows], dtype=np.float64),
            }
        )
        stated = [row.get("answered") for row in rows]
        answered = self.is_answered(predicted) if None in stated else np.array(stated, dtype=bool)
        return Ragged({**predicted.fields, "answered": answered})

    def gold_json(self, gold: Arrays, row: int) -> dict[str, Any] | None:
        """Return the `context`, and the spans of its `answers`."""
        values = row_of(gold, row)
        return (
            None if values.answers is None else {"context": values.context, "answers": list(map(list, values.answers))}
        )

    def gold_from_json(self, values: Sequence[Any]) -> Arrays:
        """Return `codes`; a row without a label has no context either."""
        return self.pack(
            [
                Row("", None)
                if value is None
                else Row(str(value["context"]), tuple((int(start), int(end)) for start, end in value["answers"]))
                for value in values
            ]
        )

    def cells(self) -> list[str]:
        """Return `answer`, `start`, `end` and `log_odds`."""
        return ["answer", "start", "end", "log_odds"]

    def as_cells(self, predicted: Arrays, row: int, texts: Sequence[Text] = ()) -> dict[str, str]:
        """Return the cells of one row."""
        return {
            name: "" if value is None else f"{value:.6f}" if name == "log_odds" else str(value)
            for name, value in self.as_json(predicted, row, texts).items()
        }

    def uncertainty(self, predicted: Tensors) -> "torch.Tensor":
        """Return the entropy of answer against no answer over log 2 (n,)."""
        import torch

        p = torch.sigmoid(predicted["score"].double())
        return ((torch.special.entr(p) + torch.special.entr(1 - p)) / math.log(2)).clamp(0, 1)


def row_of(gold: Arrays, row: int) -> Row:
    """Return what the gold of a split knows of one row."""
    starts = _starts(gold)
    codes = gold["codes"][int(starts[row]) : int(starts[row + 1])]
    count = int(codes[0]) - 1
    behind = 1 + 2 * max(0, count)
    context = np.ascontiguousarray(codes[behind:], dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    spans = codes[1:behind].astype(np.int64).reshape(-1, 2).tolist()
    return Row(context, None if count < 0 else tuple((start, end) for start, end in spans))


def _stated(label: Any) -> list[tuple[str, int | None]]:
    """Return text and offset of each answer that a label states: a list of objects, an object of two lists, or one or two cells.

    Raises:
        BadLabel: the label has another form.
    """
    expected = ": expected a list of answers, each with text and answer_start"
    if label is None:
        raise BadLabel("label", " is missing")
    if isinstance(label, str):
        return [(label, None)] if label else []
    if isinstance(label, dict):
        label = _as_objects(label, expected)
    answers = []
    for answer in label:
        if not isinstance(answer, dict) or "text" not in answer:
            raise BadLabel("label", expected)
        text, start = answer["text"], answer.get("answer_start", answer.get("start"))
        if not isinstance(text, str) or not text:
            raise BadLabel("label", ": the text of an answer is empty")
        # A negative offset is a whole number too; `_span` reports where the answer stands instead.
        if start is not None and not str(start).removeprefix("-").isdecimal():
            raise BadLabel("label", f': found the offset "{quotable(str(start))}", expected a whole number')
        answers.append((text, None if start is None else int(start)))
    return answers


def _as_objects(label: Mapping[str, Any], expected: str) -> list[dict[str, Any]]:
    """Return an object of two lists, or the cells of two columns, as a list of objects."""
    if "text" in label and isinstance(label["text"], list | tuple):
        texts, starts = label["text"], label.get("answer_start") or [None] * len(label["text"])
        if len(texts) != len(starts):
            raise BadLabel("label", f": found {len(texts)} texts and {len(starts)} offsets")
        return [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]
    if len(label) == 2 and all(isinstance(value, str) for value in label.values()):
        text, start = label.values()
        return [{"text": text, "start": start or None}] if text else []
    raise BadLabel("label", expected)


def _occurrences(text: str, context: str) -> list[int]:
    """Return all places where a text stands in a context, overlapping ones too."""
    places, place = [], context.find(text)
    while place >= 0:
        places.append(place)
        place = context.find(text, place + 1)
    return places


def _by_sequence(items: np.ndarray, sequence: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    """Yield the items of each sequence of a row."""
    for number in np.unique(sequence[items]).tolist():
        yield number, items[sequence[items] == number]


def _tokens_of(answer: Span, spans: np.ndarray) -> tuple[int, int]:
    """Return first and last token of an answer among tokens that cover these characters (p, 2); (-1, -1) if a part is missing."""
    start, end = answer
    touched = np.flatnonzero((spans[:, 1] > start) & (spans[:, 0] < end))
    # A token before the answer, or behind it, shows that it is not cut there.
    begins = len(touched) > 0 and (touched[0] > 0 or spans[0, 0] <= start)
    if not begins or (touched[-1] == len(spans) - 1 and spans[-1, 1] < end):
        return -1, -1
    return int(touched[0]), int(touched[-1])


def _starts(gold: Arrays) -> np.ndarray:
    if gold.starts is None:
        raise ValueError("answers without rows")
    return gold.starts
