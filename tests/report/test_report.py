"""The page of `mtl report`: numbers in the right places, nothing from outside, nothing that breaks on strange names."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtlcli.cli import main
from mtlcli.facts import TaskFacts
from mtlcli.metrics.calibration_error import CalibrationError
from mtlcli.report import page, sections, svg
from mtlcli.report.calibration import reliability_charts
from mtlcli.report.differences import differences, display_names
from mtlcli.report.embeddings import clouds, project
from mtlcli.report.errors import worst_rows
from mtlcli.report.predictions import baselines, score_charts
from mtlcli.report.run_files import RunFiles, metric_bounds
from mtlcli.statistics.per_class import per_class
from mtlcli.tasks.targets import target_of
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from sealed import edit
from small import small_config, write_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    list(train(set_up(small_config(files, balancer="uncertainty+pcgrad")), folder))
    return folder


@pytest.fixture
def mtl(monkeypatch, capsys):
    """`mtl` in this process: `mtl("report", run)`."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mtl", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return subprocess.CompletedProcess(sys.argv, int(end.value.code or 0), *capsys.readouterr())

    return call


def test_ticks_are_round_and_within():
    assert svg.ticks(0.13, 0.94) == [0.2, 0.4, 0.6, 0.8]
    assert svg.ticks(0, 1200, 4) == [0, 500, 1000]
    assert svg.ticks(3.0, 3.0) == [3.0]


@pytest.mark.parametrize("high", [7, 60, 130, 260, 480, 740, 900, 999, 1300, 4200])
@pytest.mark.parametrize("most", [4, 5])
def test_an_axis_has_two_ticks_or_more_within_its_ends(high, most):
    marks = svg.ticks(1, high, most)
    assert 2 <= len(marks) <= 2 * most
    assert all(1 <= mark <= high for mark in marks)


def test_an_axis_never_shows_impossible_values():
    def numbers(drawn):
        return [float(text) for text in re.findall(r">(-?[0-9.]+)</text>", drawn)]

    drawn = svg.lines("t", {"a": [(1, 0.98), (2, 1.0)]}, bounds=(0.0, 1.0))
    assert max(numbers(drawn)[:-2]) <= 1.0
    assert float(re.findall(r'points="[^"]* [0-9.]+,([0-9.]+)"', drawn)[0]) == svg.TOP  # 1.0 is the top of the frame
    drawn = svg.intervals("t", [("a", 0.99, 0.97, 1.0)], bounds=(0.0, 1.0))
    assert max(numbers(drawn)) <= 1.0
    assert metric_bounds("accuracy") == (0.0, 1.0) and metric_bounds("no-such-metric")[1] == math.inf


def test_a_peak_does_not_flatten_the_other_values():
    values = [(step, 1 + 0.1 * (step % 5)) for step in range(100)]
    values[50] = (50, 800.0)
    drawn = svg.lines("t", {"a": values}, cut_outliers=True)
    heights = [float(point.split(",")[1]) for point in re.findall(r'points="([^"]+)"', drawn)[0].split()]
    assert max(heights) - min(heights[:50]) > 100  # 1.0 and 1.4 are far apart
    assert "1 of 100 points are outside the frame and drawn on its edge, the farthest at 800." in drawn
    assert "outside the frame" not in svg.lines("t", {"a": values[:50]}, cut_outliers=True)


def test_weights_that_never_change_are_a_sentence():
    lines = [{"step": step, "balancer/a/weight": 1.0, "balancer/b/weight": 0.5} for step in range(5)]
    text = sections._balance(["a", "b"], lines)
    assert "Weight of each task: constant (a 1, b 0.5)." in text and "<svg" not in text
    lines[3]["balancer/b/weight"] = 0.6
    assert "<svg" in sections._balance(["a", "b"], lines)


def test_a_long_curve_becomes_means_of_equal_parts():
    found = sections.thinned([(step, step % 2) for step in range(3000)])  # 150 parts of 20 steps
    assert len(found) == 150
    assert found[0] == (9.5, 0.5)
    assert found[-1] == (2989.5, 0.5)


def test_a_curve_goes_from_corner_to_corner():
    drawn = svg.lines("t", {"a": [(0, 0.0), (10, 1.0)]})  # 5 % of air above and below
    (points,) = re.findall(r'points="([^"]+)"', drawn)
    first, last = ([float(x) for x in point.split(",")] for point in points.split())
    inner = svg.HEIGHT - svg.TOP - svg.BOTTOM
    assert first == pytest.approx([svg.LEFT, svg.HEIGHT - svg.BOTTOM - inner * 0.05 / 1.1], abs=0.1)
    assert last == pytest.approx([svg.WIDTH - svg.RIGHT, svg.TOP + inner * 0.05 / 1.1], abs=0.1)


def test_nothing_to_draw_is_no_chart():
    assert svg.lines("t", {"a": []}) == svg.points("t", [], [], []) == svg.intervals("t", []) == ""
    assert page.section("Balance", ("a", ""), ("b", page.charts(["", ""]))).parts == ()


def test_names_cannot_break_the_page():
    found = svg.matrix("<b>", ["a&b", "<i>"], [[3, 1], [0, 2]]) + page.table(["<th>"], [["<td>"]])
    assert "<b>" not in found
    assert "<i>" not in found
    assert "a&amp;b" in found
    assert "&lt;td&gt;" in found


def test_the_cells_of_the_confusion_matrix_are_counts_of_the_predictions(run):
    rows = [json.loads(line) for line in (run / "predictions" / "tone.dev.jsonl").read_text().splitlines()]
    labels = list(rows[0]["probabilities"])
    drawn = svg.matrix("tone", *RunFiles(run).confusions["tone"])
    for expected in labels:
        for predicted in labels:
            count = sum(row["target"] == expected and row["label"] == predicted for row in rows)
            assert f"<title>{expected} as {predicted}: {count}</title>" in drawn


class Rows:
    """Predictions made up for a test."""

    def __init__(self, rows):
        self.rows = rows


LABELS = Rows([{"target": t, "label": p} for t, p in ["aa", "aa", "ab", "ba", "bb", "ab"]])  # 4 a, 2 b; said a 3, b 3
SCORES = Rows([{"target": 0.0, "score": 1.0}, {"target": 2.0, "score": 2.0}, {"target": 4.0, "score": 1.0}])


def test_baselines_answer_every_row_alike():
    assert baselines(LABELS) == [("accuracy", 3 / 6, 4 / 6, "always a")]
    (_, model, mean, name), (_, model_absolute, mean_absolute, _) = baselines(SCORES)
    assert name == "always the mean, 2"
    assert (model, mean) == (pytest.approx(math.sqrt((1 + 0 + 9) / 3)), pytest.approx(math.sqrt(8 / 3)))
    assert (model_absolute, mean_absolute) == (pytest.approx(4 / 3), pytest.approx(4 / 3))


def test_scores_are_drawn_against_labels_and_their_residuals():
    drawn, residuals = score_charts("x", SCORES)
    assert drawn.count("<circle") == residuals.count("<circle") == 3
    assert score_charts("x", LABELS) == []
    places = re.findall(r'cx="([0-9.]+)" cy="([0-9.]+)"', residuals)
    line = float(re.findall(r'class="rule"[^>]* y1="([0-9.]+)"', residuals)[0])
    assert float(places[1][1]) == line  # a residual of 0 is on the line
    assert float(places[0][1]) < line < float(places[2][1])  # 1 above, -3 below


def test_long_names_of_columns_are_slanted_and_whole():
    drawn = svg.matrix("t", ["very negative", "negative", "neutral", "positive", "very positive"], [[1] * 5] * 5)
    assert drawn.count("very negative</text>") == 2
    assert drawn.count('transform="rotate(-45') == 5
    assert "rotate" not in svg.matrix("t", ["a", "b"], [[1, 0], [0, 1]])


def test_before_and_after_stay_side_by_side(run):
    found, _ = clouds(run, 5)
    pairs = sections._clouds(found)
    assert len(pairs) == len(found) // 2
    assert all(pair.startswith('<div class="pair">') and pair.count("<figure>") == 2 for pair in pairs)


def test_tasks_are_in_the_order_of_the_recipe(run):
    files = RunFiles(run)
    assert list(files.predictions) == files.tasks != sorted(files.tasks)
    text = sections.one_run(files, [], "").html()
    places = [text.index(f"<figcaption>{task}: loss") for task in files.tasks]
    assert places == sorted(places)


def test_several_runs_have_a_table_of_differences_and_curves_in_one_frame(run, tmp_path):
    import shutil

    other = shutil.copytree(run, tmp_path / "second")
    overview = sections.overview([RunFiles(run), RunFiles(other)]).html()
    assert "no evidence" in overview and "+0.0000 to +0.0000" in overview
    assert "tone: loss on dev" in overview
    path = other / "predictions" / "tone.dev.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert "cannot be compared: tone: " in differences([run, other])
    assert display_names([tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "y"]) == [
        str(tmp_path / "a" / "x"), str(tmp_path / "b" / "x"), "y",
    ]  # fmt: skip


def test_the_worst_predictions_come_with_their_texts_only_when_asked_for(mtl, run, tmp_path):
    worst = worst_rows(run, 2)
    rows = [json.loads(line) for line in (run / "predictions" / "near.dev.jsonl").read_text().splitlines()]
    largest = max(rows, key=lambda row: abs(row["score"] - row["target"]))
    assert worst["near"][0].line == largest["line"]
    assert len(worst["near"]) == 2 and len(worst["near"][0].texts) == 2
    config = json.loads((run / "run.json").read_text())["config"]["tasks"]["near"]
    text = Path(config["dev"]).read_text().splitlines()[largest["line"] - 1]
    assert all(part in text for part in worst["near"][0].texts)
    assert all(row.target != row.predicted.split(" ")[0] for row in worst["tone"])
    plain, asked = tmp_path / "plain.html", tmp_path / "asked.html"
    assert mtl("report", run, "--points", 0, "-o", plain).returncode == 0
    assert mtl("report", run, "--points", 0, "-o", asked, "--errors", 2).returncode == 0
    shown = worst["near"][0].texts[0]
    assert shown not in plain.read_text() and shown in asked.read_text()


def test_a_page_that_exists_or_a_file_of_the_run_is_not_replaced_unasked(mtl, run, tmp_path):
    page_file = tmp_path / "page.html"
    page_file.write_text("old")
    done = mtl("report", run, "--points", 0, "-o", page_file)
    assert done.returncode == 2 and "add --overwrite to replace it" in done.stderr and page_file.read_text() == "old"
    assert mtl("report", run, "--points", 0, "-o", page_file, "--overwrite").returncode == 0
    before = (run / "run.json").read_bytes()
    done = mtl("report", run, "--points", 0, "-o", run / "run.json", "--overwrite")
    assert done.returncode == 2 and "is a file of the run" in done.stderr
    assert (run / "run.json").read_bytes() == before


def test_two_components_keep_the_distances_of_points_in_a_plane():
    corners = np.array([[0.0, 0, 5], [3, 0, 5], [0, 4, 5], [3, 4, 5]])
    places = np.array(project(corners, "PCA", 1))
    assert np.linalg.norm(places[0] - places[3]) == pytest.approx(5)
    assert np.linalg.norm(places[0] - places[1]) == pytest.approx(3)


def test_clouds_show_the_first_weights_and_the_last(run):
    found, _ = clouds(run, 10)
    tone = [cloud for cloud in found if cloud.task == "tone" and cloud.method == "PCA"]
    assert [cloud.when for cloud in tone] == ["before", "after"]
    assert tone[0].places != tone[1].places
    assert [len(cloud.places) for cloud in tone] == [10, 10]
    near = next(cloud for cloud in found if cloud.task == "near")
    assert len(near.names) == 5


def test_the_page_stands_alone_and_holds_every_part(run, tmp_path, mtl):
    done = mtl("report", run, "--output", tmp_path / "page.html", "--points", 12)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert not re.search(r"src=|href=\"(?!#)|url\(|@import|https?://", text)
    for target in re.findall(r'href="#([^"]+)"', text):
        assert text.count(f'id="{target}"') == 1, target
    for part in (
        "Mixing plan",
        "Metrics on dev",
        "tone: loss",
        "Weight of each task",
        "Learning rate",
        "Baselines",
        "precision",
        "near: predicted score against label",
        "near: residual against label",
        "versions",
        "Cosine of the gradients",
        "tone and same",
        "Confusion",
        "tone, PCA, before",
    ):
        assert part in text, part
    value = json.loads((run / "results.json").read_text())["tasks"]["tone"]["dev"]["accuracy"]["value"]
    assert f"{value:.4f}" in text


def test_without_its_data_a_run_is_still_reported(run, tmp_path, mtl):
    import shutil

    other = tmp_path / "moved"
    shutil.copytree(run, other)

    def lose_data(record):
        for task in record["config"]["tasks"].values():
            task["train"] = "/nowhere/train.tsv"

    edit(other / "run.json", lose_data)
    done = mtl("report", other, "--output", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert f"{other}: drawing encodings" in done.stderr.splitlines()[0]
    assert "no pictures of encodings: " in done.stderr
    assert "Confusion" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("plan.json", '{"tasks": [', "mtl train --resume --output"),
        ("plan.json", "{}", "mtl train --resume --output"),
        ("results.json", "[]", "mtl train --resume --output"),
        ("predictions/tone.dev.jsonl", '{"line": 2, "tar', "mtl eval"),
    ],
)
def test_a_damaged_file_is_named_with_the_command_that_writes_it_again(run, tmp_path, mtl, name, text, remedy):
    import shutil

    other = tmp_path / "damaged"
    shutil.copytree(run, other)
    (other / name).write_text(text)
    done = mtl("report", other, "--points", 0, "--output", tmp_path / "page.html")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"error: {other / name}:" in done.stderr
    assert "damaged" in done.stderr and f"; write it again: {remedy} {other}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-run"], "no-such-run"),
        (["RUN", "--output", "/nowhere/page.html"], "--output: there is no folder /nowhere"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, mtl, arguments, message):
    done = mtl("report", *(run if one == "RUN" else one for one in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


# Classes and calibration


def test_the_page_has_each_class_as_mtl_eval_has_it(run):
    html = sections._classes(RunFiles(run))
    expected = per_class(*_predictions(run))
    for of_class in expected:
        estimate = of_class.recall
        cell = f"{estimate.value:.3f} ({estimate.low:.2f} to {estimate.high:.2f})" if estimate.n else "-"
        assert f'<td>tone</td><td>{of_class.label}</td><td class="n">{of_class.support}</td>' in html
        assert cell in html


def _predictions(run):
    files = RunFiles(run)
    target = target_of(files.record["tasks"]["tone"]["facts"]["target"])
    return target, *files.predictions["tone"].read(target)


def test_many_classes_are_folded_away(run, monkeypatch):
    monkeypatch.setattr(sections, "MOST_ROWS", 1)
    html = sections._classes(RunFiles(run))
    assert html.index("<details><summary>3 more</summary>") > html.index("<table>")  # two tasks with two classes
    assert html.count("<tr><th>") == 2


def test_a_reliability_diagram_for_each_task_with_classes_with_its_error_beside(run):
    charts = reliability_charts(RunFiles(run))
    assert [re.search("<figcaption>(.*?):", chart)[1] for chart in charts] == ["tone", "same"]
    target, predicted, gold = _predictions(run)
    error = CalibrationError(TaskFacts("tone", 1, 1, target)).value(predicted, gold)
    assert f"Calibration error {error:.4f} (95 %: " in charts[0] and "20 rows in 15 bins" in charts[0]


def test_a_reliability_diagram_has_its_bars_where_the_numbers_are():
    # Of four bins the second is empty, and the third has no right row.
    bins = [(2, 0.2, 0.5), (0, math.nan, math.nan), (4, 0.7, 0.0), (8, 0.9, 1.0)]
    chart = svg.reliability("t", bins, "note")
    bars = [
        tuple(map(float, bar))
        for bar in re.findall(r'c0 fill" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', chart)
    ]
    bottom, top, width = svg.HEIGHT - svg.BOTTOM, svg.TOP, (svg.WIDTH - svg.RIGHT - svg.LEFT) / 4
    assert [bar[0] for bar in bars] == pytest.approx([svg.LEFT + place * width + 0.5 for place in (0, 2, 3)], abs=0.06)
    assert [bar[1] for bar in bars] == pytest.approx([(bottom + top) / 2, bottom, top], abs=0.06)
    assert [bar[3] for bar in bars] == pytest.approx([(bottom - top) / 2, 0, bottom - top], abs=0.06)
    marks = [float(y) for y in re.findall(r'c1 line" .*? y1="(.*?)"', chart)]
    assert marks == pytest.approx([bottom - share * (bottom - top) for share in (0.2, 0.7, 0.9)], abs=0.06)
    counts = [float(height) for height in re.findall(r'c7 fill" .*? height="(.*?)"', chart)]
    assert counts == pytest.approx([46 / 4, 46 / 2, 46], abs=0.06)
    assert "nan" not in chart and ">8</text>" in chart
    assert svg.reliability("t", [(0, math.nan, math.nan)], "") == ""


def test_a_diagram_follows_the_bins_of_the_recipe(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    metrics = ["accuracy", {"name": "calibration-error", "bins": 4}]
    edit(copy / "run.json", lambda record: record["tasks"]["tone"]["config"].update(metrics=metrics))
    assert "in 4 bins" in reliability_charts(RunFiles(copy))[0]
