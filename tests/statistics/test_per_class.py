"""Precision, recall and F1 of each class, against values worked by hand and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from labels import SCORE, rows
from mtlcli.statistics.bootstrap import exact_interval
from mtlcli.statistics.groups import RowGroups, effective_units
from mtlcli.statistics.per_class import per_class
from mtlcli.tasks.label_sets import LabelSets
from mtlcli.tasks.targets import UNSEEN, Classes, Ragged, Tags

ABC = Classes.named("a", "b", "c", "never")
GOLD, PREDICTED = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0])


def scores(target, predicted, gold, **more):
    return {of_class.label: of_class for of_class in per_class(target, rows(predicted), rows(gold), **more)}


def values(of_class):
    return (of_class.precision.value, of_class.recall.value, of_class.f1.value)


def test_each_class_that_occurs_has_its_scores_and_the_most_frequent_comes_first():
    classes = per_class(ABC, rows(PREDICTED), rows(GOLD), resamples=20)
    assert [(of_class.label, of_class.support, of_class.predicted) for of_class in classes] == [
        ("b", 2, 3), ("a", 2, 2), ("c", 1, 0),
    ]  # fmt: skip
    assert values(classes[0]) == pytest.approx((2 / 3, 1, 0.8))
    assert values(classes[1]) == (0.5, 0.5, 0.5)
    assert values(classes[2]) == (0, 0, 0)


def test_a_class_that_is_never_predicted_has_no_interval_of_its_precision():
    precision = scores(ABC, PREDICTED, GOLD, resamples=20)["c"].precision
    assert (precision.n, precision.interval, precision.low, precision.high) == (0, "none", 0, 0)


def test_few_items_have_the_exact_interval_and_f1_follows_from_that_of_the_share():
    of_a = scores(ABC, PREDICTED, GOLD, resamples=20)["a"]
    assert (of_a.recall.interval, of_a.f1.n) == ("exact", 3)
    assert (of_a.recall.low, of_a.recall.high) == pytest.approx(
        (0.012579, 0.987421), abs=1e-6
    )  # Clopper and Pearson, 1 of 2
    low, high = exact_interval(1, 3)  # TP / (TP + FP + FN)
    assert (of_a.f1.low, of_a.f1.high) == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)))


def test_many_items_have_the_interval_of_the_bootstrap():
    generator = np.random.default_rng(3)
    gold = generator.integers(2, size=2000)
    predicted = np.where(generator.random(2000) < 0.8, gold, 1 - gold)
    recall = scores(ABC, predicted, gold, resamples=2000)["a"].recall
    assert recall.interval == "bootstrap"
    deviation = np.sqrt(recall.value * (1 - recall.value) / recall.n)
    assert (recall.high - recall.low) / 2 == pytest.approx(1.96 * deviation, rel=0.1)


@pytest.mark.parametrize(("classes", "n"), [(3, 40), (500, 3000)])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_those_of_scikit_learn(classes, n, weighted):
    generator = np.random.default_rng(classes)
    target = Classes.named(*(f"class {number}" for number in range(classes)))
    shares = generator.dirichlet(np.full(classes, 0.3))
    gold = generator.choice(classes, n, p=shares)
    predicted = np.where(generator.random(n) < 0.7, gold, generator.choice(classes, n, p=shares))
    weights = generator.random(n) + 0.1 if weighted else None
    labels = np.union1d(gold, predicted)
    expected = precision_recall_fscore_support(gold, predicted, labels=labels, sample_weight=weights, zero_division=0)
    by_name = scores(target, predicted, gold, weights=weights, resamples=20)
    assert len(by_name) == len(labels)
    for place, label in enumerate(labels):
        of_class = by_name[f"class {label}"]
        assert values(of_class) == pytest.approx([row[place] for row in expected[:3]])
        assert of_class.support == (gold == label).sum()


def test_a_row_with_a_label_that_training_never_saw_spoils_the_precision():
    by_name = scores(ABC, np.array([0, 0]), np.array([0, UNSEEN]), resamples=20)
    assert list(by_name) == ["a"]
    assert values(by_name["a"]) == pytest.approx((0.5, 1, 2 / 3))


def test_items_of_one_group_are_worth_less_than_independent_ones():
    gold = np.zeros(12, dtype=np.int64)
    alone = scores(ABC, gold, gold, resamples=20)["a"].recall
    groups = RowGroups.of(["x"] * 6 + ["y"] * 6)
    grouped = scores(ABC, gold, gold, groups=groups, resamples=20)["a"].recall
    assert (alone.low, grouped.low) == pytest.approx((exact_interval(12, 12)[0], exact_interval(2, 2)[0]))
    assert (alone.groups, grouped.groups) == (None, 2)


def test_units_of_equal_weight_are_worth_their_number_and_unequal_ones_less():
    assert effective_units(np.array([2.0, 2.0, 2.0])) == pytest.approx(3)
    assert effective_units(np.array([3.0, 1.0])) == pytest.approx(16 / 10)


def test_rows_of_weight_zero_are_left_out():
    weights = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    by_name = scores(ABC, PREDICTED, GOLD, weights=weights, resamples=20)
    assert list(by_name) == ["b", "a"]
    assert (by_name["a"].support, by_name["a"].recall.value) == (1, 1.0)


def test_a_score_has_no_classes():
    assert per_class(SCORE, rows(np.array([1.0])), rows(np.array([2.0]))) is None


# Tags

SPANS = Tags(("O", "B-LOC", "I-LOC", "B-PER", "I-PER"), "bio")


def tags(target, *sentences):
    words = [[f"word{place}" for place, _ in enumerate(sentence)] for sentence in sentences]
    return target.gold_from_json([{"words": row, "tags": [*tags]} for row, tags in zip(words, sentences, strict=True)])


def test_spans_are_counted_by_type():
    # gold LOC 0-2, PER 3; LOC 0. Predicted LOC 0-2, PER 3-4; LOC 0, PER 1.
    gold = tags(SPANS, ["B-LOC", "I-LOC", "O", "B-PER", "O"], ["B-LOC", "O"])
    predicted = tags(SPANS, ["B-LOC", "I-LOC", "O", "B-PER", "I-PER"], ["B-LOC", "B-PER"])
    loc, per = per_class(SPANS, predicted, gold, resamples=20)
    assert (loc.label, loc.support, loc.predicted, values(loc)) == ("LOC", 2, 2, (1, 1, 1))
    assert (per.label, per.support, per.predicted, values(per)) == ("PER", 1, 2, (0, 0, 0))


def test_a_type_that_training_never_saw_has_recall_zero_by_name_and_words_without_tags_do_not_count():
    gold = tags(SPANS, ["B-EVENT", "I-EVENT", None])
    predicted = tags(SPANS, ["O", "O", "B-PER"])
    (event,) = per_class(SPANS, predicted, gold, resamples=20)
    assert (event.label, event.support, event.predicted, event.recall.value) == ("EVENT", 1, 0, 0)


def test_plain_tags_are_counted_by_word():
    target = Tags(("DET", "NOUN", "VERB"), "plain")
    gold = tags(target, ["DET", "NOUN", "VERB"], ["NOUN", None, "X"])
    predicted = tags(target, ["DET", "NOUN", "NOUN"], ["NOUN", "VERB", "VERB"])
    by_name = {of_class.label: of_class for of_class in per_class(target, predicted, gold, resamples=20)}
    assert values(by_name["NOUN"]) == pytest.approx((2 / 3, 1, 0.8))
    assert (by_name["VERB"].support, by_name["VERB"].predicted, by_name["X"].support) == (1, 1, 1)


def test_spans_of_one_sentence_are_not_independent():
    gold = tags(SPANS, ["B-LOC"] * 6, ["B-LOC"] * 6)
    (loc,) = per_class(SPANS, gold, gold, resamples=20)
    assert loc.support == 12
    assert loc.recall.low == pytest.approx(exact_interval(2, 2)[0])


def test_no_rows_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="every row has weight 0"):
        per_class(ABC, Ragged({"index": GOLD}), Ragged({"index": GOLD}), weights=np.zeros(5))


def test_without_resamples_there_are_values_and_no_intervals():
    of_b = scores(ABC, PREDICTED, GOLD, resamples=0)["b"]
    assert (of_b.precision.value, of_b.precision.low, of_b.precision.interval) == (2 / 3, 2 / 3, "none")


def test_sentences_without_spans_have_no_classes():
    nothing = tags(SPANS, ["O", "O"], ["O"])
    assert per_class(SPANS, nothing, nothing, resamples=10) == ()


def test_labels_of_sets_are_classes_and_rows_that_do_not_say_are_left_out():
    target = LabelSets(("praise", "speed"))
    gold = Ragged({"set": np.array([[1, 0], [1, 1], [0, 255]], dtype=np.uint8), "unseen": np.zeros(3, dtype=np.int64)})
    predicted = Ragged({"set": np.array([[1, 1], [0, 1], [0, 1]], dtype=np.uint8)})
    by_name = {of_class.label: of_class for of_class in per_class(target, predicted, gold, resamples=10)}
    assert values(by_name["praise"]) == pytest.approx((1, 0.5, 2 / 3))
    assert values(by_name["speed"]) == pytest.approx((0.5, 1, 2 / 3))
    assert (by_name["praise"].support, by_name["speed"].predicted) == (2, 2)
