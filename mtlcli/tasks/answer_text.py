"""Comparison of the texts of answers, as SQuAD's evaluation script does it (Rajpurkar et al., EMNLP 2016, arXiv:1606.05250)."""

import re
import string
from collections import Counter

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalized(text: str) -> str:
    """Return a text in lower case, without ASCII punctuation, articles and repeated spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(predicted: str, answer: str) -> float:
    """Return 1 if two texts are equal once they are normalized, else 0."""
    return float(normalized(predicted) == normalized(answer))


def word_f1(predicted: str, answer: str) -> float:
    """Return the F1 of the words of two normalized texts; where one of them has none, whether both have none."""
    words, expected = normalized(predicted).split(), normalized(answer).split()
    if not words or not expected:
        return float(words == expected)
    common = sum((Counter(words) & Counter(expected)).values())
    return 2 * common / (len(words) + len(expected))


def best_f1(predicted: str, answers: list[str]) -> float:
    """Return the highest F1 with one of the answers; without answers, whether the predicted text is empty."""
    return max(word_f1(predicted, answer) for answer in answers or [""])
