"""A run whose metrics count dev rows by a column of weights, from training to evaluation."""

import json
import random

import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.evaluation.table import bounds_of, read, tabulate
from mtlcli.runs.results import read_results
from mtlcli.training.class_options import class_notes
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import WORDS, small_config

TITLES = ["accuracy[weighted]", "f1[positive=good,weighted]"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a task and the run on it; every third dev row has weight 0."""
    folder, chance = tmp_path_factory.mktemp("weighted"), random.Random(5)
    for split, count in (("train", 40), ("dev", 30)):
        rows = [
            f"{' '.join(chance.choices(WORDS, k=5))}\t{chance.choice(['good', 'bad'])}\t{number % 3 * 1.5}\n"
            for number in range(count)
        ]
        (folder / f"{split}.tsv").write_text("text\tlabel\tw\n" + "".join(rows))
    return folder


@pytest.fixture(scope="module")
def run(place):
    list(train(set_up(config_of(place)), place / "run"))
    return place / "run"


def config_of(place, **training):
    config = small_config(place)
    values = config.plain() | {
        "tasks": {
            "tone": {
                "kind": "classification", "train": str(place / "train.tsv"), "dev": str(place / "dev.tsv"), "weight": "w",
                "weighted_metrics": True, "metrics": ["accuracy", {"name": "f1", "positive": "good"}],
            }
        },
    }  # fmt: skip
    values["training"] |= {"steps": 4, "steps_per_epoch": 4, "select_by": "tone.accuracy[weighted]"} | training
    return resolve([Layer(values, {})])


def predictions(run):
    rows = [json.loads(line) for line in (run / "predictions" / "tone.dev.jsonl").read_text().splitlines()]
    return [[row[key] for row in rows] for key in ("target", "label", "weight")]


def test_results_and_score_are_weighted_and_say_so(run):
    targets, labels, weights = predictions(run)
    results = read_results(run)
    measured = results.tasks["tone"]["dev"]
    expected = accuracy_score(targets, labels, sample_weight=weights)
    assert list(measured) == TITLES
    assert measured[TITLES[0]].value == pytest.approx(expected) == pytest.approx(results.score)
    assert measured[TITLES[0]].n == sum(weight > 0 for weight in weights) == 20


def test_evaluation_measures_the_same_and_can_leave_the_weights_out(run):
    targets, labels, weights = predictions(run)
    evaluation = evaluate(run, by_class=True, resamples=20)
    assert evaluation["tone"]["dev"][TITLES[1]].value == pytest.approx(
        read_results(run).tasks["tone"]["dev"][TITLES[1]].value
    )
    good = next(scores for scores in evaluation.classes["tone"]["dev"] if scores.label == "good")
    precision, recall, f1, _ = precision_recall_fscore_support(
        targets, labels, labels=["good"], sample_weight=weights, zero_division=0
    )
    assert (good.precision.value, good.recall.value, good.f1.value) == pytest.approx((precision[0], recall[0], f1[0]))
    plain = evaluate(run, changes=[(("tasks", "tone", "weighted_metrics"), False)], resamples=20)["tone"]["dev"]
    assert plain["accuracy"].value == pytest.approx(accuracy_score(targets, labels))
    assert predictions(run)[2] == weights


def test_a_table_has_the_titles_and_their_bounds(run):
    measured = read([run])
    bounds = bounds_of(measured)
    assert bounds == dict.fromkeys(TITLES, (0.0, 1.0))
    assert tabulate(measured, bounds=bounds).titles == ("tone accuracy[weighted]",)


def test_the_plan_says_what_the_weights_are_for(place):
    training = set_up(config_of(place))
    (note,) = class_notes(training.tasks[0], training.config.balancer)
    assert note.endswith("; metrics on dev use them too")


def test_changed_weights_of_dev_rows_are_noticed_on_resuming(place):
    before = set_up(config_of(place)).content()
    assert {"tone.train (weights)", "tone.dev (weights)"} <= set(before)
