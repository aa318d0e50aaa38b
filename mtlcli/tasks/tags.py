"""Target with one tag for each word of a text."""

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlcli.errors import MtlError, one_of, quotable
from mtlcli.tasks.class_matches import ClassMatches, pairs
from mtlcli.tasks.ragged import Arrays, Ragged, Tensors
from mtlcli.tasks.schemes import (
    OUTSIDE,
    TAG,
    Scheme,
    Span,
    Structure,
    TrainScheme,
    best_tags,
    closed_tags,
    detect,
    parts_of,
    spans_of,
    tags_of,
    violations,
)
from mtlcli.tasks.tag_labels import Align, are_spans, spans_in, type_of
from mtlcli.tasks.tag_spans import Spans, matches
from mtlcli.tasks.tag_spans import spans_in as spans_of_tags
from mtlcli.tasks.target_base import BadLabel, LossOf, Raw, Target
from mtlcli.tasks.word_numbers import number_of, word_of
from mtlcli.tasks.words import Text, Words

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN = -1
"""Index of a word without a tag: nothing is learned from it, and no metric counts it."""
_unseen_names: dict[int, str] = {}
"""Tags that training never saw, by their index: names for output. The index follows from the name alone."""


@dataclass(frozen=True)
class Tags(Target):
    """One of several tags for each word.

    Gold: `tag` int64 of each word, UNKNOWN for one without a tag, and C or more for a tag that training never saw, which no
    prediction equals; `word` int64, the number of the word (`word_numbers`), with which metrics tell words apart. Predictions:
    `tag` int64 and `probabilities` (C) of each word.

    Attributes:
        tags: names in index order; None: not fitted yet, they are those of training. Where tags mark spans, all prefixes of every
            type, whether training has them or not.
        scheme: how the tags of files mark spans; None: as training shows.
        train_scheme: how the tags that are learned mark them.
        align: what to do with a span of characters that begins or ends inside a word.
        strict: whether an I tag that continues no span is an error.
        declared: what the configuration calls labels: tags, or types of spans.
    """

    kind = "tags"
    hub_task = "token-classification"
    unit = "word"
    columns = ("label", "texts")
    forms = frozenset({"nested"})
    noise = "softmax"

    tags: tuple[str, ...] | None = None
    scheme: Scheme | None = None
    train_scheme: TrainScheme = "bio"
    align: Align = "error"
    strict: bool = False
    declared: tuple[str, ...] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the tags in index order; empty before the target is fitted."""
        return self.tags or ()

    @property
    def types(self) -> tuple[str, ...]:
        """Types of the spans; empty for plain tags."""
        if not self.marks_spans:
            return ()
        return tuple(dict.fromkeys(parts_of(tag)[1] for tag in self.labels if tag != OUTSIDE))

    @property
    def marks_spans(self) -> bool:
        """Whether the tags mark spans."""
        return self.scheme not in (None, "plain")

    @cached_property
    def structure(self) -> Structure:
        """Which tags can follow each other."""
        return Structure.of(self.labels, self.train_scheme if self.marks_spans else "plain")

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {tag: index for index, tag in enumerate(self.labels)}

    def describe(self) -> str:
        """Return `a tag for each word, one of NOUN, VERB`, or `spans of LOC, PER`."""
        if not self.labels:
            return "a tag for each word"
        if self.marks_spans:
            return f"spans of {one_of(map(quotable, self.types))}"
        return f"a tag for each word, one of {one_of(map(quotable, self.labels))}"

    @property
    def meaning(self) -> str:
        """The types or tags by name, whatever their order and the scheme of the files."""
        names = one_of(sorted(self.types or self.labels))
        # Probabilities of BIO tags cannot be averaged with those of IOBES tags.
        learned = " (train_scheme: iobes)" if self.train_scheme == "iobes" else ""
        return f"spans of {names}{learned}" if self.marks_spans else f"the tags {names}"

    # Reading

    def declare(self, labels: Sequence[str] | None, bounds: Sequence[float] | None, where: str) -> "Tags":
        """Return the target with these tags, or types of spans."""
        if bounds is not None:
            raise MtlError(f"{where}.range: this task predicts tags; it has labels, not a range")
        if labels is None:
            return self
        names = tuple(label.strip() for label in labels)
        if len(set(names)) < len(names) or "" in names:
            raise MtlError(f"{where}.labels: found {list(names)}: expected different names")
        return replace(self, declared=names)

    def parse(self, raw: Raw) -> np.ndarray:
        """Return tag index and number of each word (k, 2) int64; before the target is fitted, only check the label's form."""
        words = _words_of(raw)
        try:
            tags = self._tags_in(raw["label"], words)
        except ValueError as error:
            raise BadLabel("label", f": {error}") from None
        if self.tags is None:
            return np.zeros((0, 2), dtype=np.int64)
        learned = self._converted(tags)
        if self.declared is not None:
            unknown = next((tag for tag in learned if tag is not None and tag not in self._indices), None)
            if unknown is not None:
                raise BadLabel(
                    "label", f': the tag "{quotable(unknown)}" is none of those that labels names: {self.describe()}'
                )
        return _gold([self._index(tag) for tag in learned], words.words)

    def _index(self, tag: str | None) -> int:
        """Return the index of a tag; of one that is none of the target's, a number that follows from its name."""
        if tag is None:
            return UNKNOWN
        index = self._indices.get(tag)
        if index is None:
            index = unseen_index(tag, len(self.labels), spans=self.marks_spans)
            _unseen_names[index] = tag
        return index

    def _tags_in(self, label: Any, words: Words) -> list[str | None]:
        """Return the tags that a label states, one a word; None for a word without one.

        Raises:
            ValueError: the label cannot be used.
        """
        if isinstance(label, str):
            # A cell of CSV or TSV, with spaces between the tags.
            label = label.split()
        if label is None:
            return [None] * len(words)
        if not isinstance(label, list | tuple):
            raise ValueError("found an object; expected a list of tags, or of spans with start, end and type")
        if are_spans(label, words):
            return list(tags_of(spans_in(label, words, self.align), len(words)))
        if len(label) != len(words):
            raise ValueError(f"found {len(label)} tags for {len(words)} words")
        tags: list[str | None] = []
        for number, tag in enumerate(label):
            if tag is None:
                tags.append(None)
                continue
            name = self._named(str(tag).strip())
            if not name:
                raise ValueError(f'the tag of word {number} ("{quotable(words.words[number])}") is empty')
            if self.scheme not in (None, "plain"):
                # Only for the error about a malformed tag.
                parts_of(name)
            tags.append(name)
        if self.strict and self.scheme == "bio" and violations([tag for tag in tags if tag is not None])[0]:
            raise ValueError("an I tag continues no span (strict: true)")
        return tags

    def _named(self, name: str) -> str:
        """Return the tag that a number stands for, where the configuration lists the tags."""
        if self.declared is not None and name.isdecimal() and name not in self.declared:
            if int(name) >= len(self.declared):
                raise ValueError(f"found tag {name}, expected a number below {len(self.declared)} (labels)")
            return self.declared[int(name)]
        return name

    def _converted(self, tags: Sequence[str | None]) -> list[str | None]:
        """Return tags of a file in the scheme that is learned."""
        if not self.marks_spans:
            return list(tags)
        # A word without a tag ends a span, like O.
        named = [OUTSIDE if tag is None else tag for tag in tags]
        learned = tags_of(spans_of(named), len(named), self.train_scheme)
        return [None if tag is None else new for tag, new in zip(tags, learned, strict=True)]

    def unlabeled(self, raw: Raw) -> np.ndarray:
        """Return UNKNOWN and the number of each word (k, 2) int64."""
        words = _words_of(raw).words
        return _gold([UNKNOWN] * len(words), words)

    def fit(self, raws: Iterable[Raw]) -> "Tags":
        """Return the target with the scheme and the tags of the training rows, sorted, O first."""
        sentences = []
        spans = False
        for raw in raws:
            words = _words_of(raw)
            spans |= are_spans(raw["label"], words)
            sentences.append([tag for tag in self._tags_in(raw["label"], words) if tag is not None])
        # Spans of characters have become BIO tags in `_tags_in`.
        scheme = self.scheme or ("bio" if spans else detect(sentences))
        fitted = replace(self, scheme=scheme)
        if scheme == "plain":
            names = self.declared or tuple(sorted({tag for tags in sentences for tag in tags}))
            return replace(fitted, tags=names)
        # A malformed tag is reported with its row when that is parsed again.
        kinds = {type_of(tag) for tags in sentences for tag in tags if TAG.fullmatch(tag)} - {""}
        declared = dict.fromkeys(type_of(name) for name in self.declared or ())
        declared.pop("", None)
        return replace(fitted, tags=closed_tags(tuple(declared) or sorted(kinds), fitted.train_scheme))

    def pack(self, items: Sequence[np.ndarray]) -> Arrays:
        """Return `tag` and `word` of all words."""
        both = np.concatenate([*items, np.zeros((0, 2), dtype=np.int64)])
        # Copies, because a column of `both` is a strided view that keeps both columns in memory.
        return Ragged({"tag": both[:, 0].copy(), "word": both[:, 1].copy()}, _starts(items))

    def is_constant(self, gold: Arrays) -> bool:
        """Return whether all words have the same tag."""
        tags = gold["tag"][gold["tag"] != UNKNOWN]
        return len(self.labels) < 2 or len(np.unique(tags)) < 2

    def remarks(self, raws: Sequence[Raw], gold: Arrays, column: str, *, training: bool) -> list[str]:
        """Return doubts about I tags that continue nothing, or the tags that training never saw."""
        remarks = []
        if self.scheme == "bio":
            counts = np.zeros(2, dtype=np.int64)
            for raw in raws:
                if raw["label"] is not None:
                    tags = self._tags_in(raw["label"], _words_of(raw))
                    counts += violations([tag for tag in tags if tag is not None])
            if counts[0]:
                remarks.append(
                    f"{counts[0]} of {counts[1]} I- tags continue no span: each begins one, as conlleval reads them (strict: true "
                    "refuses them)"
                )
        if not training:
            unseen = Counter(_unseen_names[index] for index in gold["tag"][gold["tag"] >= len(self.labels)].tolist())
            if unseen:
                listed = ", ".join(f"'{quotable(tag)}' ({count})" for tag, count in unseen.most_common(5))
                remarks.append(
                    f"{sum(unseen.values())} words have a tag unseen in training, counted as wrong: {listed}"
                )
        return remarks

    def notes(self, raws: Sequence[Raw], *, training: bool) -> list[str]:
        """Return the scheme of the tags, and how many words have none."""
        if not training:
            return []
        names = {"bio": "BIO", "iob1": "IOB1", "iobes": "IOBES", "bilou": "BILOU", "io": "IO", "plain": "plain"}
        learned = "" if self.scheme in ("plain", self.train_scheme) else f", learned as {names[self.train_scheme]}"
        return [f"tags are {names[self.scheme or 'plain']}{learned}"]

    def check(self, gold: Arrays) -> list[str]:
        """Return the numbers of words, and of the spans of each type or the words with each tag."""
        unlabeled = int((gold["tag"] == UNKNOWN).sum())
        missing = f", {unlabeled} without a tag" if unlabeled else ""
        if self.marks_spans:
            begins = [name.startswith(("B-", "S-")) for name in self.labels]
            counts = Counter(
                parts_of(self.labels[index])[1] for index in gold["tag"].tolist() if self._begins(index, begins)
            )
            what = "spans"
        else:
            counts = Counter(self.labels[index] for index in gold["tag"].tolist() if 0 <= index < len(self.labels))
            what = "tags"
        shown = [f"{quotable(name)} {count}" for name, count in counts.most_common(10)]
        more = f", and {len(counts) - 10} more" if len(counts) > 10 else ""
        return [f"{len(gold['tag'])} words{missing}; {what} " + ", ".join(shown) + more]

    def _begins(self, index: int, begins: Sequence[bool]) -> bool:
        return 0 <= index < len(begins) and begins[index]

    def record(self) -> dict[str, Any]:
        """Return tags, schemes and how files are read."""
        return {
            "kind": self.kind, "tags": None if self.tags is None else list(self.tags), "scheme": self.scheme,
            "train_scheme": self.train_scheme, "align": self.align, "strict": self.strict,
            "declared": None if self.declared is None else list(self.declared),
        }  # fmt: skip

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Tags":
        """Return the target of a record."""
        tags, declared = record["tags"], record["declared"]
        return cls(
            None if tags is None else tuple(map(str, tags)), record["scheme"], record["train_scheme"], record["align"],
            record["strict"], None if declared is None else tuple(map(str, declared)),
        )  # fmt: skip

    # A batch

    def known(self, gold: Any) -> Any:
        """Return which words have a tag that can be learned (m,)."""
        return (gold["tag"] >= 0) & (gold["tag"] < len(self.labels))

    def outputs(self) -> int:
        """Return the number of tags."""
        return len(self.labels)

    def clusters(self, gold: Arrays) -> tuple[np.ndarray, int] | None:
        """Return the tag indices of all words."""
        return np.where(self.known(gold), gold["tag"], -1), len(self.labels)

    def class_counts(self, gold: Arrays) -> np.ndarray:
        """Return the words with each tag."""
        return np.bincount(gold["tag"][self.known(gold)], minlength=len(self.labels))

    def examples(self, n: int) -> Arrays:
        """Return rows of one to three words with one tag after the other, of those that can stand everywhere."""
        lengths = np.minimum(np.arange(n), n - 1 - np.arange(n)) % 3 + 1  # the same from both ends
        starts = np.concatenate([np.zeros(1, dtype=np.int64), lengths.cumsum()])
        anywhere = np.flatnonzero(self.structure.begin & self.structure.end)
        place = np.arange(int(starts[-1]))
        words = np.array([number_of(f"word-{number}") for number in (place % 7).tolist()], dtype=np.int64)
        return Ragged({"tag": anywhere[place % len(anywhere)], "word": words}, starts)

    # Losses

    @property
    def guess(self) -> float:
        """log C: cross-entropy of a uniform guess, for each word."""
        return math.log(max(2, len(self.labels)))

    def divergence(self, a: "Tensor", b: "Tensor") -> "Tensor":
        """Return KL(P || Q) + KL(Q || P) of the softmax of two logits (m, C), word by word (m,)."""
        import torch

        p, q = (torch.log_softmax(output.float(), -1) for output in (a, b))
        return ((p.exp() - q.exp()) * (p - q)).sum(-1)

    def logits(self, output: "Tensor") -> "Tensor":
        """Return the output (m, C)."""
        return output.float()

    @property
    def feature_size(self) -> int:
        """The number of tags."""
        return len(self.labels)

    def soft(self, predicted: Arrays) -> Arrays:
        """Return `tag` and `probabilities` (m, C) of all words: 1 for the predicted tag where a teacher gives none."""
        tags = predicted["tag"]
        shares = predicted["probabilities"] if "probabilities" in predicted else np.eye(len(self.labels))[tags]
        return Ragged({"tag": tags, "probabilities": shares}, predicted.starts)

    def where_known(self, soft: Arrays, gold: Arrays) -> Arrays:
        """Return a teacher's predictions with probabilities of 0 for words without a tag, by which no loss is divided."""
        known = gold["tag"] != UNKNOWN
        return Ragged({**soft.fields, "probabilities": soft["probabilities"] * known[:, None]}, soft.starts)

    def soft_loss(self, loss_of: LossOf, soft: Tensors) -> "Tensor":
        """Return the loss of labels with `probabilities`: a head that reads the tags alone learns from those that were predicted."""
        return loss_of(soft)

    # Predictions

    def decoded(self, probabilities: np.ndarray, starts: np.ndarray) -> Arrays:
        """Return the most probable sequences that the scheme allows, for marginals (m, C) of the words of n rows."""
        # Probabilities in float32 can be 0.
        scores = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
        return Ragged({"tag": best_tags(scores, starts, self.structure), "probabilities": probabilities}, starts)

    def average(self, votes: Sequence[Arrays], owners: Sequence[Target]) -> Arrays:
        """Return the best sequences under the mean of the words' probabilities; those of a single vote as they are."""
        if len(votes) == 1 and owners[0].labels == self.labels:
            return votes[0]
        starts = np.asarray(votes[0].starts)
        if any(not np.array_equal(starts, np.asarray(vote.starts)) for vote in votes):
            raise ValueError("votes for other words")
        means = np.zeros((len(votes[0]["tag"]), len(self.labels)))
        for vote, owner in zip(votes, owners, strict=True):
            places = [self._indices[label] for label in owner.labels or ()]
            if "probabilities" in vote:
                means[:, places] += vote["probabilities"] / len(votes)
            else:
                means[np.arange(len(means)), np.asarray(places)[vote["tag"]]] += 1 / len(votes)
        return self.decoded(means, starts)

    def as_json(
        self, predicted: Arrays, row: int, texts: Sequence[Text] = (), *, exact: bool = False
    ) -> dict[str, Any]:
        """Return `tags`, with the text also `words` and the spans as `entities`, by characters of the text."""
        tags = self._row(predicted, row)
        if not texts:
            return {"tags": tags}
        (words,) = texts
        if not isinstance(words, Words):
            return {"tags": tags}
        values: dict[str, Any] = {"words": words.words, "tags": tags}
        if self.marks_spans:
            values["entities"] = [
                {"start": start, "end": end, "type": kind, "text": words.text[start:end]}
                for kind, start, end in _in_characters(spans_of(tags), words)
            ]
        return values

    def _row(self, rows: Arrays, row: int) -> list[str]:
        if rows.starts is None:
            raise ValueError("tags of no words")
        indices = rows["tag"][rows.starts[row] : rows.starts[row + 1]].tolist()
        return [self.labels[index] for index in indices]

    def from_json(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Return `tag` of all words."""
        items = [np.array([self._index(tag) for tag in row["tags"]], dtype=np.int64) for row in rows]
        return Ragged({"tag": np.concatenate([*items, np.zeros(0, dtype=np.int64)])}, _starts(items))

    def gold_json(self, gold: Arrays, row: int) -> dict[str, list[Any]] | None:
        """Return `words` and `tags` of a row, None for a word without a tag; None for a row without words."""
        if gold.starts is None:
            raise ValueError("tags of no words")
        place = slice(gold.starts[row], gold.starts[row + 1])
        tags = [None if index == UNKNOWN else self._name(index) for index in gold["tag"][place].tolist()]
        return {"words": [*map(word_of, gold["word"][place].tolist())], "tags": tags} if tags else None

    def _name(self, index: int) -> str:
        return self.labels[index] if index < len(self.labels) else _unseen_names[index]

    def gold_from_json(self, values: Sequence[Any]) -> Arrays:
        """Return the words and tags that `gold_json` wrote."""
        rows = [value or {"words": [], "tags": []} for value in values]
        return self.pack([_gold([*map(self._index, row["tags"])], row["words"]) for row in rows])

    def widen(self, rows: Sequence[Mapping[str, Any]]) -> "Tags":
        """Return the target itself: tags of other runs have an index by their name."""
        return self

    def cells(self) -> list[str]:
        """Return `tags`, and `entities` where tags mark spans."""
        return ["tags", "entities"] if self.marks_spans else ["tags"]

    def as_cells(self, predicted: Arrays, row: int, texts: Sequence[Text] = ()) -> dict[str, str]:
        """Return the tags joined by spaces, and spans as `TYPE:start-end` in characters of the text."""
        tags = self._row(predicted, row)
        cells = {"tags": " ".join(tags)}
        if self.marks_spans and texts and isinstance(texts[0], Words):
            spans = _in_characters(spans_of(tags), texts[0])
            cells["entities"] = " ".join(f"{kind}:{start}-{end}" for kind, start, end in spans)
        return cells

    def uncertainty(self, predicted: Tensors) -> "Tensor | None":
        """Return the mean entropy of each row's words (n,), divided by log C."""
        import torch

        if "probabilities" not in predicted or predicted.starts is None:
            return None
        probabilities = predicted["probabilities"].float()
        entropy = torch.special.entr(probabilities).sum(-1) / self.guess
        lengths = predicted.starts.diff()
        row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        return entropy.new_zeros(len(lengths)).index_add(0, row, entropy) / lengths.clamp(min=1)

    def spans(self, predicted: Arrays, gold: Arrays, *, strict: bool = False) -> tuple[Spans, Spans]:
        """Return the spans that are predicted and those of the labels. What is predicted for a word without a tag does not count.

        Args:
            strict: whether a span begins at B alone, see `tag_spans.spans_in`.
        """
        if gold.starts is None:
            raise ValueError("spans of no words")
        tags = (np.where(gold["tag"] == UNKNOWN, UNKNOWN, predicted["tag"]), gold["tag"])
        first, second = (
            spans_of_tags(self.labels, self.types, indices, gold.starts, strict=strict) for indices in tags
        )
        return first, second

    def class_matches(self, predicted: Arrays, gold: Arrays) -> ClassMatches:
        """Return the types of the spans, as span-f1 counts them; without spans, the tags of the words that have one."""
        if not self.marks_spans:
            return self._tag_matches(predicted, gold)
        predicted_spans, gold_spans = self.spans(predicted, gold)
        right = predicted_spans.take(matches(predicted_spans, gold_spans))
        known = len(self.labels)
        unseen = {
            len(self.types) + (index - known) // 2: parts_of(name)[1]
            for index, name in _unseen_names.items()
            # The names are those of all tasks in this process, plain tags included.
            if index >= known and TAG.fullmatch(name)
        }
        names = dict(enumerate(self.types)) | unseen
        parts = [(spans.row, spans.type) for spans in (gold_spans, predicted_spans, right)]
        return _matches_by_name(names, parts)

    def _tag_matches(self, predicted: Arrays, gold: Arrays) -> ClassMatches:
        if gold.starts is None:
            raise ValueError("tags of no words")
        rows = np.repeat(np.arange(len(gold)), np.diff(gold.starts))
        labeled = gold["tag"] != UNKNOWN
        right = labeled & (gold["tag"] == predicted["tag"])
        parts = [
            (rows[labeled], gold["tag"][labeled]), (rows[labeled], predicted["tag"][labeled]), (rows[right], gold["tag"][right]),
        ]  # fmt: skip
        return _matches_by_name(dict(enumerate(self.labels)) | _unseen_names, parts)


def _matches_by_name(names: Mapping[int, str], parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> ClassMatches:
    """Return the matches of rows and numbers of classes: labeled, predicted, and right; numbers need not be consecutive."""
    occurring, places = np.unique(np.concatenate([numbers for _, numbers in parts]), return_inverse=True)
    ends = np.cumsum([len(numbers) for _, numbers in parts])[:-1]
    indices = np.split(places.reshape(-1), ends)
    gold, predicted, right = (pairs(rows, classes) for (rows, _), classes in zip(parts, indices, strict=True))
    return ClassMatches(tuple(names[number] for number in occurring.tolist()), gold, predicted, right)


def unseen_index(tag: str, known: int, *, spans: bool) -> int:
    """Return an index of at least `known` for a tag that training never saw.

    Where tags mark spans, the index minus `known` is even for the first word of a span and odd for further ones, so that metrics see
    its spans.
    """
    if not spans:
        # The built-in `hash` of a text differs from process to process.
        return known + zlib.crc32(tag.encode())
    prefix, kind = parts_of(tag)
    return known + 2 * zlib.crc32(kind.encode()) + (prefix in "IE")


def _gold(tags: Sequence[int], words: Sequence[str]) -> np.ndarray:
    """Return tag index and number of each word (k, 2) int64."""
    # The reshape is for a row without words, of which np.array makes the shape (0,).
    return np.array([*zip(tags, map(number_of, words), strict=True)], dtype=np.int64).reshape(-1, 2)


def _starts(items: Sequence[np.ndarray]) -> np.ndarray:
    """Return the first word of each row, and the number of all words (n + 1,)."""
    starts = np.zeros(len(items) + 1, dtype=np.int64)
    np.cumsum([len(item) for item in items], out=starts[1:])
    return starts


def _words_of(raw: Raw) -> Words:
    words = raw["texts"][0]
    if not isinstance(words, Words):
        raise TypeError("tags need the words of a text")
    return words


def _in_characters(spans: Sequence[Span], words: Words) -> list[Span]:
    return [(kind, words.spans[start][0], words.spans[end - 1][1]) for kind, start, end in spans]
