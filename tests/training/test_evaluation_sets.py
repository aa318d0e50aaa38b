"""A task with several dev and test sets, filters and groups: trained, measured, compared, and shown set by set."""

import json
import random
import re
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

import mtlcli
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError
from mtlcli.evaluation.compare import compare
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.evaluation.table import bounds_of, read, tabulate
from mtlcli.report.run_files import RunFiles
from mtlcli.runs.ensemble import choose, write
from mtlcli.runs.seeds import Group, write_group
from mtlcli.studies.methods import find_methods
from mtlcli.studies.plan import plan_study
from mtlcli.studies.results import legend
from mtlcli.studies.run import run_study
from mtlcli.training.events import Evaluated
from mtlcli.training.loop import train
from mtlcli.training.run import open_training, run_training
from mtlcli.training.setup import set_up
from small import WORDS, small_values, write_files

LANGUAGES = ("de", "en", "fr")


def write_rows(path: Path, count: int, seed: int) -> None:
    """Rows of `tone` with a language and the document they come from."""
    chance = random.Random(seed)
    texts = [" ".join(chance.choices(WORDS, k=6)) for _ in range(count)]
    lines = [
        f"{text}\t{'good' if 'cat' in text or 'red' in text else 'bad'}\t{LANGUAGES[row % 3]}\td{row // 6}\n"
        for row, text in enumerate(texts)
    ]
    path.write_text("sentence\tlabel\tlanguage\tdocument\n" + "".join(lines))


def tone(folder: Path, **changes: Any) -> dict[str, Any]:
    languages, other = str(folder / "languages.tsv"), str(folder / "other.tsv")
    return {
        "kind": "classification",
        "train": str(folder / "rows.tsv"),
        "dev": {"de": {"file": languages, "where": {"language": "de"}}, "other": other},
        "test": {"fr": {"file": languages, "where": {"language": "fr"}}, "other": other},
        **changes,
    }


def config(folder: Path, changes: dict[str, Any] | None = None, **sections: Any) -> Config:
    values = small_values(folder)
    values["tasks"] = {"tone": tone(folder, **(changes or {})), "same": values["tasks"]["same"]}
    values["training"] |= sections.pop("training", {})
    return resolve([Layer(values | sections)])


def trained(to: Path, settings: Config) -> Path:
    for _ in train(set_up(settings), to):
        pass
    return to


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, the run `a`, and `b` with another seed, which groups rows by document."""
    folder = write_files(tmp_path_factory.mktemp("sets"))
    for name, count, seed in (("rows", 60, 1), ("languages", 60, 2), ("other", 24, 3)):
        write_rows(folder / f"{name}.tsv", count, seed)
    trained(folder / "a", config(folder))
    trained(folder / "b", config(folder, {"group": "document"}, training={"seed": 7}))
    return folder


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())["tasks"]


def evaluations(run: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "evaluation"]


# Training


def test_every_set_is_measured_by_name_and_their_mean_is_dev(place):
    stored = results(place / "a")
    assert {task: list(splits) for task, splits in stored.items()} == {
        "tone": ["dev.de", "dev.other", "dev"],
        "same": ["dev"],
    }
    de, other, mean = (stored["tone"][split]["accuracy"] for split in ("dev.de", "dev.other", "dev"))
    assert (de["n"], other["n"], mean["n"], mean["sets"]) == (20, 24, 44, ["de", "other"])
    assert mean["value"] == pytest.approx((de["value"] + other["value"]) / 2)
    assert "sets" not in de and "groups" not in mean
    names = ["same.dev.jsonl", "tone.dev.de.jsonl", "tone.dev.other.jsonl"]
    assert sorted(path.name for path in (place / "a" / "predictions").iterdir()) == names


def test_the_log_has_every_set_and_the_score_is_of_their_mean(place):
    for line in evaluations(place / "a"):
        for key in ("accuracy", "macro-f1", "loss"):
            assert line[f"eval/tone/{key}"] == pytest.approx(
                fmean(line[f"eval/tone/{part}/{key}"] for part in ("de", "other"))
            )
        assert line["score"] == pytest.approx((line["eval/tone/accuracy"] + line["eval/same/accuracy"]) / 2)


def test_one_set_can_be_chosen_to_select_the_checkpoint(place, tmp_path):
    settings = config(place, {"select_dev": "other"}, training={"select_by": "tone.accuracy"})
    events = [event for event in train(set_up(settings), tmp_path / "run") if isinstance(event, Evaluated)]
    for event in events:
        assert event.score == event.metrics["tone"]["accuracy"] == event.sets["tone"]["other"]["accuracy"]
        assert set(event.sets) == {"tone"} and set(event.sets["tone"]) == {"de", "other"}
    stored = results(tmp_path / "run")["tone"]
    assert stored["dev"]["accuracy"]["sets"] == ["other"]
    assert stored["dev"]["accuracy"]["value"] == stored["dev.other"]["accuracy"]["value"]


def test_the_plan_counts_the_rows_of_all_sets_and_warns_of_each(place, tmp_path):
    write_files(tmp_path)
    for name in ("rows", "languages"):
        shutil.copy(place / f"{name}.tsv", tmp_path)
    shutil.copy(place / "rows.tsv", tmp_path / "other.tsv")
    plan = set_up(config(tmp_path)).plan
    assert plan.tasks[0].dev_rows == 80
    assert (
        "tone: all 60 dev other rows are training rows, so dev metrics do not measure generalization" in plan.warnings
    )
    assert any(note.startswith("tone dev de: 40 rows of ") for note in plan.notes)


def test_a_resumed_run_is_the_same_and_other_rows_of_a_set_are_noticed(place, tmp_path):
    shutil.copytree(place, tmp_path / "files")
    settings = config(tmp_path / "files", {"group": "document"})
    events = run_training(open_training(lambda stored, resumed: settings, tmp_path / "run"), stop=lambda: True)
    assert [event.why for event in events if hasattr(event, "why")] == ["interrupted"]

    def resume() -> None:
        for _ in run_training(open_training(lambda stored, resumed: settings, tmp_path / "run", resume=True)):
            pass

    resume()
    expected = results(trained(tmp_path / "whole", settings))
    assert results(tmp_path / "run") == expected
    (tmp_path / "run" / "results.json").unlink()
    write_rows(tmp_path / "files" / "other.tsv", 24, 9)
    with pytest.raises(MtlError, match=r"the rows of tone\.dev\.other have changed since this run was trained"):
        resume()


def test_features_of_a_frozen_encoder_are_kept_for_every_set(place, tmp_path):
    stages = {"name": "stages", "stages": [{"steps": 24, "freeze": ["encoder"]}]}
    both = []
    for memory in (2.0, 0.0):
        settings = config(place, scheduler=stages, training={"steps": 24, "feature_memory": memory})
        run = trained(tmp_path / f"run-{memory}", settings)
        both.append([line["eval/tone/de/accuracy"] for line in evaluations(run)])
    log = (tmp_path / "run-2.0" / "train.log").read_text()
    assert "tone: the encoder is frozen: encoding 104 texts once" in log  # 60 of train, 20 and 24 of dev
    assert both[0] == both[1]


def test_a_probe_draws_rows_of_the_sets_that_select_checkpoints(place, tmp_path):
    bandit = {"name": "bandit", "hold": 2, "batches": 10}
    settings = config(place, {"select_dev": ["de"]}, scheduler=bandit)
    run = set_up(settings)
    for _ in train(run, tmp_path / "run"):
        pass
    assert run.scheduler.pulls > 0 and [len(split) for split in run.selecting("tone")] == [20]


# Evaluation


def test_evaluation_measures_all_sets_or_one(place):
    run = place / "a"
    evaluation = evaluate(run, resamples=100)
    measured, notes = evaluation.results, list(evaluation.notes)
    assert list(measured["tone"]) == ["dev.de", "dev.other", "dev", "test.fr", "test.other", "test"]
    assert measured["tone"]["dev.de"]["accuracy"].value == pytest.approx(
        results(run)["tone"]["dev.de"]["accuracy"]["value"]
    )
    assert measured["tone"]["test"]["accuracy"].sets == ("fr", "other")
    assert any("tone test fr: 40 rows of" in note and 'language is "fr"' in note for note in notes)
    evaluation = evaluate(run, splits=["dev.de"], resamples=10)
    one, notes = evaluation.results, list(evaluation.notes)
    assert {task: list(splits) for task, splits in one.items()} == {"tone": ["dev.de"]}
    assert "same: no labeled rows of dev.de" in notes


def test_the_mean_needs_every_set_that_selects_checkpoints(place):
    assert list(evaluate(place / "a", splits=["dev.de", "dev.other"], resamples=10)["tone"]) == [
        "dev.de",
        "dev.other",
        "dev",
    ]


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ("dev.dee", '--split dev.dee: no task has this set; did you mean "dev.de"?'),
        ("test.de", '--split test.de: no task has this set; did you mean "test.fr"?'),
        ("dev.", "--split dev.: expected one of dev, test, train, or a set such as dev.NAME"),
        ("train.x", "--split train.x: expected one of dev, test, train, or a set such as dev.NAME"),
        ("valid", "--split valid: expected one of dev, test, train, or a set such as dev.NAME"),
    ],
)
def test_a_set_that_is_not_there_is_one_line(place, split, problem):
    with pytest.raises(MtlError) as error:
        evaluate(place / "a", splits=[split])
    assert error.value.lines == (problem,)


def test_another_file_is_filtered_and_grouped_as_set_says(place):
    rows = [("tone", [str(place / "languages.tsv")])]
    whole = evaluate(place / "b", rows, resamples=10)
    assert (whole["tone"]["dev"]["accuracy"].n, whole["tone"]["dev"]["accuracy"].groups) == (60, 10)
    changes = [(("tasks", "tone", "where"), {"language": ["en", "fr"]}), (("tasks", "tone", "group"), None)]
    evaluation = evaluate(place / "b", rows, changes=changes, resamples=10)
    part, notes = evaluation.results, list(evaluation.notes)
    assert (part["tone"]["dev"]["accuracy"].n, part["tone"]["dev"]["accuracy"].groups) == (40, None)
    assert any("20 rows of" in note and 'language is "en" or "fr"' in note for note in notes)
    of_set = evaluate(place / "b", rows, splits=["test.fr"], resamples=10)
    assert of_set["tone"]["test.fr"]["accuracy"].n == 20


def test_a_filter_on_the_command_line_leaves_the_stored_predictions_alone(place, tmp_path):
    run = shutil.copytree(place / "a", tmp_path / "run")
    before = (run / "predictions" / "tone.dev.other.jsonl").read_bytes()
    evaluate(run, changes=[(("tasks", "tone", "where"), {"document": "d0"})], splits=["dev.other"], resamples=10)
    assert (run / "predictions" / "tone.dev.other.jsonl").read_bytes() == before


def test_python_reads_the_sets_by_name(place):
    run = mtlcli.Run(place / "a")
    stored = results(place / "a")["tone"]
    assert run.results["tone"]["accuracy"].value == stored["dev"]["accuracy"]["value"]
    assert run.results["tone"]["accuracy"].sets == ("de", "other")
    assert {task: list(metrics) for task, metrics in run.results_on("dev.de").items()} == {
        "tone": ["accuracy", "macro-f1"]
    }
    assert mtlcli.evaluate(run, split="dev.de", resamples=10)["tone"]["dev.de"]["accuracy"].n == 20


# Groups


def test_groups_are_in_the_results_and_in_the_predictions(place):
    stored = results(place / "b")["tone"]
    assert [stored[split]["accuracy"]["groups"] for split in ("dev.de", "dev.other", "dev")] == [10, 4, 14]
    rows = [
        json.loads(line) for line in (place / "b" / "predictions" / "tone.dev.other.jsonl").read_text().splitlines()
    ]
    assert [row["group"] for row in rows] == [f"d{row // 6}" for row in range(24)]
    assert "groups" not in results(place / "b")["same"]["dev"]["accuracy"]


def test_finished_runs_are_compared_by_the_groups_of_either(place, tmp_path):
    twins = [place / "a", shutil.copytree(place / "a", tmp_path / "copy")]
    assert [row.difference.groups for row in compare(twins, resamples=100).compared] == [None, None, None]
    for folders in ([place / "a", place / "b"], [place / "b", place / "a"]):
        compared = compare(folders, resamples=200).compared
        assert [(row.name, row.split, row.difference.n, row.difference.groups) for row in compared] == [
            ("tone de", "dev.de", 20, 10),
            ("tone other", "dev.other", 24, 4),
            ("same", "dev", 30, None),
        ]
    de = compare([place / "a", place / "b"], split="dev.de", resamples=200).compared
    assert [(row.task, row.split) for row in de] == [("tone", "dev.de")]


def test_runs_with_other_groups_are_a_note(place, tmp_path):
    other = shutil.copytree(place / "b", tmp_path / "other")
    path = other / "predictions" / "tone.dev.other.jsonl"
    path.write_text(re.sub(r'"group": "d(\d)"', '"group": "x"', path.read_text()))
    notes = compare([place / "b", other], resamples=100).notes
    first = place / "b" / "predictions" / "tone.dev.other.jsonl"
    assert f"tone other: {path} has other groups than {first}, whose groups are used" in notes


def test_other_rows_in_a_set_are_named_with_the_set(place, tmp_path):
    other = shutil.copytree(place / "b", tmp_path / "other")
    path = other / "predictions" / "tone.dev.de.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(MtlError, match=r"^tone de: .*tone\.dev\.de\.jsonl do not have the same rows"):
        compare([place / "b", other])
    path.write_text("{")
    with pytest.raises(MtlError, match=r"damaged; write it again: mtl eval .* --split dev\.de"):
        compare([place / "b", other])


# What shows results


def test_a_table_shows_the_mean_or_one_set_or_all(place):
    measured = read([place / "a", place / "b"])
    assert tabulate(measured, bounds=bounds_of(measured)).titles == ("tone accuracy", "same accuracy")
    one = read([place / "a", place / "b"], split="dev.de")
    assert tabulate(one, bounds=bounds_of(one)).titles == ("tone accuracy",)
    every = read([place / "a", place / "b"], sets=True)
    table = tabulate(every, bounds=bounds_of(every))
    assert table.titles == ("tone de accuracy", "tone other accuracy", "tone accuracy", "same accuracy")
    for row in table.rows:
        assert row.mean.mean == pytest.approx((row.cells[2].mean + row.cells[3].mean) / 2)
    with pytest.raises(MtlError, match=r'has no results of dev\.dee; did you mean "dev\.de"\?'):
        read([place / "a"], split="dev.dee")


def test_seeds_have_a_spread_for_every_set(place, tmp_path):
    group = Group(tmp_path / "group", (1, 2))
    for name, run in zip(("a", "b"), group.runs, strict=True):
        shutil.copytree(place / name, run)
    write_group(group)
    kept = json.loads((group.folder / "seeds.json").read_text())["tasks"]["tone"]
    assert list(kept) == ["dev.de", "dev.other", "dev"]
    values = [results(place / name)["tone"]["dev.de"]["accuracy"]["value"] for name in ("a", "b")]
    assert kept["dev.de"]["accuracy"]["values"] == values


def test_an_ensemble_measures_every_set_and_knows_its_members_by_the_mean(place, tmp_path):
    chosen = choose([place / "a", place / "b"], {})
    mean = {index: results(place / name)["tone"]["dev"]["accuracy"]["value"] for index, name in enumerate(("a", "b"))}
    assert chosen.tasks[0].members == pytest.approx(mean) and chosen.notes == ()
    write(chosen, tmp_path / "both")
    evaluate(tmp_path / "both", splits=["dev"], resamples=10)
    kept = json.loads((tmp_path / "both" / "results.json").read_text())["tasks"]["tone"]
    assert list(kept) == ["dev.de", "dev.other", "dev"]
    assert (tmp_path / "both" / "predictions" / "tone.dev.other.jsonl").is_file()


def test_an_ensemble_of_runs_with_other_rows_in_a_set_is_a_note(place, tmp_path):
    other = shutil.copytree(place / "b", tmp_path / "other")
    path = other / "predictions" / "tone.dev.de.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    (note,) = choose([place / "a", other], {}).notes
    assert note.startswith("tone: ") and "tone.dev.de.jsonl has 1 of 19 rows" in note


def test_a_report_has_the_metrics_of_every_set(place):
    files = RunFiles(place / "b")
    assert list(files.dev_results("tone")) == ["de", "other", "mean"] and list(files.dev_results("same")) == [""]
    assert list(files.predictions) == ["tone de", "tone other", "same"]
    assert {title: int(counts.sum()) for title, (_, counts) in files.confusions.items()} == {
        "tone de": 20,
        "tone other": 24,
        "same": 30,
    }


def test_a_study_judges_by_the_mean_and_keeps_every_set(place, tmp_path):
    plan = plan_study(config(place), find_methods(["equal"]), [1], single_task=False, trials=0)
    for _ in run_study(plan, tmp_path / "study"):
        pass
    (record,) = plan.study.records
    assert set(record.sets) == {"tone"}
    de, other = (record.sets["tone"][part]["accuracy"] for part in ("de", "other"))
    assert record.metrics["tone"]["accuracy"] == pytest.approx((de + other) / 2)
    assert any(line.startswith("tone: has the dev sets de, other;") for line in legend(plan.study))
