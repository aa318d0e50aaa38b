"""The summary and its page: baselines, the verdict in words, and matrices of real units."""

from xml.etree import ElementTree

import numpy as np
import pytest

from mtlcli.affinity.gains import Gains
from mtlcli.affinity.labels import label_statistics
from mtlcli.affinity.page import affinity_page, interval, note_of
from mtlcli.affinity.prediction import Interval, Prediction, Reliability
from mtlcli.affinity.probe import joint_config
from mtlcli.affinity.results import Affinity, Cell, Measure, PredictionRow, Proposal, Units, directed, symmetric
from mtlcli.affinity.summary import baselines, predict_gains, verdict
from mtlcli.errors import MtlError
from mtlcli.report import svg
from mtlcli.training.setup import set_up
from small import small_config, write_files


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return set_up(joint_config(small_config(write_files(tmp_path_factory.mktemp("files"))), 10))


def labels_of(run):
    return {task.task.name: label_statistics(task.target, task.splits["train"].gold) for task in run.tasks}


def test_baselines_are_constant_over_rows_or_columns(run):
    gains = Gains((1,), np.zeros((1, 3, 3)), np.zeros((1, 3, 3)), np.array([[0.5, 0.7, 0.2]]), ())
    found = baselines(run, labels_of(run), gains)
    # 40 rows of tone, 50 of same, 34 of near
    assert found["rows of source"][0, 1:].tolist() == [40.0, 40.0]
    assert found["fewer rows of receiver"][1:, 0].tolist() == [-40.0, -40.0]
    assert found["lower metric of receiver alone"][0, 2] == -0.2
    # one text with classes, a pair with classes, a pair with a score
    assert np.nansum(found["same kind of task"]) == 0
    assert "label entropy of source" in found
    assert all(np.isnan(matrix[np.diag_indices(3)]).all() for matrix in found.values())
    assert "lower metric of receiver alone" not in baselines(run, labels_of(run), None)


def row(name, value, low, high):
    return Prediction(name, Interval(value, low, high), Interval(None), None, 30, None)


def test_the_verdict_names_what_excludes_zero_and_no_winner_without_a_difference():
    repeats, noise = Reliability(0.8, 0.6, 0.9), Reliability(0.1, 0.0, 0.5)
    rows = [row("logme", 0.5, 0.2, 0.7), row("vocabulary", 0.1, -0.3, 0.4)]
    said = verdict(rows, None, repeats, 6)
    assert "repeats with a reliability of 0.80" in said
    assert "among 2 measures: logme (+0.50)" in said
    assert "vocabulary" not in said
    assert "No measure is better than every other one" in said
    assert verdict(rows, "logme", repeats, 6).endswith("Best: logme.")
    assert "nothing can be shown to predict them: the measurement is too small" in verdict(rows, "logme", noise, 6)
    assert "logme" not in verdict(rows, "logme", noise, 6)
    assert "whose interval excludes 0" in verdict(rows[1:], None, repeats, 6)
    assert "4 tasks are too few to tell" in verdict(rows, None, repeats, 4)
    assert "not known whether the gains repeat" in verdict(rows, None, None, 6)


def test_three_tasks_get_no_correlation_and_gains_that_follow_a_measure_a_clear_one(run):
    gains = Gains((1, 2), np.random.default_rng(1).standard_normal((2, 3, 3)), np.zeros((2, 3, 3)), np.ones((2, 3)), ())
    rows, said, reliability = predict_gains(run, labels_of(run), [], gains)
    assert (rows, reliability) == ([], None)
    assert said == "3 tasks: too few for a correlation, so only the 6 gains are shown."
    assert predict_gains(run, {}, [], None)[1].startswith("No gains were measured")


TASKS = ["a", "b<i>", "c", "d"]


def affinity(measures=(), proposal=None, rows=()):
    return Affinity(
        TASKS, {"measures": ["gain"], "updates": 10, "batches": 4, "seeds": [1], "budget": "rows"}, {}, list(measures), proposal,
        list(rows), "Nothing.", [0.5, 0.1, 0.9], {}, {}, {"a": {"alone": [[1.0, 0.5], [2.0, 0.6]]}}, ["a leak"], ["a warning"],
        {"pairs": 60.0},
    )  # fmt: skip


def test_the_page_is_well_formed_and_shows_values_intervals_and_reasons():
    cells = {(0, 1): Cell(0.314, 0.1, 0.5, 7), (1, 0): Cell(-0.5), (2, 0): Cell(None, why="no direction")}
    measure = Measure("logme", "title & more", directed(TASKS, cells), reliability=0.25)
    proposal = Proposal(
        "gain", 2, [["a", "b<i>"], ["c", "d"]], [["a", "b<i>"], ["c", "d"]], 3.5, 1.25, 0.75, np.eye(4).tolist(), 200
    )
    page = affinity_page(
        affinity([measure], proposal, [PredictionRow("logme", [0.4, 0.1, 0.6], [None] * 3, None, 12, 0.7)])
    )
    body = page[page.index("<body>") : page.index("</html>")]
    ElementTree.fromstring(body)
    assert "0.314 (0.100 to 0.500), n 7" in body
    assert "no direction" in body
    assert "b&lt;i&gt;" in body
    assert "title &amp; more (reliability 0.25)" in body
    assert "75 % of 200 draws" in body
    assert "3.50 percent; one model for all 1.25" in body
    assert "0.40 (0.10 to 0.60)" in body
    assert "Warning: a warning." in body
    # negative cells have the other color
    assert body.count('class="c1 fill heat"') == 1


def test_an_empty_matrix_is_not_drawn_and_zero_has_no_sign():
    assert svg.heat("t", ["a", "b"], [[None, None], [None, None]], [["", ""], ["", ""]]) == ""
    assert ">0.00<" in svg.heat("t", ["a", "b"], [[None, -0.001], [1.0, None]], [["", ""], ["", ""]])
    assert interval([0.5, None, None]) == "0.50"
    assert note_of(Cell(1.0, details={"p": 0.04}), 2) == "1.00, p 0.04"


def test_a_symmetric_matrix_takes_either_direction():
    cells = symmetric(["a", "b", "c"], {(0, 1): Cell(1.0), (2, 0): Cell(2.0)})
    assert cells[1][0].value == 1.0
    assert cells[0][2].value == 2.0
    assert cells[1][2].why == "not measured"


def test_units_are_kept_replaced_and_refused_without_settings(tmp_path):
    units = Units(tmp_path, {"a": 1})
    units.add("data", ["x", "y"], value=1)
    units.add("data", ["x", "y"], value=2)
    again = Units(tmp_path, {"a": 1})
    assert again.get("data", ["x", "y"])["value"] == 2
    assert again.get("data", ["y", "x"]) is None
    assert len(again.of("data")) == 1
    (tmp_path / "affinity.jsonl").write_text('{"measure": "data", "unit": 1}\n')
    with pytest.raises(MtlError, match="no settings in line 1"):
        Units(tmp_path, {"a": 1})
