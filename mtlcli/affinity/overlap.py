"""What two tasks have in common before any training: words, labels of the same words, and rows.

The similarity of labels is that of Schröder and Biemann (ACL 2020, 2020.acl-main.268): the normalized mutual information between
the clusters of words that the labels of each data set make. It was made for tagging, where a word has a label of its own. Here,
every word of a row carries the label of the row, so the value is tiny and biased upward by rare words; what is reported is its
distance from the mean under permuted labels.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from mtlcli.data.splits import Split
from mtlcli.facts import seed_for
from mtlcli.tasks.words import WORD, Words

PERMUTATIONS = 20
"""Permutations of the labels under which the null value is computed."""
FEWEST = 5
"""Rows of each data set in which a word must occur; labels of rarer words are noise, which raises the null."""
_NOT_LETTERS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class TaskWords:
    """Hold the words of a task's training rows, and what a permutation of its labels needs.

    Attributes:
        vocabulary: words that occur, case folded.
        words: (m,) int64, number of a word in the vocabulary, once for each row or for each tagged word that holds it.
        owners: (m,) int64, number of the row or tagged word whose label the word has.
        clusters: (n,) int64, label of each owner, -1 for an unknown one; None for a task whose labels are not one class a row or word.
        classes: number of labels.
    """

    vocabulary: tuple[str, ...]
    words: np.ndarray
    owners: np.ndarray
    clusters: np.ndarray | None
    classes: int


@dataclass(frozen=True)
class LabelOverlap:
    """Hold the normalized mutual information of two data sets.

    Attributes:
        value: I / H(joint) of the labels as they are.
        null: its mean under permuted labels.
        deviation: its standard deviation under permuted labels.
        words: number of words that both data sets have often enough.
        by_sum: 2 I / (H(rows) + H(columns)), the other form of the paper, of the labels as they are.
    """

    value: float
    null: float
    deviation: float
    words: int
    by_sum: float

    @property
    def z(self) -> float:
        """Return how many standard deviations the value is above the null."""
        return (self.value - self.null) / self.deviation if self.deviation > 0 else 0.0


@dataclass(frozen=True)
class Leaks:
    """Count dev rows of a task that occur among the training rows of another.

    Attributes:
        rows: indices of dev rows whose texts, in either order, are those of a training row.
        sharing: number of dev rows with at least one text of a training row.
        total: number of dev rows.
    """

    rows: tuple[int, ...]
    sharing: int
    total: int


def words_of(split: Split) -> TaskWords:
    """Return the words of a split, case folded, with the labels that they carry."""
    clusters = split.target.clusters(split.gold)
    labels, classes = (None, 0) if clusters is None else clusters
    numbers: dict[str, int] = {}
    words: list[int] = []
    owners: list[int] = []
    position = 0
    for row, texts in enumerate(split.texts()):
        if split.target.unit == "word":
            # `clusters` of tags has one entry for each word, over all rows in order.
            for text in texts:
                for word in text.words if isinstance(text, Words) else WORD.findall(str(text)):
                    words.append(numbers.setdefault(word.casefold(), len(numbers)))
                    owners.append(position)
                    position += 1
            continue
        # A set: a word counts once for each row, however often the row repeats it.
        for word in sorted({word for text in texts for word in WORD.findall(str(text).casefold())}):
            words.append(numbers.setdefault(word, len(numbers)))
            owners.append(row)
    return TaskWords(tuple(numbers), np.array(words, dtype=np.int64), np.array(owners, dtype=np.int64), labels, classes)


def mutual_information(table: np.ndarray) -> tuple[float, float, float]:
    """Return I / H(joint), 2 I / (H(rows) + H(columns)) and I / max(H(rows), H(columns)) of a table (a, b); 0 where H is 0."""
    joint = table / table.sum()
    rows, columns = joint.sum(1), joint.sum(0)
    of_rows, of_columns, of_joint = (_entropy(shares) for shares in (rows, columns, joint))
    # Rounding can make it slightly negative.
    information = max(0.0, of_rows + of_columns - of_joint)
    divisors = (of_joint, (of_rows + of_columns) / 2, max(of_rows, of_columns))
    by_joint, by_sum, by_max = (information / divisor if divisor > 0 else 0.0 for divisor in divisors)
    return by_joint, by_sum, by_max


def _entropy(shares: np.ndarray) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def label_overlap(
    first: TaskWords, second: TaskWords, *, seed: int, permutations: int = PERMUTATIONS, fewest: int = FEWEST
) -> LabelOverlap | None:
    """Return the normalized mutual information of the labels that two data sets give the same words.

    The table is ``M = sum_w p_w q_w^T`` over the words w of both, where p_w (C_a,) and q_w (C_b,) are the shares of the labels of w:
    each word counts once. In the null, the labels of the first data set are permuted over its rows.

    Returns:
        None if a task has no labels of this kind, or no word is frequent enough in both.
    """
    if first.clusters is None or second.clusters is None:
        return None
    places = {word: place for place, word in enumerate(second.vocabulary)}
    shared = [(place, places[word]) for place, word in enumerate(first.vocabulary) if word in places]
    if not shared:
        return None
    left_words, right_words = (np.array(side, dtype=np.int64) for side in zip(*shared, strict=True))
    left, right = _Counts(first, left_words), _Counts(second, right_words)
    of_first, of_second = left.of(first.clusters), right.of(second.clusters)
    # Permuting the labels among labeled rows does not change these counts, so `frequent` holds for every null.
    frequent = (of_first.sum(1) >= fewest) & (of_second.sum(1) >= fewest)
    if not frequent.any():
        return None
    # Only the labels of the first side are permuted.
    fixed = _shares(of_second[frequent])
    value, by_sum, _ = mutual_information(_shares(of_first[frequent]).T @ fixed)
    generator = np.random.default_rng(seed_for(seed, "label overlap"))
    labeled = np.flatnonzero(first.clusters >= 0)
    nulls = []
    for _ in range(permutations):
        labels = first.clusters.copy()
        labels[labeled] = labels[generator.permutation(labeled)]
        nulls.append(mutual_information(_shares(left.of(labels)[frequent]).T @ fixed)[0])
    deviation = float(np.std(nulls, ddof=1)) if len(nulls) > 1 else 0.0
    return LabelOverlap(value, float(np.mean(nulls)) if nulls else 0.0, deviation, int(frequent.sum()), by_sum)


class _Counts:
    """Count the labels of some words of a data set, again for every permutation of its labels."""

    def __init__(self, words: TaskWords, wanted: np.ndarray) -> None:
        # The occurrences are looked up once; each permutation then needs only `of`.
        places = np.full(len(words.vocabulary), -1, dtype=np.int64)
        places[wanted] = np.arange(len(wanted))
        of_word = places[words.words]
        wanted_words = of_word >= 0
        self.words, self.owners = of_word[wanted_words], words.owners[wanted_words]
        self.rows, self.classes = len(wanted), words.classes

    def of(self, labels: np.ndarray) -> np.ndarray:
        """Return how often each word has each label (words, C)."""
        of_words = labels[self.owners]
        labeled = of_words >= 0
        # The cells of the table (words, C) in one dimension, so that one `bincount` fills all of them.
        cells = self.words[labeled] * self.classes + of_words[labeled]
        return np.bincount(cells, minlength=self.rows * self.classes).reshape(self.rows, self.classes)


def _shares(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def jaccard(first: Iterable[str], second: Iterable[str]) -> float:
    """Return the share of words that two vocabularies have in common, from 0 to 1."""
    a, b = set(first), set(second)
    return len(a & b) / len(a | b) if a | b else 0.0


def normalized(text: str) -> str:
    """Return a text case folded, with every run of other characters than letters and digits as one space."""
    return _NOT_LETTERS.sub(" ", text.casefold()).strip()


@dataclass(frozen=True)
class RowTexts:
    """Hold digests of the texts of a split: of each text, and of all texts of a row in any order."""

    texts: tuple[frozenset[bytes], ...]
    wholes: tuple[bytes, ...]


def texts_of(split: Split) -> RowTexts:
    """Return the digests of a split's normalized texts, by which rows of other splits are found again."""
    texts, wholes = [], []
    for row in split.texts():
        # Sorted, so that both orders of a pair have the same whole.
        digests = sorted(_digest(normalized(str(text))) for text in row)
        texts.append(frozenset(digests))
        wholes.append(b"".join(digests))
    return RowTexts(tuple(texts), tuple(wholes))


def _digest(text: str) -> bytes:
    # JSON can escape a lone surrogate, which strict UTF-8 cannot encode. 12 bytes make collisions negligible.
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def leaks(train: RowTexts, dev: Sequence[RowTexts]) -> Leaks:
    """Return which dev rows of a task, of all its dev sets in order, occur in the training rows of another."""
    wholes, singles = set(train.wholes), frozenset().union(*train.texts) if train.texts else frozenset()
    rows, sharing, total = [], 0, 0
    for split in dev:
        for texts, whole in zip(split.texts, split.wholes, strict=True):
            # Rows are numbered over all dev sets of the task.
            if whole in wholes:
                rows.append(total)
            sharing += bool(texts & singles)
            total += 1
    return Leaks(tuple(rows), sharing, total)
