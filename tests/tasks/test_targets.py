"""Classes and scores as label spaces: every answer worked out by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtlcli.errors import MtlError
from mtlcli.tasks.nli import NLI
from mtlcli.tasks.targets import UNSEEN, Classes, Ragged, Score, Target, concat, target_of
from mtlcli.testing import check_target

TONES = Classes.named("bad", "fair", "good")
STARS = Score(0.0, 5.0, 2.0, 1.5)


def raws(*labels: str) -> list[dict[str, str]]:
    return [{"label": label} for label in labels]


def predicted(*shares: list[float]) -> Ragged:
    probabilities = np.array(shares)
    return Ragged({"index": probabilities.argmax(1), "probabilities": probabilities})


@pytest.mark.parametrize(
    "target", [TONES, Classes({"0": "no", "1": "yes"}), Classes.named(*map(str, range(500))), STARS, Score(-1.0, 1e-3)]
)
def test_every_target_keeps_the_contract(target):
    check_target(target)


# Reading


def test_classes_of_training_leave_labels_of_other_splits_unseen_and_declared_ones_do_not():
    learned = Classes().fit(raws("b", "a", "b"))
    assert (learned.labels, learned.learned) == (("a", "b"), True)
    assert [learned.parse(raw) for raw in raws("b", "c")] == [1, UNSEEN]
    assert Classes().parse({"label": "a"}) == UNSEEN  # not fitted yet: readable, and none of the classes
    with pytest.raises(ValueError, match="found 'c', expected one of a, b"):
        Classes.named("a", "b").parse({"label": "c"})


def test_a_recipe_declares_labels_or_a_range():
    assert Classes().declare([" x ", "y"], None, "tasks.t") == Classes.named("x", "y")
    assert Classes().declare(None, None, "tasks.t") == Classes()
    assert Score().declare(None, (0, 5), "tasks.t") == Score(0, 5)
    with pytest.raises(MtlError, match=r"^tasks\.t\.range: this task predicts classes"):
        Classes().declare(None, (0, 5), "tasks.t")
    with pytest.raises(MtlError, match=r"^tasks\.t\.labels: this task predicts a score"):
        Score().declare(["x", "y"], None, "tasks.t")
    with pytest.raises(MtlError, match="expected two or more different names"):
        Classes().declare(["x", "x"], None, "tasks.t")


def test_a_target_without_labels_and_range_refuses_both_by_name():
    for keys in ({"labels": ["a", "b"], "bounds": None}, {"labels": None, "bounds": [0.0, 1.0]}):
        with pytest.raises(
            MtlError, match=r"^tasks\.t\.(labels|range): this task predicts a score from 0 to 5; remove"
        ):
            Target.declare(STARS, where="tasks.t", **keys)


def test_equal_labels_are_nothing_to_learn():
    one_class = Classes().fit(raws("a", "a"))
    assert one_class.is_constant(one_class.pack([0, 0])) and not TONES.is_constant(TONES.pack([0, 0]))
    assert STARS.is_constant(STARS.pack([2.0, 2.0])) and not STARS.is_constant(STARS.pack([2.0, 2.5]))


def test_what_a_user_should_know_of_labels_is_a_clause_each():
    many = Classes().fit(raws(*map(str, range(30))))
    (doubt,) = many.remarks(raws(*map(str, range(30))), many.pack(list(range(30))), "kind", training=True)
    assert doubt.startswith('30 rows have 30 classes; is "kind" the right label column?')
    gold = TONES.pack([0, UNSEEN, UNSEEN, UNSEEN])
    assert TONES.remarks(raws("bad", "x", "y", "x"), gold, "kind", training=False) == [
        "3 rows have a label unseen in training, counted as wrong: 'x' (2), 'y' (1)"
    ]
    assert TONES.remarks(raws("bad"), TONES.pack([0]), "kind", training=False) == []
    assert STARS.remarks([], STARS.pack([-1.0, 5.0, 6.0]), "kind", training=False) == [
        "2 scores are outside [0, 5]; predictions never are"
    ]


def test_check_counts_the_first_ten_labels_and_spans_the_scores():
    assert TONES.check(TONES.pack([0, 2, 2])) == ["labels bad 1, fair 0, good 2"]
    assert Classes.named(*"abcdefghijkl").check(TONES.pack([0])) == [
        "labels a 1, b 0, c 0, d 0, e 0, f 0, g 0, h 0, i 0, j 0, and 2 more"
    ]
    assert STARS.check(STARS.pack([1.0, 3.0])) == ["scores 1 to 3, mean 2, standard deviation 1"]


def test_a_label_with_a_line_break_stays_on_its_line():
    target = Classes().fit(raws("a\nb", "c\u200b", "d"))
    assert target.check(target.pack([0, 1, 1])) == ["labels a\\nb 1, c\\u200b 2, d 0"]
    assert target.describe() == "one of a\\nb, c\\u200b, d"


def test_a_record_gives_the_target_back_to_the_last_digit():
    fitted = Score().fit(raws("0.1", "0.2", "0.7"))
    for target in (
        fitted,
        Score(),
        Classes(),
        Classes({"1.0": "one", "0": "zero"}),
        Classes().fit(raws("b", "a")),
        Classes(aliases={"B": "b"}, normalize=True),
    ):
        assert target_of(json.loads(json.dumps(target.record()))) == target
    assert fitted.mean == (0.1 + 0.2 + 0.7) / 3


@pytest.mark.parametrize("damage", [{"kind": "tags"}, {"values": 3}, {"kind": None}])
def test_a_damaged_record_is_no_target(damage):
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        target_of(TONES.record() | damage)


def test_targets_describe_themselves():
    assert [target.describe() for target in (TONES, Classes(), STARS, Score())] == [
        "one of bad, fair, good",
        "one of the classes of the training rows",
        "a score from 0 to 5",
        "a score in the range of the training rows",
    ]


# A batch


def test_an_unseen_label_and_a_missing_score_have_no_unit():
    assert TONES.units(TONES.pack([2, UNSEEN, 0])).tolist() == [1.0, 0.0, 1.0]
    assert STARS.units(STARS.gold_from_json([1.5, None])).tolist() == [1.0, 0.0]


def test_a_batch_holds_no_nan_and_says_which_scores_it_knows():
    gold = STARS.gold_from_json([1.5, None, 4.0])
    batch = STARS.collate(gold, np.array([1, 2]))
    assert (batch["value"].tolist(), batch["known"].tolist()) == ([0.0, 4.0], [False, True])
    assert list(STARS.collate(gold, np.array([0, 2])).fields) == ["value"]  # nothing to mask, nothing to carry


def test_units_of_rows_with_several_items_are_counted_row_by_row():
    class Words(Classes):
        """Classes of words."""

    gold = Ragged({"index": np.array([0, UNSEEN, 1, 2, UNSEEN])}, np.array([0, 2, 2, 4, 5]))
    assert Words.named("a", "b", "c").units(gold).tolist() == [1.0, 0.0, 2.0, 0.0]


def test_outputs_guesses_and_noise_of_both():
    assert (TONES.outputs(), TONES.guess, TONES.noise) == (3, math.log(3), "softmax")
    assert (STARS.outputs(), STARS.guess, STARS.noise) == (1, 1.0, "gaussian")
    assert TONES.strata(TONES.pack([2, 0])).tolist() == [2, 0] and STARS.strata(STARS.pack([1.0])) is None


def test_examples_are_spread_over_the_label_space():
    assert TONES.examples(4)["index"].tolist() == [0, 1, 2, 0]
    assert STARS.examples(3)["value"].tolist() == [0.0, 2.5, 5.0]


# Losses


def test_divergence_is_symmetric_kl_or_the_squared_difference():
    # P = (1/4, 3/4), Q = (1/2, 1/2): sum (p - q) log(p / q) = 1/4 log 2 + 1/4 log 1.5
    a, b = torch.tensor([[0.0, math.log(3.0)]]), torch.zeros(1, 2)
    assert Classes.named("x", "y").divergence(a, b).tolist() == pytest.approx(
        [0.25 * math.log(2) + 0.25 * math.log(1.5)]
    )
    assert STARS.divergence(torch.tensor([1.0]), torch.tensor([3.0])).tolist() == [4.0]
    assert STARS.logits(torch.tensor([1.0])) is None and TONES.logits(torch.ones(1, 3)).tolist() == [[1.0, 1.0, 1.0]]


def test_a_teacher_is_a_mixture_of_labels_or_a_score():
    soft = TONES.soft(predicted([0.5, 0.25, 0.25], [0.0, 0.0, 1.0]))
    losses = TONES.soft_loss(lambda gold: 10.0 * gold["index"] + 1, soft.tensors())
    assert losses.tolist() == pytest.approx([0.5 * 1 + 0.25 * 11 + 0.25 * 21, 21.0])
    assert TONES.soft(TONES.pack([1]))["probabilities"].tolist() == [[0.0, 1.0, 0.0]]
    soft = STARS.soft(STARS.pack([4.0]))
    assert STARS.soft_loss(lambda gold: (3 - gold["value"]) ** 2, soft.tensors()).tolist() == [1.0]


# Predictions


def test_votes_are_averaged_by_the_names_of_their_classes():
    other = Classes.named("good", "bad", "fair")
    mean = TONES.average([predicted([0.6, 0.3, 0.1]), predicted([0.7, 0.1, 0.2])], [TONES, other])
    np.testing.assert_allclose(mean["probabilities"], [[0.35, 0.25, 0.4]])  # (.6 + .1, .3 + .2, .1 + .7) / 2
    assert mean["index"].tolist() == [2]
    assert STARS.average([STARS.pack([1.0]), STARS.pack([2.0])], [STARS, STARS])["value"].tolist() == [1.5]


def test_targets_agree_by_the_names_of_classes_alone():
    assert TONES.agree(Classes.named("good", "bad", "fair")) == "" == STARS.agree(Score(0.0, 1.0))
    assert TONES.agree(Classes.named("bad", "good")) == "the labels bad, good instead of the labels bad, fair, good"
    assert STARS.agree(TONES) == "the labels bad, fair, good instead of a score"


def test_an_ensemble_of_scores_spans_all_ranges_with_a_caveat():
    assert STARS.merge([Score(-1.0, 4.0), Score(1.0, 7.0)]) == replace(STARS, low=-1.0, high=7.0)
    assert STARS.caveat({"a": STARS, "b": Score(0.0, 5.0)}) == ""
    assert STARS.caveat({"a": STARS, "b": Score(0.0, 1.0)}) == (
        "the runs have scores of different ranges (a 0 to 5, b 0 to 1), averaged as they are"
    )
    assert TONES.merge([Classes.named("good", "fair", "bad")]) == TONES and TONES.caveat({"a": TONES}) == ""


def test_predictions_in_json_and_in_cells():
    rows = predicted([0.125, 0.25, 0.625])
    shares = {"bad": 0.125, "fair": 0.25, "good": 0.625}
    assert TONES.as_json(rows, 0) == {"label": "good", "probabilities": shares}
    assert TONES.as_json(TONES.pack([1]), 0) == {"label": "fair"}
    assert TONES.cells() == ["label", "probability.bad", "probability.fair", "probability.good"]
    assert list(TONES.as_cells(rows, 0).values()) == ["good", "0.125000", "0.250000", "0.625000"]
    third = STARS.pack([1 / 3])
    assert STARS.as_json(third, 0) == {"score": 0.333333} and STARS.as_json(third, 0, exact=True) == {"score": 1 / 3}
    assert (STARS.cells(), STARS.as_cells(third, 0)) == (["score"], {"score": "0.333333"})


def test_gold_in_json_is_read_by_name_though_a_file_may_use_the_name_for_another_class():
    swapped = Classes({"1": "0", "0": "1"})  # the file says 1 for the class named 0
    gold = swapped.pack([0, 1, UNSEEN])
    assert [swapped.gold_json(gold, row) for row in range(3)] == ["0", "1", None]
    assert swapped.gold_from_json(["0", "1", None])["index"].tolist() == [0, 1, UNSEEN]
    assert swapped.parse({"label": "1"}) == 0


def test_what_another_target_wrote_is_not_read():
    with pytest.raises(ValueError, match="found the label 'great', expected one of bad, fair, good"):
        TONES.from_json([{"label": "great"}])
    with pytest.raises(KeyError):
        TONES.from_json([{"score": 1.0}])
    with pytest.raises(ValueError, match="a score is not finite"):
        STARS.from_json([{"score": float("nan")}])


def test_labels_of_other_runs_come_after_the_own_ones_predicted_ones_first():
    rows = [
        {"label": "great", "target": None},
        {"label": "bad", "target": "poor"},
        {"label": "fair", "target": "great"},
    ]
    assert TONES.widen(rows).labels == ("bad", "fair", "good", "great", "poor")
    assert TONES.widen(rows[:0]) is TONES and STARS.widen([{"score": 1.0, "target": 2.0}]) is STARS


def test_uncertainty_is_the_entropy_over_that_of_a_uniform_guess():
    unsure = TONES.uncertainty(predicted([1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]).tensors())
    assert unsure.tolist() == pytest.approx([1.0, 0.0, math.log(2) / math.log(3)])
    assert TONES.uncertainty(TONES.pack([0]).tensors()) is None
    assert STARS.uncertainty(STARS.pack([1.0]).tensors()) is None


def test_colours_are_classes_or_fifths_of_the_range():
    groups, names = TONES.colour(TONES.pack([2, UNSEEN, 0]))
    assert (groups.tolist(), names) == ([2, 0, 0], ["bad", "fair", "good"])
    groups, names = STARS.colour(STARS.pack([0.0, 0.99, 1.0, 5.0, 7.0]))
    assert groups.tolist() == [0, 0, 1, 4, 4]
    assert names == ["0 to 1", "1 to 2", "2 to 3", "3 to 4", "4 to 5"]


def test_confusion_counts_gold_by_rows_without_unseen_labels():
    counts = TONES.confusion(TONES.pack([0, 1, 1, 2, 0]), TONES.pack([0, 0, 1, 2, UNSEEN]))
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert STARS.confusion(STARS.pack([1.0]), STARS.pack([1.0])) is None


def test_the_contract_notices_an_average_that_depends_on_the_order_of_votes():
    class First(Score):
        """Takes the first vote."""

        def average(self, votes, owners):
            return votes[0]

    with pytest.raises(AssertionError, match=r"average: depends on the order of votes"):
        check_target(First(0.0, 5.0))


def test_the_contract_notices_a_batch_with_nan():
    class Plain(Score):
        """Leaves NaN in a batch."""

        def collate(self, gold, rows, items=None):
            return gold.take(rows).tensors()

    with pytest.raises(AssertionError, match=r"collate: expected finite tensors"):
        check_target(Plain(0.0, 5.0))


def test_predictions_of_two_runs_side_by_side_are_one_run_of_twice_the_rows():
    both = concat([TONES.pack([0, 1]), TONES.pack([2, 2])])
    assert both["index"].tolist() == [0, 1, 2, 2]


def test_probabilities_in_a_file_of_predictions_keep_their_digits_and_may_lack_a_class():
    shares = np.array([[0.1, 0.2, 0.7], [1 / 3, 1 / 3, 1 / 3]], dtype=np.float32)
    predicted = Ragged({"index": np.array([2, 0]), "probabilities": shares})
    written = [TONES.as_json(predicted, row, exact=True) for row in range(2)]
    assert list(written[0]["probabilities"].values()) == [0.1, 0.2, 0.7]
    read = TONES.from_json(written)
    assert (read["probabilities"].astype(np.float32) == shares).all()
    wider = TONES.widen([{"label": "great", "target": None}])
    assert wider.from_json(written)["probabilities"][:, 3].tolist() == [0, 0]
    narrower = TONES.from_json([row | {"probabilities": row["probabilities"] | {"other": 0.0}} for row in written])
    assert (narrower["probabilities"] == read["probabilities"]).all()


def test_aliases_leave_the_case_of_labels_ignored_where_a_kind_ignores_it():
    target = NLI.target.spelled({"non-entailment": "neutral"}, False, "tasks.t")
    labels = ["ENTAILMENT", "non-entailment", "contradictory"]
    assert [target.parse({"label": label}) for label in labels] == [0, 1, 2]
