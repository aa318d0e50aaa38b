"""Comparing runs by the predictions that they left."""

import json
import shutil
from pathlib import Path

import pytest

from mtlcli.errors import MtlError
from mtlcli.evaluation.compare import compare
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.runs.seeds import Group, write_group
from sealed import edit
from trained import trained


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Path, Path]:
    """Two copies of the trained run that a test may change."""
    return shutil.copytree(trained(), tmp_path / "a"), shutil.copytree(trained(), tmp_path / "b")


def change(run: Path, task: str, edit, split: str = "dev") -> None:
    """Rewrites a file of predictions; `edit` gets the rows and may change them."""
    path = run / "predictions" / f"{task}.{split}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = edit(rows) or rows
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def all_right(rows: list[dict]) -> None:
    for row in rows:
        row["label"] = row["target"]


def all_wrong(rows: list[dict]) -> None:
    for row in rows:
        row["label"] = {"good": "bad", "bad": "good"}[row["target"]]


def only(found, task="tone"):
    return next(one for one in found.compared if one.task == task)


# What is found


def test_a_run_does_not_differ_from_its_copy(twins):
    found = compare(twins, resamples=100)
    assert [(one.task, one.metric) for one in found.compared] == [
        ("tone", "accuracy"),
        ("stars", "pearson"),
        ("same", "accuracy"),
        ("near", "pearson"),
    ]
    for one in found.compared:
        assert (one.difference.value, one.low, one.high, one.difference.p, one.better) == (0.0, 0.0, 0.0, 1.0, None)


def test_the_values_are_those_that_the_run_measured(twins):
    stored = json.loads((twins[0] / "results.json").read_text())["tasks"]
    for one in compare(twins, metrics=["all"], resamples=100).compared:
        assert one.difference.first == pytest.approx(stored[one.task]["dev"][one.metric]["value"], abs=1e-12)


def test_the_better_run_is_named_whichever_is_the_baseline(twins):
    change(twins[0], "tone", all_wrong)
    change(twins[1], "tone", all_right)
    forth, back = only(compare(twins, resamples=500)), only(compare(twins[::-1], resamples=500))
    assert (forth.difference.value, forth.better) == (1.0, 1)
    assert (back.difference.value, back.better) == (-1.0, 0)


def test_p_is_corrected_for_everything_that_was_compared(twins):
    change(twins[0], "tone", all_wrong)
    change(twins[1], "tone", all_right)
    found = only(compare(twins, resamples=500))
    assert found.difference.p == pytest.approx(1 / 501)
    assert found.p_holm == pytest.approx(4 / 501)  # four tasks, and this one has the smallest p


def test_every_other_run_is_compared_with_the_first(twins, tmp_path):
    third = shutil.copytree(twins[0], tmp_path / "c")
    change(twins[1], "tone", all_right)
    found = compare([*twins, third], tasks=["tone"], resamples=100)
    assert [one.other for one in found.compared] == [1, 2]
    assert found.compared[1].difference.value == 0.0


def test_labels_are_matched_by_name_not_by_number(twins):
    """A run that was trained with the labels in another order, or with one more, says the same thing."""

    def relabel(record):
        target = record["tasks"]["tone"]["facts"]["target"]
        target["values"] = {label: label for label in ["unknown", *list(target["values"])[::-1]]}

    edit(twins[0] / "run.json", relabel)
    assert only(compare(twins, resamples=100)).difference.value == 0.0


def test_a_target_that_training_never_saw_is_wrong_for_both(twins):
    def forget(rows):
        for row in rows[:3]:
            row["target"] = None

    for run in twins:
        change(run, "tone", all_right)
        change(run, "tone", forget)
    assert only(compare(twins, resamples=100)).difference.first == pytest.approx(27 / 30)


def test_a_run_that_says_always_the_same_is_worth_a_note(twins):
    change(twins[1], "tone", lambda rows: [row | {"label": "bad"} for row in rows])
    assert f"tone: {twins[1]} predicts the same for every row" in compare(twins, resamples=100).notes


def test_a_run_whose_scores_differ_by_rounding_is_worth_the_same_note(twins):
    change(
        twins[1], "near", lambda rows: [row | {"score": 2.5 + number % 2 * 2**-22} for number, row in enumerate(rows)]
    )
    assert f"near: {twins[1]} predicts the same for every row" in compare(twins, resamples=100).notes


def test_a_task_that_one_run_lacks_is_left_out_with_a_note(twins):
    (twins[1] / "predictions" / "same.dev.jsonl").unlink()
    found = compare(twins, resamples=100)
    assert [one.task for one in found.compared] == ["tone", "stars", "near"]
    assert f"same: left out, because it has no predictions on dev in {twins[1]}" in found.notes
    (twins[1] / "predictions" / "near.dev.jsonl").unlink()
    notes = compare(twins, resamples=100).notes
    assert f"same, near: left out, because they have no predictions on dev in {twins[1]}" in notes


def test_a_folder_with_predictions_alone_can_stand_against_a_run(twins, tmp_path):
    shutil.copytree(twins[1] / "predictions", tmp_path / "bare" / "predictions")
    assert only(compare([twins[0], tmp_path / "bare"], resamples=100)).difference.value == 0.0


# Groups of seeds


def group(folder: Path, *edits) -> Path:
    """A group whose runs are copies of the trained one, with `tone` changed."""
    made = Group(folder, tuple(range(1, len(edits) + 1)))
    for run, edited in zip(made.runs, edits, strict=True):
        shutil.copytree(trained(), run)
        change(run, "tone", edited)
    write_group(made)
    return folder


def test_groups_are_compared_by_their_means(tmp_path):
    def one_wrong(rows):
        all_right(rows)
        rows[0]["label"] = "bad" if rows[0]["target"] == "good" else "good"

    first = group(tmp_path / "first", all_wrong, one_wrong)
    second = group(tmp_path / "second", all_right, all_right, one_wrong)
    found = compare([first, second], tasks=["tone"], resamples=200)
    assert found.sides[1].seeds == (1, 2, 3)
    one = found.compared[0].difference
    assert one.firsts == pytest.approx((0, 29 / 30)) and one.seconds == pytest.approx((1, 1, 29 / 30))
    assert found.compared[0].better is None  # the first two runs differ so much that nothing can be said


def test_a_run_can_stand_against_a_group(twins, tmp_path):
    other = group(tmp_path / "other", all_right, all_right)
    change(twins[0], "tone", all_wrong)
    found = compare([twins[0], other], tasks=["tone"], resamples=500)
    assert found.compared[0].better == 1  # every seed of the other side is right everywhere


def test_a_group_with_a_run_to_go_is_refused(twins, tmp_path):
    other = group(tmp_path / "other", all_right, all_right)
    (other / "seed-2" / "results.json").unlink()
    with pytest.raises(
        MtlError, match=rf"{other}: seed-2 not finished; resume with: mtl train --resume --output {other}"
    ):
        compare([twins[0], other])


# What cannot be compared


def shorter(rows):
    return rows[:-1]


def other_texts(rows):
    for row in rows[:3]:
        row["digest"] = "0" * 16


def relabelled(rows):
    rows[4]["target"] = "bad" if rows[4]["target"] == "good" else "good"


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (shorter, "of 30 rows and 29, the texts of 1 are in the first file alone and those of 0 in the second"),
        (other_texts, "of 30 rows, the texts of 3 are in the first file alone and those of 3 in the second"),
        (
            relabelled,
            "1 of 30 have another target; the text of line 6 has '(good|bad)' and, in line 6, '(good|bad)'",
        ),
    ],
)
def test_other_rows_are_refused_with_the_task_and_the_first_difference(twins, edit, problem):
    change(twins[1], "tone", edit)
    with pytest.raises(
        MtlError, match=rf"tone: .*tone\.dev\.jsonl do not have the same rows: {problem}; compare runs"
    ) as error:
        compare(twins)
    assert len(error.value.lines) == 1


def test_rows_are_matched_by_their_texts_whatever_their_lines(twins):
    def shuffled(rows):
        return [row | {"line": number} for number, row in enumerate(rows[::-1], start=7)]

    change(twins[1], "tone", shuffled)
    change(twins[1], "stars", shuffled)
    compared = compare(twins, resamples=100).compared
    assert all((row.difference.value, row.difference.p) == (0.0, 1.0) for row in compared)


def test_interval_p_and_decision_agree(twins):
    """Few rows differ: the interval of one comparison excludes 0, but that is not enough for eight comparisons."""

    def better(rows):
        wrong = [row for row in rows if row["label"] != row["target"]]
        for row in wrong[:7]:
            row["label"] = row["target"]

    change(twins[0], "tone", all_wrong)
    change(twins[1], "tone", all_wrong)
    change(twins[1], "tone", better)
    alone = compare(twins, tasks=["tone"], resamples=2000).compared[0]
    assert alone.level == 0.95 and alone.low > 0 and alone.difference.p < 0.05 and alone.better == 1
    corrected = only(compare(twins, metrics=["all"], resamples=2000))
    assert corrected.p_holm > 0.05 and corrected.difference.low > 0
    assert corrected.level > 0.99 and corrected.low <= 0 and corrected.better is None


def test_all_tasks_with_other_rows_are_told_at_once(twins):
    for task in ("tone", "same"):
        change(twins[1], task, shorter)
    with pytest.raises(MtlError) as error:
        compare(twins)
    assert [line.split(":")[0] for line in error.value.lines] == ["tone", "same"]


def test_predictions_that_are_missing_come_with_the_command_that_makes_them(twins):
    for run in twins:
        for path in (run / "predictions").glob("*.test.jsonl"):
            path.unlink()
    with pytest.raises(MtlError) as error:
        compare(twins, split="test")
    assert error.value.lines == tuple(
        f"{run}: has no predictions of test; make them with: mtl eval {run} --split test" for run in twins
    )


def test_a_damaged_line_is_named(twins):
    path = twins[1] / "predictions" / "tone.dev.jsonl"
    path.write_text(path.read_text() + '{"line": 3, "lab\n')
    with pytest.raises(MtlError, match=rf"{path}:31: damaged; write it again: mtl eval {twins[1]} --split dev"):
        compare(twins)


def test_a_score_that_is_not_finite_is_refused(twins):
    change(twins[1], "stars", lambda rows: [row | {"score": float("nan")} for row in rows])
    with pytest.raises(MtlError, match=r"stars\.dev\.jsonl: a score is not finite; write it again: mtl eval"):
        compare(twins)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"tasks": ["tome"]}, 'no run has predictions of it on dev; did you mean "tone"'),
        ({"metrics": ["acuracy"]}, '--metric acuracy: no task has it; did you mean "accuracy"'),
        ({"split": "valid"}, "--split valid: expected one of dev, test, train"),
    ],
)
def test_a_wrong_question_says_what_could_be_asked(twins, options, problem):
    with pytest.raises(MtlError, match=problem):
        compare(twins, **options)


def test_one_run_alone_is_no_comparison(twins):
    with pytest.raises(MtlError, match="expected two or more runs"):
        compare(twins[:1])


def test_a_run_is_not_compared_with_itself(twins):
    with pytest.raises(MtlError, match="a: named twice; expected different runs"):
        compare([*twins, twins[0].parent / "b" / ".." / "a"])


def test_a_folder_that_is_no_run_says_so(twins, tmp_path):
    with pytest.raises(MtlError, match="there is no such run folder"):
        compare([twins[0], tmp_path / "none"])


def test_runs_without_a_common_task_have_nothing_to_compare(twins):
    for task in ("tone", "stars"):
        (twins[0] / "predictions" / f"{task}.dev.jsonl").unlink()
    for task in ("same", "near"):
        (twins[1] / "predictions" / f"{task}.dev.jsonl").unlink()
    with pytest.raises(MtlError, match="nothing to compare: the runs have no task in common on dev"):
        compare(twins)


# Options, probabilities and weights


def configure(run: Path, **values) -> None:
    """Change the section of `tone` in run.json, as if the run had been trained with it."""
    edit(run / "run.json", lambda record: record["config"]["tasks"]["tone"].update(values))


def with_weights(rows: list[dict]) -> None:
    for row in rows:
        row["weight"] = 10.0 if row["target"] == "good" else 1.0


def half_right(rows: list[dict]) -> None:
    for row in rows:
        row["label"] = "good"


def test_metrics_keep_their_options_and_read_probabilities(twins):
    metrics = [{"name": "roc-auc", "positive": "good"}, {"name": "calibration-error", "bins": 4}]
    for run in twins:
        configure(run, metrics=metrics)
    measured = evaluate(twins[0], [("tone", [])], splits=["dev"], resamples=20)["tone"]["dev"]
    compared = compare(twins, tasks=["tone"], metrics=["all"], resamples=20).compared
    assert [row.metric for row in compared] == ["roc-auc[positive=good]", "calibration-error[bins=4]"]
    for row in compared:
        assert row.difference.first == pytest.approx(measured[row.metric].value, abs=1e-6)
        assert row.difference.value == 0


def test_weighted_metrics_compare_by_the_weights_in_the_files(twins):
    for run in twins:
        configure(run, weighted_metrics=True, weight="w")
    change(twins[0], "tone", with_weights)
    change(twins[1], "tone", with_weights)
    change(twins[0], "tone", all_right)
    change(twins[1], "tone", half_right)
    row = only(compare(twins, tasks=["tone"], resamples=50))
    rows = [json.loads(line) for line in (twins[0] / "predictions" / "tone.dev.jsonl").read_text().splitlines()]
    good = sum(row["target"] == "good" for row in rows)
    assert row.metric == "accuracy[weighted]"
    assert row.difference.second == pytest.approx(10 * good / (10 * good + len(rows) - good))


def test_files_without_weights_cannot_be_compared_by_weighted_metrics(twins):
    for run in twins:
        configure(run, weighted_metrics=True, weight="w")
    with pytest.raises(MtlError, match="the predictions have no weights of rows; write them again: mtl eval"):
        compare(twins, tasks=["tone"], resamples=20)
