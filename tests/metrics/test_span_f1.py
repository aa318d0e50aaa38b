"""F1 of spans as conlleval and as seqeval's strict mode give it, and the accuracy of tags."""

import random

import numpy as np
import pytest

from labels import SCORE
from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.metrics.span_f1 import SpanF1, SpanPrecision, SpanRecall, StrictSpanF1
from mtlcli.metrics.surface_f1 import SurfaceF1
from mtlcli.metrics.tag_accuracy import TagAccuracy
from mtlcli.statistics.bootstrap import estimate
from mtlcli.statistics.paired import paired
from mtlcli.tasks.tag_spans import spans_in
from mtlcli.tasks.tags import UNKNOWN, Tags
from mtlcli.tasks.targets import Ragged

TAGS = Tags(("O", "B-A", "I-A", "B-B", "I-B"), "bio")
FACTS = TaskFacts("t", 3, 1, TAGS)


def packed(*sentences: str) -> Ragged:
    rows = [sentence.split() for sentence in sentences]
    indices = [TAGS.labels.index(tag) if tag != "_" else UNKNOWN for row in rows for tag in row]
    return Ragged({"tag": np.array(indices)}, np.cumsum([0, *map(len, rows)]))


def labeled(words: str, tags: str, *more: str) -> Ragged:
    """Return rows with words, whose tags training need not have: words and tags of each row in turn."""
    texts = [words, tags, *more]
    return TAGS.gold_from_json(
        [{"words": row.split(), "tags": tags.split()} for row, tags in zip(texts[::2], texts[1::2], strict=True)]
    )


def value(metric, predicted, gold) -> float:
    return metric(FACTS).value(packed(*predicted), packed(*gold))


@pytest.mark.parametrize(
    ("gold", "predicted", "conlleval", "strict"),
    [
        ("B-A I-A O", "I-A I-A O", 1, 0),
        ("I-A I-A O", "B-A I-A O", 1, 0),
        ("B-A B-B I-B", "B-A I-B I-B", 1, 2 / 3),
        ("O I-A O B-B", "O I-A O B-B", 1, 1),
        ("B-A I-A I-A", "B-A I-B I-A", 0, 0),
        ("O O", "O O", 0, 0),
        ("B-A I-A", "B-A O", 0, 0),  # the last word of a sentence belongs to its span
    ],
)
def test_the_two_readings(gold, predicted, conlleval, strict):
    assert value(SpanF1, [predicted], [gold]) == pytest.approx(conlleval)
    assert value(StrictSpanF1, [predicted], [gold]) == pytest.approx(strict)


GOLD = ["B-A I-A O B-B", "O O B-A", "B-B O"]
PREDICTED = ["B-A I-A O B-A", "O B-A I-A", "B-B O"]


def test_a_corpus_by_hand():
    metric = SpanF1(FACTS)
    assert metric.statistics(packed(*PREDICTED), packed(*GOLD)).tolist() == [[1, 1, 1], [0, 1, 1], [1, 0, 0]]
    assert (
        value(SpanF1, PREDICTED, GOLD)
        == value(SpanPrecision, PREDICTED, GOLD)
        == value(SpanRecall, PREDICTED, GOLD)
        == 0.5
    )
    assert value(TagAccuracy, PREDICTED, GOLD) == pytest.approx(6 / 9)


def test_precision_counts_what_is_predicted_and_recall_what_is_gold():
    # 1 of 2 predicted spans is right, and 1 of 4 gold ones is found.
    predicted, gold = ["B-A O B-A O O O"], ["B-A O B-B B-B B-B O"]
    assert value(SpanPrecision, predicted, gold) == 1 / 2
    assert value(SpanRecall, predicted, gold) == 1 / 4
    assert value(SpanF1, predicted, gold) == 2 / 6


@pytest.mark.parametrize("metric", [SpanF1, StrictSpanF1, SpanPrecision, SpanRecall])
def test_one_span_is_enough_and_without_any_the_value_is_0(metric):
    assert value(metric, ["O B-A I-A"], ["O B-A I-A"]) == 1
    assert value(metric, ["O O O"], ["O O O"]) == 0


def chunks(tags: list[str], *, strict: bool) -> set[tuple[str, int, int]]:
    """Read spans word by word, by the rules as they are published: conlleval's, or strict IOB2."""
    spans, kind, start = set(), "", 0
    before = "O"
    for index, tag in enumerate([*tags, "O"]):
        same = tag[1:] == before[1:]
        ends = kind and not (tag.startswith("I") and same)
        if ends:
            spans.add((kind, start, index))
            kind = ""
        begins = tag.startswith("B") or (not strict and tag.startswith("I") and not (before != "O" and same))
        if begins:
            kind, start = tag[2:], index
        before = tag
    return spans


@pytest.mark.parametrize(("metric", "strict"), [(SpanF1, False), (StrictSpanF1, True)])
def test_two_hundred_random_sequences(metric, strict):
    chance = random.Random(5)
    rows = [[chance.choices(TAGS.labels, k=chance.randint(1, 12)) for _ in range(2)] for _ in range(200)]
    right = predicted = gold = 0
    for first, second in rows:
        second = second[: len(first)] + ["O"] * (len(first) - len(second))
        a, b = chunks(first, strict=strict), chunks(second, strict=strict)
        right, predicted, gold = right + len(a & b), predicted + len(a), gold + len(b)
    expected = 2 * right / (predicted + gold)
    pairs = [(" ".join(a), " ".join(b[: len(a)] + ["O"] * (len(a) - len(b)))) for a, b in rows]
    assert value(metric, [a for a, _ in pairs], [b for _, b in pairs]) == pytest.approx(expected, abs=1e-12)


def test_a_word_without_a_tag_counts_for_nothing():
    assert value(SpanF1, ["B-A I-A O B-B"], ["B-A I-A O _"]) == 1
    assert value(TagAccuracy, ["B-A O"], ["B-A _"]) == 1
    assert value(TagAccuracy, ["B-A O"], ["_ _"]) == 0


def test_an_unseen_type_is_a_span_that_no_prediction_finds():
    facts = TaskFacts("t", 1, 1, TAGS)
    gold = labeled("a b c d", "B-C I-C B-D O")
    assert SpanF1(facts).statistics(packed("B-A I-A O O"), gold).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("kind", ["C", "D", "PER", "LOC", "creative-work"])
def test_two_spans_of_an_unseen_type_side_by_side_are_two(kind):
    gold = labeled("a b c d e", f"B-{kind} B-{kind} I-{kind} B-{kind}2 I-{kind}2")
    assert SpanF1(FACTS).statistics(packed("O O O O O"), gold).tolist() == [[0, 0, 3]]


def test_tags_right_behind_the_last_that_training_saw_are_an_unseen_type():
    beyond = len(TAGS.labels)
    spans = spans_in(TAGS.labels, TAGS.types, np.array([0, beyond, beyond + 1, 3, 4]), np.array([0, 5]))
    assert (spans.start.tolist(), spans.length.tolist(), spans.type.tolist()) == ([1, 3], [2, 2], [2, 1])


def test_surface_f1_counts_each_name_of_the_drawn_rows_once():
    gold = labeled("Ann Lee met Bo", "B-A I-A O B-A", "Bo saw ann", "B-A O B-A")
    predicted = packed("B-A I-A O O", "B-A O B-B")
    # Gold: Ann Lee, Bo and ann, of type A. Predicted: Ann Lee and Bo of type A, ann of type B.
    # Bo is missed in row 1 and found in row 2: 2 of 3 names on each side, while span-f1 finds 2 of 4 spans with 3 predicted.
    assert SurfaceF1(FACTS).value(predicted, gold) == pytest.approx(2 / 3)
    assert SpanF1(FACTS).value(predicted, gold) == pytest.approx(4 / 7)
    counts = np.array([[2, 0], [0, 3], [1, 1], [0, 0]])
    assert SurfaceF1(FACTS).bind(predicted, gold).values(counts).tolist() == pytest.approx([2 / 3, 1 / 2, 2 / 3, 0])


def test_names_differ_by_case_and_by_their_words():
    gold = labeled("Bo bo a b", "B-A B-A B-A I-A")
    assert SurfaceF1(FACTS).value(packed("B-A O B-A B-A"), gold) == pytest.approx(2 / 6)


def test_intervals_and_paired_tests_resample_sentences():
    gold, first, second = packed(*GOLD * 20), packed(*PREDICTED * 20), packed(*GOLD * 20)
    measured = estimate(SpanF1(FACTS), first, gold, resamples=300)
    assert measured.low < 0.5 < measured.high and measured.n == 60
    difference = paired(SpanF1(FACTS), [first], [second], gold, resamples=300)
    assert difference.seconds[0] - difference.firsts[0] == pytest.approx(0.5)
    assert difference.low > 0.3 and difference.p < 0.01


def test_spans_of_plain_tags_are_refused():
    with pytest.raises(MtlError, match="the tags of this task mark none"):
        SpanF1(TaskFacts("t", 1, 1, Tags(("N", "V"), "plain")))
    with pytest.raises(MtlError, match="mark none"):
        SpanF1(TaskFacts("t", 1, 1, SCORE))
