"""What a task reads, predicts and measures; one table puts every registered task through the same checks."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mtlcli import registry
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import TaskConfig
from mtlcli.data.splits import load_task
from mtlcli.tasks.base import Task, sample_rows
from mtlcli.tasks.targets import BadLabel, Classes, Score

BUILT_IN = list(registry.FAMILIES["tasks"].built_in)


def task(name: str) -> Task:
    return registry.load("tasks", name, "test")(name)


# Every task


def test_these_tasks_come_with_mtlcli():
    assert BUILT_IN == [
        "sst", "cfimdb", "quora", "sts", "classification", "regression", "pair-classification", "pair-regression",
        "nli", "tagging", "ordinal", "pair-ordinal", "label-distribution", "pair-label-distribution",
        "multiple-choice", "span-extraction", "relation", "multi-label", "pair-multi-label", "unlabeled", "pair-unlabeled",
    ]  # fmt: skip


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_task_declares_what_fits_together(name):
    one = task(name)
    items = {
        "tagging": {"words"}, "multiple-choice": {"choices"}, "relation": {"marked"}, "span-extraction": {"spans"},
    }  # fmt: skip
    assert set(one.heads) == items.get(name, {"cross", "bi"} if one.pair else {"single"})
    assert len(one.texts) in (0, *(one.text_columns or (1 + one.pair,)))
    assert one.on_bad_row in ("error", "skip")
    assert type(one).__doc__
    for metric in one.metrics:
        registry.load("metrics", metric, "test")
    for encoding, head in one.heads.items():
        assert (2 if encoding == "bi" else 1) in registry.load("heads", head, "test").sides
    if one.hub is not None:
        assert {*one.texts, one.label} == set(one.hub.columns)
        assert "train" in one.hub.splits


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("encoding", ["single", "cross", "bi", "words"])
def test_every_encoding_that_a_task_has_resolves_with_its_own_head(name, encoding):
    one = task(name)
    if encoding in one.heads:
        section = {"kind": name, "train": "t.tsv", "encoding": encoding}
        # A run needs a task with labels.
        tasks = {"t": section, "labeled": {"kind": "classification", "train": "t.tsv"}}
        assert resolve([Layer({"tasks": tasks})]).tasks["t"].head.name == one.heads[encoding]


@pytest.mark.parametrize("name", [name for name in BUILT_IN if task(name).sample("train")])
def test_made_up_rows_are_good_rows_of_three_splits_that_share_no_text(name):
    one = task(name)
    texts = {}
    for split in ("train", "dev", "test"):
        rows = list(sample_rows(one.sample(split)))
        assert {tuple(row) for row in rows} == {(*one.texts, one.label)}
        assert all(text.strip() for row in rows for text in row.values())
        for row in rows:
            one.target.parse({"label": row[one.label]})
        texts[split] = {tuple(row[column] for column in one.texts) for row in rows}
    assert not texts["train"] & texts["dev"]
    assert not (texts["train"] | texts["dev"]) & texts["test"]


def test_a_sample_is_loaded_like_a_file():
    loaded = load_task("sst", TaskConfig(max_rows=100), task("sst"), data=None, sample=True, seed=1)
    assert [(name, len(split), split.warnings) for name, split in loaded.splits.items()] == [
        ("train", 100, ()),
        ("dev", 500, ()),
    ]
    assert set(loaded.splits["train"].gold["index"].tolist()) == {0, 1, 2, 3, 4}


# Classes


def test_classes_are_known_by_what_the_file_says_by_name_and_as_floats():
    target = Classes({"0": "negative", "1": "positive"})
    assert [target.parse({"label": text}) for text in ("0", "1", "0.0", "1.", "positive", "negative")] == [
        0,
        1,
        0,
        1,
        1,
        0,
    ]
    assert target.labels == ("negative", "positive")
    assert target.fit([{"label": "1"}]) is target


@pytest.mark.parametrize("text", ["2", "0.5", "-1", "Positive", "nan", "1e0", "0_0"])
def test_what_is_no_class_names_those_there_are(text):
    with pytest.raises(BadLabel, match=rf"^: found '{text}', expected one of 0, 1$"):
        Classes({"0": "negative", "1": "positive"}).parse({"label": text})


def test_many_classes_are_not_all_named():
    with pytest.raises(ValueError, match=r"expected one of 0, 1, 2, 3, 4, 5, 6, 7, \.\.\.$"):
        Classes.named(*map(str, range(100))).parse({"label": "x"})


def test_several_spellings_may_stand_for_one_class():
    target = Classes({"y": "yes", "yes": "yes", "n": "no"})
    assert (target.labels, [target.parse({"label": text}) for text in ("y", "yes", "n", "no")]) == (
        ("yes", "no"),
        [0, 0, 1, 1],
    )


def test_declared_floats_are_the_integers_of_the_file():
    target = Classes({"1.0": "1.0", "2.0": "2.0"})
    assert [target.parse({"label": text}) for text in ("1", "2.0", "2")] == [0, 1, 1]


def test_classes_have_the_same_order_in_every_process():
    code = (
        "from mtlcli.tasks.targets import Classes; texts = ['01', '1', '1.0', '1.00', '+1', '001', '1e0', '0']; "
        "print(Classes().fit([{'label': text} for text in texts]).labels)"
    )
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2", "3")]
    found = {
        subprocess.run([sys.executable, "-c", code], env=one, capture_output=True, text=True, check=True).stdout
        for one in environments
    }
    assert found == {"('0', '+1', '001', '01', '1', '1.0', '1.00', '1e0')\n"}


def test_classes_are_integers():
    assert Classes().pack([0, 2])["index"].dtype == np.int64


@pytest.mark.parametrize("target", [Classes.named("a", "b"), Classes(), Score()])
def test_an_empty_label_is_bad_in_every_state(target):
    with pytest.raises(BadLabel, match=r"^ is empty$"):
        target.parse({"label": ""})


# Scores


def test_a_score_is_fitted_on_training_labels():
    target = Score().fit([{"label": text} for text in ("1", "2.5", "4")])
    assert (target.low, target.high, target.mean) == (1.0, 4.0, 2.5)
    assert target.std == pytest.approx(np.std([1, 2.5, 4]))


def test_a_declared_range_stays():
    assert Score(0, 5).fit([{"label": "1"}, {"label": "2"}]).range == (0, 5)


def test_equal_scores_are_measured_in_units_of_one():
    assert Score(0, 5).fit([{"label": "3"}, {"label": "3"}]).std == 1.0


@pytest.mark.parametrize("text", ["x", "nan", "inf", "-inf", "1,5", "1_000", "0x1"])
def test_what_is_no_finite_number_is_no_score(text):
    with pytest.raises(BadLabel, match=f"^: found {text!r}, expected a number$"):
        Score().parse({"label": text})


@pytest.mark.parametrize(("text", "score"), [("3", 3.0), (" 3.50 ", 3.5), ("-1e-2", -0.01), ("+.5", 0.5)])
def test_numbers_are_scores(text, score):
    assert Score().parse({"label": text}) == score
    assert Score().pack([score])["value"].dtype == np.float64
