"""Exact match and F1 of answers on examples that SQuAD's evaluation script decides."""

import numpy as np
import pytest

from mtlcli.facts import TaskFacts
from mtlcli.metrics.answers import AnswerExactMatch, AnswerF1
from mtlcli.metrics.relation_f1 import RelationF1
from mtlcli.tasks.answer_text import exact_match, normalized, word_f1
from mtlcli.tasks.answers import Answers, Row
from mtlcli.tasks.targets import Classes, Ragged


@pytest.mark.parametrize(
    ("predicted", "answer", "exact", "f1"),
    [
        ("the Eiffel Tower!", "Eiffel Tower", 1, 1),
        ("Eiffel Tower in Paris", "The Eiffel tower", 0, 2 / 3),
        ("U.S.", "US", 1, 1),
        ("ten-year", "ten year", 0, 0),  # the hyphen is deleted, not replaced by a space
        ("the", "", 1, 1),
        ("\u201cParis\u201d", "Paris", 0, 0),  # curly quotes are no ASCII punctuation
        ("", "Paris", 0, 0),
        ("a b b", "b b c", 0, 0.8),
    ],
)
def test_the_comparison_of_two_answers(predicted, answer, exact, f1):
    assert exact_match(predicted, answer) == exact
    assert word_f1(predicted, answer) == pytest.approx(f1)


def test_articles_go_after_punctuation():
    assert normalized("An 'the' a.b") == "ab"


def test_the_best_of_several_answers_counts_and_no_answer_is_the_empty_text():
    context = "Paris, France, or in Paris"
    target = Answers(0.0, log_places=2.0)
    gold = target.pack(
        [
            Row(context, ((0, 5), (18, 26))),  # Paris | in Paris
            Row(context, ()),
            Row(context, ()),
            Row(context, ((7, 13),)),
        ]
    )
    predicted = Ragged({
        "start": np.array([0, 0, 0, 7]), "end": np.array([13, 5, 5, 13]), "score": np.array([1.0, -1.0, 1.0, -1.0]),
    })  # fmt: skip
    task = TaskFacts("qa", 4, 1, target)
    each = np.eye(4, dtype=np.int64)
    # "Paris, France" shares one word of two with "Paris": 2/3; the second is rightly empty; the others are wrong.
    np.testing.assert_allclose(AnswerF1(task).bind(predicted, gold).values(each), [2 / 3, 1, 0, 0])
    np.testing.assert_allclose(AnswerExactMatch(task).bind(predicted, gold).values(each), [0, 1, 0, 0])
    np.testing.assert_allclose(AnswerF1(task).bind(predicted, gold).values(np.ones((1, 4), dtype=np.int64)), [5 / 12])


def test_relation_f1_leaves_the_negative_class_out():
    target = Classes({"a": "a", "b": "b", "none": "none"}, negative="none")
    gold, predicted = target.pack([0, 0, 1, 2, 2]), target.pack([0, 2, 0, 2, 1])
    metric = RelationF1(TaskFacts("r", 5, 1, target))
    once = np.ones((1, 5), dtype=np.int64)
    # One right of three predicted and three gold relations.
    np.testing.assert_allclose(metric.bind(predicted, gold).values(once), [2 / 6])
    without = RelationF1(TaskFacts("r", 5, 1, Classes({"a": "a", "b": "b", "none": "none"})))
    np.testing.assert_allclose(without.bind(predicted, gold).values(once), [2 / 5])
    nothing = target.pack([2, 2, 2, 2, 2])
    np.testing.assert_allclose(metric.bind(nothing, nothing).values(once), [0.0])
