"""The page of `mtl report`: numbers in the right places, nothing from outside, nothing that breaks on strange names."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from mtlcli.cli import main
from mtlcli.report import page, svg
from mtlcli.report import sections as contents
from mtlcli.report.embeddings import clouds, project
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


def test_a_long_curve_becomes_means_of_equal_parts():
    found = contents.thinned([(step, step % 2) for step in range(3000)])  # 150 parts of 20 steps
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
    assert page.section("Balance", "", page.charts("x", ["", ""])) == ""


def test_names_cannot_break_the_page():
    found = svg.matrix("<b>", ["a&b", "<i>"], [[3, 1], [0, 2]]) + page.table(["<th>"], [["<td>"]])
    assert "<b>" not in found
    assert "<i>" not in found
    assert "a&amp;b" in found
    assert "&lt;td&gt;" in found


def test_the_cells_of_the_confusion_matrix_are_counts_of_the_predictions(run):
    rows = [json.loads(line) for line in (run / "predictions" / "tone.dev.jsonl").read_text().splitlines()]
    labels = list(rows[0]["probabilities"])
    drawn = next(one for one in contents._confusion(run) if "<figcaption>tone<" in one)
    for expected in labels:
        for predicted in labels:
            count = sum(row["target"] == expected and row["label"] == predicted for row in rows)
            assert f"<title>{expected} as {predicted}: {count}</title>" in drawn


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
    assert not re.search(r"(src|href)=|url\(|@import|https?://", text)
    for part in (
        "Mixing plan",
        "Metrics on dev",
        "tone: loss",
        "Weight of each task",
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
