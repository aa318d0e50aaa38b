"""Any number of labels a row: what files say, thresholds, and predictions in and out."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtlcli.errors import MtlError
from mtlcli.tasks.label_sets import UNKNOWN, LabelSets, Row
from mtlcli.tasks.target_base import BadLabel
from mtlcli.tasks.targets import Classes, Ragged, Score, target_of
from mtlcli.tasks.thresholds import best_threshold, tuned_thresholds
from mtlcli.testing import check_target

NAMES = ("praise", "speed", "price")
DECLARED = LabelSets(NAMES)
GOLD = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=np.uint8)
SCORES = np.array([[0.9, 0.2, 0.4], [0.3, 0.8, 0.1], [0.6, 0.4, 0.5], [0.2, 0.1, 0.3]])


def raws(*labels) -> list[dict]:
    return [{"label": label} for label in labels]


def sets(*labels, target: LabelSets = DECLARED) -> list[list[int]]:
    return target.pack([target.parse(raw) for raw in raws(*labels)])["set"].tolist()


def gold_of(entries, unseen=None) -> Ragged:
    entries = np.array(entries, dtype=np.uint8)
    return Ragged({"set": entries, "unseen": np.zeros(len(entries), dtype=np.int64) if unseen is None else unseen})


def predicted(scores) -> Ragged:
    return DECLARED.decide(Ragged({"probabilities": np.array(scores)}))


@pytest.mark.parametrize(
    "target",
    [
        DECLARED,
        LabelSets(("one",)),
        LabelSets(tuple(map(str, range(500)))),
        LabelSets(NAMES, True, ";", {"slow": "speed"}, True, (0.3, 0.5, 0.125)),
    ],
)
def test_every_target_keeps_the_contract(target):
    check_target(target)


# Reading


def test_a_list_a_cell_and_columns_of_0_and_1_say_the_same():
    same = [["speed", "praise"], ("praise", "speed"), "praise|speed", " speed | praise ", "speed|praise|speed|"]
    same += [{"praise": "1", "speed": "1.0", "price": "0"}, {"praise": True, "speed": "true", "price": False}]
    assert sets(*same) == [[1, 1, 0]] * len(same)
    assert sets("praise;speed", target=replace(DECLARED, separator=";")) == [[1, 1, 0]]


def test_nothing_is_no_label_and_null_is_unknown():
    assert sets([], "", None) == [[0, 0, 0], [0, 0, 0], [UNKNOWN] * 3]
    columns = [{"praise": "1", "speed": "", "price": "0"}, {"praise": None}, {"price": 1}]
    assert sets(*columns) == [[1, UNKNOWN, 0], [UNKNOWN] * 3, [UNKNOWN, UNKNOWN, 1]]


def test_of_a_file_of_several_tasks_null_is_a_row_without_a_label_and_an_empty_cell_one_without_labels():
    forms = ("", [], "praise", None, {"praise": "", "speed": None}, {"praise": "0", "speed": ""})
    assert [DECLARED.is_missing(form) for form in forms] == [False, False, False, True, True, False]
    assert Classes.named("a", "b").is_missing("")
    assert DECLARED.unlabeled({"label": None}) == DECLARED.parse({"label": None})


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("praise|spped", ': found "spped", expected any of praise, speed, price; did you mean "speed"?'),
        (["nothing"], ': found "nothing", expected any of praise, speed, price'),
        (["praise", None], ": item 1 (counted from 0) is null; expected the name of a label"),
        (["praise", ["speed"]], ": item 1 (counted from 0) is a list; expected the name of a label"),
        ([{}], ": item 0 (counted from 0) is an object; expected the name of a label"),
        (["praise", " "], ": item 1 (counted from 0) is empty; expected the name of a label"),
        ([3], ": found the number 3, expected one from 0 to 2 (labels)"),
        ([-1], ": found the number -1, expected one from 0 to 2 (labels)"),
        (7, ": found 7; expected a list of labels"),
    ],
)
def test_a_bad_label_says_what_was_found_and_expected(label, message):
    with pytest.raises(BadLabel) as error:
        DECLARED.parse({"label": label})
    assert (error.value.column, str(error.value)) == ("label", message)


def test_a_bad_cell_of_a_column_names_the_column():
    with pytest.raises(BadLabel, match=r'^: found "2", expected 0, 1 or empty$') as error:
        DECLARED.parse({"label": {"praise": "1", "speed": "2"}})
    assert error.value.column == "speed"


def test_numbers_in_a_list_count_the_declared_labels_and_need_them():
    assert sets([0, 2]) == [[1, 0, 1]]
    assert sets([7, "3"], target=LabelSets(("3", "7"))) == [[1, 1]]  # a label of that name comes first
    with pytest.raises(BadLabel, match="found the number 0; list the labels that numbers stand for in labels"):
        LabelSets().parse({"label": [0, 2]})


def test_columns_without_a_header_are_the_declared_labels_in_order():
    assert sets({"3": "1", "1": "0", "2": ""}) == [[1, 0, UNKNOWN]]
    with pytest.raises(BadLabel, match='found "1", expected any of'):
        DECLARED.parse({"label": {"1": "0", "2": "1"}})


def test_the_labels_of_training_are_sorted_and_columns_keep_their_order():
    assert LabelSets().fit(raws("b|a", ["c"], None, [])).labels == ("a", "b", "c")
    assert LabelSets().fit(raws("10|9", "2")).labels == ("2", "9", "10")
    assert LabelSets().fit(raws({"toxic": "0", "insult": "1"}, {"toxic": "", "insult": "0"})).labels == (
        "toxic",
        "insult",
    )
    assert DECLARED.fit(raws("x")) is DECLARED
    assert LabelSets().parse({"label": "a"}) == Row()  # readable, and not fitted yet


def test_labels_that_training_never_saw_are_counted_and_declared_ones_bind_every_split():
    learned = LabelSets().fit(raws("a|b"))
    assert learned.parse({"label": "b|x|y"}) == Row((1,), (), 2)
    assert learned.parse({"label": {"a": "1", "x": "0"}}) == Row((0,), (1,), 0)
    gold = learned.pack([learned.parse({"label": "b|x|y"})])
    assert learned.gold_json(gold, 0) == ["b", None, None]
    assert learned.gold_from_json([["b", None, None]])["unseen"].tolist() == [2]


def test_other_spellings():
    target = LabelSets().spelled({"fast": "speed", "col_1": "praise"}, True, "tasks.t")
    target = target.fit(raws("Speed|fast", "speed", {"col_1": "1"}))
    assert target.labels == ("praise", "speed")
    assert sets("SPEED", "fast", {"col_1": "1"}, target=target) == [[0, 1], [0, 1], [1, UNKNOWN]]
    with pytest.raises(MtlError, match=r"^tasks\.t\.aliases: found the label 'x', expected one of praise"):
        DECLARED.spelled({"y": "x"}, False, "tasks.t")
    with pytest.raises(MtlError, match="'a' is both an alias and a label"):
        LabelSets().spelled({"a": "b", "c": "a"}, False, "tasks.t")


def test_a_recipe_declares_labels():
    assert LabelSets().declare([" praise ", "speed", "price"], None, "tasks.t") == DECLARED
    assert LabelSets().declare(None, None, "tasks.t") == LabelSets()
    for labels in ([], ["a", "a"], ["a", ""]):
        with pytest.raises(MtlError, match=r"^tasks\.t\.labels: .*expected one or more different names"):
            LabelSets().declare(labels, None, "tasks.t")
    with pytest.raises(MtlError, match=r"^tasks\.t\.range: this task predicts labels"):
        LabelSets().declare(None, (0, 1), "tasks.t")
    with pytest.raises(MtlError, match=r"^tasks\.t\.positive: this task predicts any of praise"):
        DECLARED.with_positive("praise", "tasks.t")


def remarks(*labels, target: LabelSets | None = None, training: bool = True) -> list[str]:
    target = target or LabelSets().fit(raws(*labels))
    return target.remarks(
        raws(*labels), target.pack([target.parse(raw) for raw in raws(*labels)]), "topics", training=training
    )


def test_what_a_user_should_know_of_the_labels():
    assert remarks("a|b", "a", "") == []
    assert remarks("a|a", "a|b|b", "") == ["2 rows with a label that is named twice, which counts once"]
    assert remarks("praise", "speed|praise", "", target=DECLARED) == [
        'no training row has "price": the model learns that it never holds'
    ]
    assert remarks("a", "b") == ["every row has exactly one label; is this kind: classification?"]
    assert remarks("a, b", "b") == [
        'every row has exactly one label, and many contain ","; is it a separator? (separator: ",")'
    ]
    learned = LabelSets().fit(raws("a|b", ""))
    assert remarks("a|x", "x|y", "b", target=learned, training=False) == [
        "2 rows with a label unseen in training, counted as missed: 'x' (2), 'y' (1)"
    ]
    many = ["|".join(map(str, range(start, start + 10))) for start in (0, 10, 20)]
    assert remarks(*many) == ['3 rows have 30 different labels; is "topics" the right column?']


def test_check_counts_labels_and_rows_without_any():
    gold = DECLARED.pack([DECLARED.parse(raw) for raw in raws("praise|speed", "", None, {"praise": "1", "speed": ""})])
    assert DECLARED.check(gold) == [
        "labels praise 2, speed 1, price 0; 1 per row, 1 row without any, 2 with unknown ones"
    ]


def test_rows_with_unknown_labels_are_noted():
    labels = raws("praise", "", None, {"praise": "1", "speed": ""})
    assert DECLARED.notes(labels, training=True) == [
        "2 rows that leave labels unknown, 1 of them all: nothing is learned there"
    ]
    assert DECLARED.notes(labels[:2], training=True) == []


def test_nothing_to_learn_is_every_row_with_the_same_labels():
    assert DECLARED.is_constant(gold_of([[1, 0, 0], [1, 0, 0]]))
    assert not DECLARED.is_constant(gold_of([[1, 0, 0], [0, 0, 0]]))
    assert DECLARED.is_constant(gold_of([[1, 0, UNKNOWN], [UNKNOWN, 0, 1]]))


# A batch and its losses


def test_a_row_counts_if_it_says_something_of_a_label():
    gold = gold_of([[UNKNOWN] * 3, [0, UNKNOWN, UNKNOWN], [0, 0, 0]])
    assert DECLARED.known(gold).tolist() == [False, True, True]
    assert DECLARED.units(gold).tolist() == [0, 1, 1]
    assert DECLARED.known(gold.tensors()).tolist() == [False, True, True]


def test_class_weights_are_negatives_for_each_positive_from_1_to_100():
    entries = np.zeros((1000, 3), dtype=np.uint8)
    entries[:200, 0], entries[:2, 1], entries[:800, 2] = 1, 1, 1
    gold = gold_of(entries)
    assert DECLARED.class_counts(gold).tolist() == [200, 2, 800]
    assert DECLARED.balanced_weights(gold).tolist() == [4, 100, 1]
    assert DECLARED.balanced_weights(gold, root=True).tolist() == [2, pytest.approx(math.sqrt(499)), 1]
    # The mean over labels and rows: (200 * 4 + 2 * 100 + 800 + the 1998 negatives) / 3000.
    assert DECLARED.mean_weight(gold, np.array([4.0, 100.0, 1.0])) == pytest.approx((800 + 200 + 800 + 1998) / 3000)
    assert DECLARED.balanced_weights(gold_of([[0, 1, UNKNOWN]])).tolist() == [1, 1, 1]


def test_a_uniform_guess_costs_log_2_whatever_the_number_of_labels():
    assert DECLARED.guess == LabelSets(tuple(map(str, range(500)))).guess == pytest.approx(math.log(2))
    assert (DECLARED.alternatives, Classes.named("a", "b", "c").alternatives, Score().alternatives) == (2, 3, 0)


def test_the_divergence_is_the_mean_over_labels_of_both_relative_entropies():
    p, q = 0.8, 0.3
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    expected += q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    a, b = (torch.tensor([[math.log(x / (1 - x)), 0.0]]) for x in (p, q))
    assert LabelSets(("x", "y")).divergence(a, b).tolist() == [pytest.approx(expected / 2, rel=1e-5)]


# Thresholds


def test_the_example_of_four_rows_has_its_thresholds_below_the_scores_that_it_accepts():
    thresholds = tuned_thresholds(SCORES, GOLD == 1, GOLD != UNKNOWN, fewest=1)
    assert thresholds == pytest.approx([(0.6 + 0.3) / 2, (0.4 + 0.2) / 2, (0.4 + 0.3) / 2])
    decided = replace(DECLARED, thresholds=tuple(thresholds)).decide(Ragged({"probabilities": SCORES}))
    true = ((decided["set"] == 1) & (GOLD == 1)).sum(0)
    assert (2 * true / (decided["set"].sum(0) + GOLD.sum(0))).tolist() == [1, 1, pytest.approx(2 / 3)]


def test_a_label_with_fewer_than_five_positive_dev_rows_keeps_one_half():
    scores = np.linspace(0.01, 0.4, 20)[:, None]
    for positives, expected in ((4, 0.5), (5, (scores[15, 0] + scores[14, 0]) / 2)):
        holds = np.arange(20)[:, None] >= 20 - positives
        assert tuned_thresholds(scores, holds, np.ones_like(holds)).tolist() == [pytest.approx(expected)]


def test_equal_scores_are_on_one_side_and_ties_lie_nearest_to_one_half():
    # At 0.7 two of four are right (F1 2 * 2 / (4 + 3)); at 0.2 all three of six (F1 2 * 3 / (6 + 3)).
    scores, holds = np.array([0.7, 0.7, 0.7, 0.7, 0.2, 0.2]), np.array([1, 1, 0, 0, 1, 0], dtype=bool)
    assert best_threshold(scores, holds) == pytest.approx(0.1)
    # F1 is 2 / 3 for one right of one at 0.9, and for two right of four at 0.6, which is nearer to 0.5.
    scores, holds = np.array([0.9, 0.8, 0.7, 0.6, 0.1]), np.array([1, 0, 0, 1, 0], dtype=bool)
    assert best_threshold(scores, holds) == pytest.approx((0.6 + 0.1) / 2)


def test_the_threshold_is_the_best_of_all_by_exhaustive_search():
    random = np.random.default_rng(5)
    for _ in range(200):
        scores, holds = random.integers(1, 9, 12) / 10, random.integers(2, size=12).astype(bool)
        holds[0] = True

        def f1(threshold: float, scores=scores, holds=holds) -> float:
            chosen = scores >= threshold
            return 2 * (chosen & holds).sum() / (chosen.sum() + holds.sum())

        best = max(f1(threshold) for threshold in scores)
        assert f1(best_threshold(scores, holds)) == best
        order = random.permutation(12)
        assert best_threshold(scores[order], holds[order]) == best_threshold(scores, holds)


def test_unknown_labels_do_not_move_a_threshold():
    scores, entries = np.concatenate([SCORES] * 5), np.concatenate([GOLD] * 5)
    noise = np.full((7, 3), UNKNOWN, dtype=np.uint8)
    more = np.concatenate([scores, np.full((7, 3), 0.41)]), np.concatenate([entries, noise])
    tuned = [DECLARED.tune(predicted(s), gold_of(e)).thresholds for s, e in ((scores, entries), more)]
    assert tuned[0] == tuned[1] == pytest.approx((0.45, 0.3, 0.35))


def test_a_tuned_target_decides_single_votes_and_is_stored_exactly():
    target = DECLARED.tune(predicted(np.concatenate([SCORES] * 5)), gold_of(np.concatenate([GOLD] * 5)))
    assert target_of(json.loads(json.dumps(target.record()))) == target
    assert target.average([predicted(SCORES)], [DECLARED])["set"].tolist() == [
        [1, 0, 1],
        [0, 1, 0],
        [1, 1, 1],
        [0, 0, 0],
    ]
    half = target.with_threshold(0.5, "t")
    assert half.average([predicted(SCORES)], [target])["set"].tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert target.agree(DECLARED) == ""
    assert target.tuning() == "thresholds praise 0.45, speed 0.3, price 0.35"
    with pytest.raises(ValueError, match="2 thresholds for 3 labels"):
        target_of(DECLARED.record() | {"thresholds": [0.1, 0.2]})


def test_other_targets_have_nothing_to_tune():
    for target in (Classes.named("a", "b"), Score(0.0, 5.0)):
        examples = target.examples(4)
        assert target.tune(examples, examples) is target
        assert target.decide(examples) is examples
        with pytest.raises(MtlError, match=r"^threshold: t: this task predicts .*, without thresholds; remove"):
            target.with_threshold(0.5, "threshold: t")


# Predictions


def test_an_ensemble_decides_its_mean_by_the_mean_of_the_thresholds():
    first = replace(DECLARED, thresholds=(0.2, 0.5, 0.9))
    second = LabelSets(("speed", "price", "praise"), thresholds=(0.3, 0.1, 0.6))
    merged = first.merge([second])
    assert merged.thresholds == pytest.approx((0.4, 0.4, 0.5))
    assert first.merge([DECLARED]).thresholds == pytest.approx((0.35, 0.5, 0.7))
    assert DECLARED.merge([DECLARED]) is DECLARED
    votes = [Ragged({"probabilities": np.array([row])}) for row in ([0.1, 0.9, 0.2], [0.1, 0.6, 0.8])]
    mean = merged.average(votes, [first, second])
    assert mean["probabilities"].tolist() == [[pytest.approx(0.45), pytest.approx(0.5), pytest.approx(0.4)]]
    assert mean["set"].tolist() == [[1, 1, 0]]


def test_predictions_in_json_and_in_cells():
    rows = predicted(SCORES)
    assert DECLARED.as_json(rows, 2) == {
        "labels": ["praise", "price"], "probabilities": {"praise": 0.6, "speed": 0.4, "price": 0.5},
    }  # fmt: skip
    assert DECLARED.cells() == ["labels", "probability.praise", "probability.speed", "probability.price"]
    assert DECLARED.as_cells(rows, 2) == {
        "labels": "praise|price", "probability.praise": "0.600000", "probability.speed": "0.400000",
        "probability.price": "0.500000",
    }  # fmt: skip
    written = [DECLARED.as_json(rows, row, exact=True) for row in range(4)]
    again = DECLARED.from_json(json.loads(json.dumps(written)))
    assert np.array_equal(again["probabilities"], SCORES) and np.array_equal(again["set"], rows["set"])


def test_labels_in_json_survive_unknown_ones():
    gold = gold_of([[1, 0, 1], [0, 0, 0], [UNKNOWN] * 3, [1, UNKNOWN, 0], [1, UNKNOWN, 0]], np.array([0, 0, 0, 0, 2]))
    values = [DECLARED.gold_json(gold, row) for row in range(5)]
    assert values[:4] == [["praise", "price"], [], None, {"praise": True, "price": False}]
    again = DECLARED.gold_from_json(json.loads(json.dumps(values)))
    assert np.array_equal(again["set"], gold["set"]) and again["unseen"].tolist() == [0, 0, 0, 0, 2]
    with pytest.raises(ValueError, match="found the label 'x', expected any of praise, speed, price"):
        DECLARED.gold_from_json([["x"]])


def test_what_a_file_says_survives_as_json():
    for label in (["speed"], [], None, {"praise": "1", "speed": "", "price": "0"}):
        item = DECLARED.parse({"label": label})
        assert DECLARED.parse({"label": DECLARED.gold_json(DECLARED.pack([item]), 0)}) == item


def test_labels_of_other_runs_widen_the_target():
    rows = [{"labels": ["new"], "probabilities": {"speed": 0.1, "new": 0.9}, "target": ["old", None]}]
    wider = replace(DECLARED, thresholds=(0.1, 0.1, 0.1)).widen(rows)
    assert (wider.labels, wider.thresholds) == ((*NAMES, "new", "old"), None)
    assert wider.from_json(rows)["probabilities"].tolist() == [[0, 0.1, 0, 0.9, 0]]
    assert DECLARED.widen([{"labels": ["speed"], "target": {"praise": True, "": 1}}]) is DECLARED


def test_uncertainty_is_the_mean_entropy_of_the_labels():
    rows = Ragged({"probabilities": torch.tensor([[0.5, 0.5, 0.5], [1.0, 0.0, 1.0], [0.5, 1.0, 0.0]])})
    assert DECLARED.uncertainty(rows).tolist() == pytest.approx([1, 0, 1 / 3])


def test_a_teacher_that_is_unsure_costs_a_mixture_of_both_labels():
    soft = DECLARED.soft(predicted(SCORES))
    assert np.array_equal(soft["set"], SCORES)
    assert DECLARED.soft(gold_of(GOLD))["set"].tolist() == GOLD.tolist()
