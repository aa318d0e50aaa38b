"""Labels of multiple choice: numbers, letters and texts; averages and JSON."""

import math

import numpy as np
import pytest

from mtlcli.tasks.choices import Choices, decided
from mtlcli.tasks.targets import BadLabel, Ragged, target_of
from mtlcli.testing import CHOICES, check_target

CHOICE_TEXTS = ("Rome", "Oslo", "Lima")


def raw(label: str | None, choices=CHOICE_TEXTS) -> dict:
    return {"label": label, "texts": ("context", "question", *choices)}


def test_the_contract_of_targets():
    check_target(CHOICES.target)


@pytest.mark.parametrize(
    ("labels", "form", "base", "indices"),
    [
        ("012", "number", 0, [0, 1, 2]),
        ("123", "number", 1, [0, 1, 2]),
        ("112", "number", 0, [1, 1, 2]),  # no label is 3, the number of choices, so that nothing shows a count from 1
        ("ABc", "letter", 0, [0, 1, 2]),
        (("Oslo", "Lima", "Rome"), "text", 0, [1, 2, 0]),
    ],
)
def test_the_training_labels_show_how_they_name_the_right_choice(labels, form, base, indices):
    raws = [raw(label) for label in labels]
    target = Choices().fit(raws)
    assert (target.form, target.base) == (form, base)
    assert [target.parse(row) for row in raws] == [(index, 3) for index in indices]
    assert target.guess == pytest.approx(math.log(3))
    assert target_of(target.record()) == target


def test_numbers_that_are_also_choices_are_numbers_of_choices():
    raws = [raw("1", ("3", "1", "2")), raw("0", ("3", "0", "2"))]
    target = Choices().fit(raws)
    assert [target.parse(row)[0] for row in raws] == [1, 0]
    as_text = Choices("text").fit(raws)
    assert [as_text.parse(row)[0] for row in raws] == [1, 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (raw("7"), r': found "7", expected a number from 0 to 2'),
        (raw(""), " is empty"),
        (raw("0", ("a", "b", "a")), r" 0 and 2 \(counted from 0\) are the same text"),
    ],
)
def test_a_label_that_names_no_choice_is_refused(row, message):
    target = Choices().fit([raw("0"), raw("2")])
    with pytest.raises(BadLabel, match=message):
        target.parse(row)


def test_the_first_of_equally_probable_choices_is_chosen():
    rows = decided(np.array([0.2, 0.4, 0.4, 1.0, 0.5, 0.5]), np.array([0, 3, 4, 6]))
    assert rows["chosen"].tolist() == [0, 1, 0, 1, 1, 0]


def test_an_ensemble_chooses_by_the_mean_probability():
    starts = np.array([0, 3])
    votes = [decided(np.array(row), starts) for row in ([0.6, 0.4, 0.0], [0.0, 0.5, 0.5])]
    mean = Choices().average(votes, [Choices()] * 2)
    np.testing.assert_allclose(mean["probabilities"], [0.3, 0.45, 0.25])
    assert mean["chosen"].tolist() == [0, 1, 0]


def test_a_prediction_names_the_choice_from_0_and_its_text():
    target = Choices("number", 1, math.log(3))
    predicted = decided(np.array([0.1, 0.7, 0.2]), np.array([0, 3]))
    texts = ("c", "q", *CHOICE_TEXTS)
    assert target.as_json(predicted, 0, texts) == {"choice": 1, "text": "Oslo", "probabilities": [0.1, 0.7, 0.2]}
    assert target.as_cells(predicted, 0, texts) == {"choice": "1", "text": "Oslo", "probability": "0.700000"}


def test_a_row_without_a_label_keeps_its_choices_and_has_no_unit():
    target = CHOICES.target
    gold = target.pack([(1, 3), (-1, 2), (0, 2)])
    assert gold["chosen"].tolist() == [0, 1, 0, -1, -1, 1, 0]
    assert target.units(gold).tolist() == [1, 0, 1]
    assert [target.gold_json(gold, row) for row in range(3)] == [
        {"choice": 1, "choices": 3},
        None,
        {"choice": 0, "choices": 2},
    ]


def test_soft_labels_weigh_the_loss_of_each_choice():
    import torch

    soft = Ragged({"probabilities": torch.tensor([0.25, 0.75, 1.0, 0.0])}, torch.tensor([0, 2, 4]))
    costs = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def loss_of(labels):
        right = (labels["chosen"] == 1).float() * costs
        return torch.stack([right[:2].sum(), right[2:].sum()])

    assert Choices().soft_loss(loss_of, soft).tolist() == [0.25 * 1 + 0.75 * 2, 3.0]


def test_check_says_that_one_place_is_always_right():
    target = Choices().fit([raw("1"), raw("1")])
    gold = target.pack([(1, 3), (1, 3)])
    assert target.remarks([], gold, "label", training=True) == [
        "choice 1 (counted from 0) is the right one in every row"
    ]
    assert target.check(gold) == ["2 rows of 3 choices; right (counted from 0): choice 0 0, choice 1 2"]
