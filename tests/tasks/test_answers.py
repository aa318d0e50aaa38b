"""Answers as spans: labels in their forms, marks in windows, averages and JSON."""

import numpy as np
import pytest
import torch

from mtlcli.tasks.answers import Answers, Row, row_of
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import BadLabel, Ragged, target_of
from mtlcli.testing import QUESTIONS, check_target

CONTEXT = "It is in Paris, not in Paris."


def raw(label) -> dict:
    return {"label": label, "texts": ("Where?", CONTEXT)}


def test_the_contract_of_targets():
    check_target(QUESTIONS.target)
    check_target(Answers(log_places=2.0))


@pytest.mark.parametrize(
    ("label", "spans"),
    [
        ([{"text": "Paris", "answer_start": 9}], ((9, 14),)),
        ([{"text": "Paris", "answer_start": "9"}, {"text": "in Paris", "start": 20}], ((9, 14), (20, 28))),
        ({"text": ["Paris"], "answer_start": [23]}, ((23, 28),)),
        ({"answer": "Paris", "answer_start": "9"}, ((9, 14),)),
        ({"answer": "", "answer_start": ""}, ()),
        ("not", ((16, 19),)),
        ([], ()),
        ("", ()),
    ],
)
def test_the_forms_of_a_label(label, spans):
    assert Answers().parse(raw(label)) == Row(CONTEXT, spans)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            [{"text": "Paris", "answer_start": 8}],
            r'"Paris" is not at character 8 \(found " Pari"\); it stands at 9 \(fix_offsets',
        ),
        ([{"text": "Rome", "answer_start": 9}], '"Rome" does not stand in the context'),
        ("Paris", '"Paris" stands 2 times in the context; give its offset'),
        ([{"answer_start": 8}], "expected a list of answers"),
        ([{"text": ""}], "the text of an answer is empty"),
        ([{"text": "Paris", "answer_start": "x"}], 'found the offset "x", expected a whole number'),
        ({"text": ["a", "b"], "answer_start": [1]}, "found 2 texts and 1 offsets"),
        (None, " is missing"),
    ],
)
def test_an_answer_that_is_not_where_it_should_be_is_refused(label, message):
    with pytest.raises(BadLabel, match=message):
        Answers().parse(raw(label))


def test_fix_offsets_moves_an_answer_to_its_nearest_occurrence():
    target = Answers(fix_offsets=True)
    assert target.parse(raw([{"text": "Paris", "answer_start": 10}])).answers == ((9, 14),)
    assert target.parse(raw([{"text": "Paris", "answer_start": 22}])).answers == ((23, 28),)


def test_offsets_count_characters_not_bytes():
    context = "\U0001f600 caf\u00e9 ole"
    row = Answers().parse({"label": [{"text": "ole", "answer_start": 7}], "texts": ("?", context)})
    packed = Answers().pack([row, Row("x", None), Row("", ())])
    assert [row_of(packed, number) for number in range(3)] == [row, Row("x", None), Row("", ())]
    assert Answers().units(packed).tolist() == [1, 0, 1]


def test_a_training_question_without_an_answer_sets_the_threshold():
    answered = raw([{"text": "Paris", "answer_start": 9}])
    assert Answers().fit([answered]).threshold is None
    fitted = Answers().fit([answered, raw([])])
    assert fitted.threshold == 0.0
    assert target_of(fitted.record()) == fitted


def windows() -> Items:
    """Two windows over `a b c d`, of three tokens each, with the place for no answer first: a b c and c d."""
    spans = [(-1, -1), (0, 1), (2, 3), (4, 5), (-1, -1), (4, 5), (6, 7)]
    sequence = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    place = torch.tensor([0, 3, 4, 5, 0, 3, 4])
    return Items(torch.tensor([0, 7]), sequence, place, place, torch.tensor([0, 2]), torch.tensor(spans))


@pytest.mark.parametrize(
    ("answers", "start", "end"),
    [
        (((2, 5),), [2, 4], [3, 4]),  # b c lies wholly in the first window alone
        (((4, 5),), [3, 5], [3, 5]),  # c in both
        (((2, 7),), [0, 4], [0, 4]),  # b c d in none
        (((4, 7),), [0, 5], [0, 6]),
        ((), [0, 4], [0, 4]),
        (None, [], []),
    ],
)
def test_each_window_marks_the_answer_that_lies_wholly_in_it_or_none(answers, start, end):
    target = Answers()
    batch = target.collate(target.pack([Row("a b c d", answers)]), np.array([0]), windows())
    assert batch["start"].nonzero().flatten().tolist() == start
    assert batch["end"].nonzero().flatten().tolist() == end
    assert batch["window"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert target.known(batch).tolist() == [answers is not None]


def votes(*spans_and_scores):
    return [
        Ragged({"start": np.array([start]), "end": np.array([end]), "score": np.array([score])})
        for start, end, score in spans_and_scores
    ]


def test_an_ensemble_answers_with_the_span_that_most_odds_support():
    target = Answers(0.0)
    mean = target.average(votes((9, 14, 2.0), (23, 28, 3.0), (9, 14, 1.0)), [target] * 3)
    assert (mean["start"][0], mean["end"][0], mean["score"][0]) == (9, 14, 2.0)
    merged = target.merge([Answers(0.0), Answers(3.0)])
    assert merged.threshold == 1.0


def test_a_score_below_the_threshold_is_no_answer():
    texts = ("Where?", CONTEXT)
    (vote,) = votes((9, 14, 0.5))
    assert Answers(0.0).as_json(vote, 0, texts) == {"answer": "Paris", "start": 9, "end": 14, "log_odds": 0.5}
    assert Answers(1.0).as_json(vote, 0, texts) == {"answer": "", "start": None, "end": None, "log_odds": 0.5}
    assert Answers(None).as_json(votes((9, 14, -5.0))[0], 0, texts)["answer"] == "Paris"
    assert Answers(1.0).as_json(vote, 0, texts, exact=True)["start"] == 9
    assert Answers(1.0).as_cells(vote, 0, texts) == {"answer": "", "start": "", "end": "", "log_odds": "0.500000"}


def test_predictions_of_a_run_keep_its_decisions_under_the_threshold_of_another():
    (vote,) = votes((9, 14, 0.5))
    written = [Answers(1.0).as_json(vote, 0, exact=True)]
    assert written == [{"start": 9, "end": 14, "log_odds": 0.5, "answered": False}]
    again = Answers(0.0).from_json(written)
    assert Answers(0.0).is_answered(again).tolist() == [False]
    assert Answers(0.0).from_json([{"start": 9, "end": 14, "log_odds": 0.5}])["answered"].tolist() == [True]


def test_a_threshold_is_a_probability_of_an_answer():
    assert Answers(3.0).with_threshold(0.5, "t").threshold == 0
    assert Answers(3.0).with_threshold(0.75, "t").threshold == pytest.approx(np.log(3))
    (vote,) = votes((9, 14, -40.0))
    answers = [Answers(3.0).with_threshold(threshold, "t").is_answered(vote)[0] for threshold in (0.0, 1e-9, 1.0)]
    assert answers == [True, False, False]


def test_questions_without_an_answer_in_dev_alone_are_remarked():
    target = Answers().fit([raw("not")])
    gold = target.pack([Row(CONTEXT, ()), Row(CONTEXT, ((0, 2),))])
    (remark,) = target.remarks([], gold, "answers", training=False)
    assert remark.startswith("1 questions have no answer")
    assert target.check(gold) == [
        "2 questions, 1 without an answer; contexts of 29 to 29 characters, answers of 2 to 2"
    ]


def test_the_threshold_is_that_of_the_highest_mean_f1_on_dev_rows():
    answered, none = Row(CONTEXT, ((9, 14),)), Row(CONTEXT, ())
    target = Answers(0.0)
    gold = target.pack([answered, none, answered, none, Row(CONTEXT, None)])
    predicted = Ragged({
        "start": np.full(5, 9), "end": np.full(5, 14), "score": np.array([5.0, 4.0, 3.0, 1.0, 9.0]),
    })  # fmt: skip
    # From 3 on, two rows are right and one is wrong; from 5 on, one is right and one is missing.
    tuned = target.tune(predicted, gold)
    assert tuned.threshold == 2.0
    assert tuned.is_answered(predicted).tolist() == [True, True, True, False, True]
    assert "2" in tuned.tuning()
    assert Answers(None).tune(predicted, gold).threshold is None
    nothing = target.pack([none, none])
    assert target.tune(predicted.take(slice(2)), nothing).threshold == 6.0


def test_of_equally_good_thresholds_the_one_nearest_to_0_is_taken():
    target = Answers(0.0)
    gold = target.pack([Row(CONTEXT, ((9, 14),)), Row(CONTEXT, ())])
    predicted = Ragged({"start": np.array([9, 9]), "end": np.array([14, 14]), "score": np.array([-3.0, -8.0])})
    assert target.tune(predicted, gold).threshold == -5.5
    wrong = Ragged({"start": np.array([0, 0]), "end": np.array([2, 2]), "score": np.array([7.0, 8.0])})
    assert (
        target.tune(wrong, target.pack([Row(CONTEXT, ((9, 14),))] * 2)).threshold == 6.0
    )  # answers are as wrong as none
