"""Ensembles: averages worked out by hand, who is chosen, what the folder holds, and what is said of a member that changed."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from mtlcli.data.readers import FileSource
from mtlcli.errors import MtlError
from mtlcli.inference.predict import find_readings, predict
from mtlcli.inference.predictor import open_run
from mtlcli.runs.ensemble import check_place, choose, read, write
from mtlcli.runs.names import ENSEMBLE as FILE
from mtlcli.runs.seeds import Group, write_group
from mtlcli.tasks.targets import Arrays, Classes, Ragged, Score, Target
from sealed import edit
from trained import other, sentence, trained

CPU = torch.device("cpu")


NO_YES = Classes.named("no", "yes")


def classes(*rows) -> Arrays:
    probabilities = np.array(rows)
    return Ragged({"index": probabilities.argmax(1), "probabilities": probabilities})


def scores(*values) -> Arrays:
    return Ragged({"value": np.array(values)})


def average(votes: list[Arrays], target: Target = NO_YES) -> Arrays:
    return target.average(votes, [target] * len(votes))


# Averages by hand


def test_probabilities_are_averaged_and_the_largest_mean_wins():
    mean = average([classes([0.6, 0.4], [0.9, 0.1]), classes([0.2, 0.8], [0.7, 0.3])])
    np.testing.assert_allclose(mean["probabilities"], [[0.4, 0.6], [0.8, 0.2]])  # (.6 + .2) / 2 and (.9 + .7) / 2
    assert mean["index"].tolist() == [1, 0]


def test_one_sure_run_outweighs_two_that_are_hardly_decided():
    votes = [classes([0.55, 0.45]), classes([0.55, 0.45]), classes([0.1, 0.9])]
    assert average(votes)["index"].tolist() == [1]  # 1.2 / 3 against 1.8 / 3


def test_scores_are_averaged_in_the_units_of_the_data():
    assert average([scores(1.0, 4.0), scores(2.0, 2.0)], Score(0.0, 5.0))["value"].tolist() == [1.5, 3.0]


def test_a_vote_alone_is_left_as_it_is():
    shares = np.array([[0.7, 0.3]], dtype=np.float32)
    alone = Ragged({"index": np.array([1]), "probabilities": shares})  # a head may decode as it likes
    found = average([alone])
    assert found["index"] is alone["index"] and found["probabilities"] is shares


def test_a_vote_without_probabilities_is_sure_of_its_class():
    sure = Ragged({"index": np.array([0, 1])})
    mean = average([sure, classes([0.2, 0.8], [0.2, 0.8])])
    np.testing.assert_allclose(mean["probabilities"], [[0.6, 0.4], [0.1, 0.9]])


def test_labels_are_matched_by_name():
    votes = [classes([0.5, 0.2, 0.3], [0.1, 0.2, 0.7])]
    found = Classes.named("c", "a", "b").average(votes, [Classes.named("a", "b", "c")])
    np.testing.assert_allclose(found["probabilities"], [[0.3, 0.5, 0.2], [0.7, 0.1, 0.2]])
    assert found["index"].tolist() == [1, 0]  # a, which is number 1 now, and c


# Who is chosen


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    """Copies of both runs in one folder, which may be damaged."""
    return shutil.copytree(trained(), tmp_path / "a"), shutil.copytree(other(), tmp_path / "b")


def on_dev(run: Path, task: str, metric: str, value: float, n: int = 30) -> None:
    """Sets what a run's results.json says of a task."""

    def change(results):
        results["tasks"][task]["dev"][metric] = {"value": value, "low": value, "high": value, "n": n}

    edit(run / "results.json", change)


def errors(*arguments) -> tuple[str, ...]:
    with pytest.raises(MtlError) as caught:
        choose(*arguments)
    return caught.value.lines


def test_without_a_threshold_every_run_that_has_the_task_is_a_member(runs):
    found = choose(runs, {})
    assert {task.task: list(task.members) for task in found.tasks} == {
        "tone": [0, 1], "stars": [0], "same": [0, 1], "near": [0, 1],
    }  # fmt: skip
    stored = json.loads((runs[1] / "results.json").read_text())["tasks"]["tone"]["dev"]["accuracy"]["value"]
    assert found.tasks[0].metric == "accuracy"
    assert found.tasks[0].members[1] == stored


def test_a_threshold_keeps_the_runs_that_reach_it(runs):
    on_dev(runs[0], "tone", "accuracy", 0.8)
    on_dev(runs[1], "tone", "accuracy", 0.7)
    for value, members in ((0.6, [0, 1]), (0.7, [0, 1]), (0.71, [0]), (0.8, [0])):
        task = choose(runs, {"tone": value}).tasks[0]
        assert list(task.members) == members
        assert dict(task.left_out) == ({1: 0.7} if members == [0] else {})


def test_where_lower_is_better_a_threshold_is_the_most_that_is_allowed(runs):
    for run, value in zip(runs, (1.5, 2.5), strict=True):
        edit(run / "run.json", lambda record: record["tasks"]["near"].update(metrics=["mean-squared-error"]))
        on_dev(run, "near", "mean-squared-error", value)
    assert list(choose(runs, {"near": 2.0}).tasks[3].members) == [0]
    assert errors(runs, {"near": 1.0}) == (
        f"--threshold near=1: no run has mean-squared-error at most that; the best is {runs[0]} with 1.5000",
    )


def test_a_threshold_that_nobody_reaches_names_the_best_run(runs):
    on_dev(runs[0], "tone", "accuracy", 0.8)
    on_dev(runs[1], "tone", "accuracy", 0.7)
    assert errors(runs, {"tone": 0.9, "tome": 1.0}) == (
        '--threshold tome=1: no run has such a task; did you mean "tone"?',
        f"--threshold tone=0.9: no run has accuracy at least that; the best is {runs[0]} with 0.8000",
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("{"),
        lambda path: edit(path, lambda results: results["tasks"].pop("tone")),
        lambda path: edit(path, lambda results: results.update(selected_step=5)),  # of other weights
    ],
)
def test_a_run_without_a_result_has_a_say_until_it_is_asked_for_one(runs, change):
    change(runs[1] / "results.json")
    assert dict(choose(runs, {}).tasks[0].members)[1] is None
    (error,) = errors(runs, {"tone": 0.1})
    assert error.startswith(f"{runs[1]}: results.json has no accuracy of tone on dev for these weights")


def test_fewer_than_two_runs_and_one_named_twice_are_refused(runs):
    assert errors(runs[:1], {}) == (f"an ensemble needs two runs or more; found {runs[0]}",)
    again = runs[0].parent / "b" / ".." / "a"
    assert errors([*runs, again], {}) == (f"{again}: the run is named twice; name it once",)


def test_a_group_of_seeds_stands_for_its_runs(tmp_path):
    group = Group(tmp_path / "group", (1, 2))
    for seed in group.seeds:
        shutil.copytree(trained(), group.run(seed))
    write_group(group)
    alone = shutil.copytree(other(), tmp_path / "b")
    assert [run.folder for run in choose([alone, group.folder], {}).runs] == [alone, *group.runs]
    shutil.rmtree(group.run(2))
    assert errors([group.folder, alone], {}) == (
        f"{group.folder}: seed-2 not finished; resume with: mtl train --resume --output {group.folder}",
    )


def test_an_ensemble_of_ensembles_is_refused_with_the_runs_to_name(runs, tmp_path):
    write(choose(runs, {}), tmp_path / "ensemble")
    assert errors([runs[0], tmp_path / "ensemble"], {}) == (
        f"{tmp_path}/ensemble: is an ensemble itself; name its runs instead: {runs[0]}, {runs[1]}",
    )


def test_every_run_that_is_missing_or_damaged_is_named_at_once(runs, tmp_path):
    (runs[0] / "heads.safetensors").unlink()
    assert errors([*runs, tmp_path / "c"], {}) == (
        f"{runs[0]}/heads.safetensors: is missing; write it again from the checkpoint: mtl train --resume --output {runs[0]}",
        f"{tmp_path}/c: there is no such run folder",
    )


def test_tasks_of_one_name_that_mean_something_else_are_refused(runs):
    def change(record):
        record["tasks"]["tone"]["facts"]["target"]["values"] = {"good": "good", "poor": "poor"}
        record["tasks"]["near"]["text"] = ["sentence"]

    edit(runs[1] / "run.json", change)
    assert errors(runs, {}) == (
        f'{runs[1]}: its task "tone" has one text and the labels good, poor, that of {runs[0]} one text and the labels bad, good; '
        "leave one of the two runs out",
        f'{runs[1]}: its task "near" has one text and a score, that of {runs[0]} two texts and a score; '
        "leave one of the two runs out",
    )


def other_texts(run, task: str, count: int) -> None:
    """Give the first rows of a run's dev predictions the digests of other texts."""
    path = run / "predictions" / f"{task}.dev.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows[:count]):
        row["digest"] = f"{number:016x}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_makes_the_metrics_or_scores_hard_to_compare_is_noted(runs):
    other_texts(runs[1], "same", 3)
    edit(runs[1] / "run.json", lambda record: record["tasks"]["near"]["facts"]["target"].update(low=0.0, high=1.0))
    found = choose(runs, {})
    files = [run / "predictions" / "same.dev.jsonl" for run in runs]
    problem = (
        f"{files[1]} has 3 of 30 rows that {files[0]} does not have, so their metrics are about different rows; "
        "measure both on the same dev file"
    )
    assert found.notes[0] == f"same: {problem}"
    assert found.notes[1].startswith(
        f"near: the runs have scores of different ranges ({runs[0]} 7 to 20, {runs[1]} 0 to 1)"
    )


def test_a_threshold_is_refused_where_the_runs_were_measured_on_other_texts(runs):
    other_texts(runs[1], "same", 3)
    (line,) = errors(runs, {"same": 0.1})
    assert line.startswith("--threshold same=0.1: ") and "3 of 30 rows" in line


def test_a_run_that_is_good_enough_for_nothing_is_noted_and_not_listed(runs, tmp_path):
    for task, metric in (("tone", "accuracy"), ("same", "accuracy"), ("near", "pearson")):
        on_dev(runs[0], task, metric, 0.8)
        on_dev(runs[1], task, metric, 0.1)
    found = choose(runs, {"tone": 0.5, "same": 0.5, "near": 0.5})
    assert found.notes == (f"{runs[1]}: not used for any task",)
    write(found, tmp_path / "ensemble")
    assert list(json.loads((tmp_path / "ensemble" / FILE).read_text())["runs"]) == ["../a"]


# The folder


@pytest.fixture
def ensemble(runs, tmp_path) -> Path:
    write(choose(runs, {}), tmp_path / "ensemble")
    return tmp_path / "ensemble"


def refused(folder: Path) -> tuple[str, ...]:
    with pytest.raises(MtlError) as caught:
        open_run(folder)
    return caught.value.lines


def test_the_file_can_be_read_by_people(ensemble):
    content = json.loads((ensemble / FILE).read_text())
    assert list(content["runs"]) == ["../a", "../b"]
    assert list(content["tasks"]["tone"]) == ["metric", "threshold", "members", "left_out"]
    assert list(content["tasks"]["stars"]["members"]) == ["../a"]
    assert [path.name for path in ensemble.iterdir()] == [FILE]


def test_ensemble_and_runs_may_move_together(ensemble, tmp_path):
    (tmp_path / "moved").mkdir()
    for name in ("a", "b", "ensemble"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert [run.folder for run in open_run(tmp_path / "moved" / "ensemble").runs] == [
        tmp_path / "moved" / "a", tmp_path / "moved" / "b",
    ]  # fmt: skip


def test_runs_below_the_current_folder_are_named_from_there(ensemble, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [run.folder for run in open_run(Path("ensemble")).runs] == [Path("a"), Path("b")]


def test_members_that_are_gone_or_were_trained_anew_are_all_named(ensemble, tmp_path):
    edit(tmp_path / "a" / "run.json", lambda record: record.update(score=0.123))
    shutil.rmtree(tmp_path / "b")
    assert refused(ensemble) == (
        f"{ensemble}/ensemble.json: {tmp_path}/a: is not the run that was chosen: its run.json has changed since; "
        f"make it again: mtl ensemble RUN... --output {ensemble} --overwrite",
        f"{ensemble}/ensemble.json: {tmp_path}/b: there is no such run folder",
    )


def test_a_member_with_other_weights_is_named_when_it_is_loaded(ensemble, tmp_path):
    weights = tmp_path / "b" / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    outline = open_run(ensemble)
    with pytest.raises(MtlError, match=r"b/encoder/model\.safetensors: is not as it was written"):
        outline.load(CPU)


def test_what_is_not_asked_for_is_not_loaded(ensemble, tmp_path):
    (tmp_path / "b" / "heads.safetensors").unlink()
    predictor, _ = open_run(ensemble).load(CPU, {1})  # stars, which the first run alone knows
    assert [len(voters) for voters in predictor.members] == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_text("{"), "damaged (it is not JSON)"),
        (lambda path: path.write_text("[]"), "damaged (found list, expected an object)"),
        (lambda path: edit(path, lambda content: content.pop("runs")), "(KeyError: 'runs')"),
        (lambda path: edit(path, lambda content: content.update(tasks={})), "a task without members"),
        (lambda path: edit(path, lambda content: content["tasks"]["tone"].update(members={})), "a task without members"),
        (lambda path: edit(path, lambda content: content["tasks"]["tone"].update(members={"../c": 1})), "'../c' is not in"),
        (lambda path: edit(path, lambda content: content["tasks"]["stars"]["members"].update({"../b": 1})), "has no task"),
        (lambda path: edit(path, lambda content: content.update(format=99, mtlcli="9.0")), "format 99 was written by mtlcli 9.0"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_line(ensemble, change, message):
    change(ensemble / FILE)
    (error,) = refused(ensemble)
    assert error.startswith(f"{ensemble}/ensemble.json: ")
    assert message in error


def test_nothing_but_an_ensemble_is_replaced_and_that_only_when_asked(ensemble, tmp_path):
    check_place(tmp_path / "new", overwrite=False)
    check_place(ensemble, overwrite=True)
    for place, overwrite, message in (
        (ensemble, False, "add --overwrite"),
        (tmp_path / "a", True, "something else than an ensemble"),
        (ensemble / FILE, True, "is a file"),
    ):
        with pytest.raises(MtlError, match=message):
            check_place(place, overwrite=overwrite)


def test_what_an_ensemble_before_it_predicted_is_removed(ensemble, runs):
    (ensemble / "predictions").mkdir()
    write(choose(runs, {}), ensemble)
    assert [path.name for path in ensemble.iterdir()] == [FILE]


# What it predicts


def test_an_ensemble_says_the_mean_of_what_its_runs_say(tmp_path, ensemble, runs):
    """The runs differ in tokenizer, encoder, encoding of pairs and order of labels."""
    import random

    chance = random.Random(3)
    texts = [f"{sentence(chance)}\t{sentence(chance)}" for _ in range(70)]
    (tmp_path / "pairs.tsv").write_text(
        "sentence1\tsentence2\tsentence\n" + "".join(f"{t}\t{sentence(chance)}\n" for t in texts)
    )
    source = FileSource(tmp_path / "pairs.tsv")

    def answers(folder: Path, *wanted: str) -> list[dict]:
        outline = open_run(folder)
        readings = find_readings(outline.record, source, wanted)
        predictor, _ = outline.load(CPU, [index for reading in readings for index in reading.tasks])
        rows = predict(predictor, source, readings, device=CPU, autocast=nullcontext(), window=16)
        return [{task: prediction.as_json(exact=True) for task, prediction in found.items()} for _, found in rows]

    ours, first, second = answers(ensemble), answers(runs[0]), answers(runs[1])
    assert len(ours) == 70
    for joined, a, b in zip(ours, first, second, strict=True):
        assert list(joined) == ["tone", "stars", "same", "near"]
        for task in ("tone", "same"):
            ours_of, of_a, of_b = (row[task]["probabilities"] for row in (joined, a, b))
            assert list(ours_of) == list(of_a)
            for label, p in ours_of.items():
                assert p == pytest.approx((of_a[label] + of_b[label]) / 2, abs=2e-6)  # six digits are written
            assert joined[task]["label"] == max(ours_of, key=ours_of.get)
        assert joined["near"]["score"] == pytest.approx((a["near"]["score"] + b["near"]["score"]) / 2, abs=1e-5)
        assert joined["stars"]["score"] == pytest.approx(a["stars"]["score"], abs=1e-6)
    for joined, alone in zip(answers(ensemble, "near"), ours, strict=True):
        assert joined["near"]["score"] == pytest.approx(alone["near"]["score"], abs=1e-5)


def test_scores_of_an_ensemble_span_the_ranges_of_its_runs(runs, tmp_path):
    edit(runs[1] / "run.json", lambda record: record["tasks"]["near"]["facts"]["target"].update(low=0.0, high=3.0))
    write(choose(runs, {}), tmp_path / "ensemble")
    outline = open_run(tmp_path / "ensemble")
    assert outline.facts[outline.task("near")].target.range == (0.0, 20.0)


def test_a_file_that_is_read_gives_numbers_and_not_names(ensemble):
    runs, voters = read(ensemble)
    assert [run.folder.name for run in runs] == ["a", "b"]
    assert voters == {"tone": (0, 1), "stars": (0,), "same": (0, 1), "near": (0, 1)}
