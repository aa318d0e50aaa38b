"""Studies: what a method is, what equal steps are, what is run, and what the table says of it."""

import json
from collections import Counter
from itertools import islice

import pytest

from mtlcli.errors import MtlError
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.runs.seeds import read_group
from mtlcli.studies import results as study_results
from mtlcli.studies.methods import find_method, find_methods
from mtlcli.studies.plan import TRIAL_SEED, plan_study
from mtlcli.studies.results import (
    Record,
    Study,
    TaskMetric,
    cells,
    legend,
    markdown,
    read_study,
    relative_gain,
    rows,
    write_study,
)
from mtlcli.studies.run import Interrupted, RunEnded, RunStarted, open_study, run_study
from mtlcli.training.events import Stepped
from sealed import edit
from small import small_config, write_files

TASKS = {"tone": TaskMetric("accuracy", True), "error": TaskMetric("mean-squared-error", False)}


def error(call, *arguments, **more):
    with pytest.raises(MtlError) as caught:
        call(*arguments, **more)
    return str(caught.value)


def study_of(*records):
    """A study of two tasks with these runs."""
    return Study(10, 5, "mean", TASKS, {}, "cpu", list(records))


def record(method, seed, tone=None, error=None, kind="method", seconds=0.01, **more):
    """A run with these primary metrics."""
    metrics = {"tone": {"accuracy": tone}, "error": {"mean-squared-error": error}}
    place = more.pop("place", f"{method}/seed-{seed}")
    known = {task: found for task, found in metrics.items() if None not in found.values()}
    return Record(place, method, kind, seed, known, step_seconds=seconds, batches=more.pop("batches", 2.0), **more)


def alone(seed, tone, error):
    """Both tasks trained each alone."""
    known = {"kind": "single-task", "batches": 1.0}
    first = record("single-task", seed, tone, place=f"single-task/tone/seed-{seed}", seconds=0.002, **known)
    return [
        first,
        record("single-task", seed, None, error, place=f"single-task/error/seed-{seed}", seconds=0.003, **known),
    ]


# The table


def test_the_gain_is_the_mean_of_the_relative_differences_each_in_its_direction():
    # tone: (0.60 - 0.50) / 0.50 = +20 %; error, where less is better: -(1.1 - 1.0) / 1.0 = -10 %; mean +5 %
    assert relative_gain({"tone": 0.6, "error": 1.1}, {"tone": 0.5, "error": 1.0}, TASKS) == pytest.approx(5.0)


def test_a_task_that_alone_is_below_zero_gains_when_it_rises():
    # (0.1 - -0.2) / |-0.2| = +150 %
    assert relative_gain({"tone": 0.1}, {"tone": -0.2}, {"tone": TASKS["tone"]}) == pytest.approx(150.0)


def test_without_a_number_for_every_task_or_of_zero_there_is_no_gain():
    assert relative_gain({"tone": 0.6}, {"tone": 0.5, "error": 1.0}, TASKS) is None
    assert relative_gain({"tone": 0.6, "error": 1.0}, {"tone": 0.5}, TASKS) is None
    assert relative_gain({"tone": 0.6, "error": 1.0}, {"tone": 0.0, "error": 1.0}, TASKS) is None


def test_a_row_is_the_mean_and_the_deviation_over_the_seeds():
    runs = [*alone(1, 0.4, 2.0), *alone(2, 0.6, 2.0), record("m", 1, 0.5, 1.0), record("m", 2, 0.7, 1.0)]
    single, method = rows(study_of(*runs))
    assert (single.method, method.method) == ("single-task", "m")
    # 0.5 and 0.7: mean 0.6, deviation sqrt((0.01 + 0.01) / 1) = 0.1414
    assert method.metrics["tone"].mean == pytest.approx(0.6)
    assert method.metrics["tone"].deviation == pytest.approx(0.1414, abs=1e-4)
    # against 0.5 and 2.0: seed 1 (0 + 50) / 2 = 25 %, seed 2 (40 + 50) / 2 = 45 %: mean 35, deviation sqrt(200) = 14.14
    assert method.gain.mean == pytest.approx(35.0)
    assert method.gain.deviation == pytest.approx(14.14, abs=0.01)
    # single-task against its own mean: seed 1 (-20 + 0) / 2 = -10, seed 2 +10: mean 0
    assert single.gain.mean == pytest.approx(0.0, abs=1e-9)
    assert single.gain.deviation == pytest.approx(14.14, abs=0.01)


def test_the_time_of_single_task_training_is_that_of_all_tasks_together():
    single, method = rows(study_of(*alone(1, 0.4, 2.0), *alone(2, 0.4, 2.0), record("m", 1, 0.5, 1.0)))
    assert single.step_seconds == pytest.approx(0.002 + 0.003)
    assert method.step_seconds == pytest.approx(0.01)


def test_a_study_without_single_task_training_or_a_second_seed_has_neither_gain_nor_spread():
    study = study_of(record("m", 1, 0.5, 1.0))
    columns, lines = cells(study)
    assert [name for name, _ in columns] == ["method", "tone accuracy", "error mean-squared-error (less)", "ms"]
    assert lines == [["m", "0.500", "1.000", "10"]]
    assert "±" not in legend(study)[0]


def test_failed_runs_are_counted_and_trials_are_not_in_the_table():
    trial = record("static-tuned", 9, 0.9, 0.1, kind="trial", place="trials/0/seed-9", weights={"tone": 1.0})
    failed = Record("m/seed-2", "m", "method", 2, error="loss not finite")
    columns, lines = cells(study_of(trial, record("m", 1, 0.5, 1.0), failed))
    assert [line[0] for line in lines] == ["m"]
    assert lines[0][[name for name, _ in columns].index("seeds")] == "1 (1 failed)"


def test_the_number_of_batches_is_shown_where_methods_differ_in_it():
    study = study_of(record("m", 1, 0.5, 1.0), record("few", 1, 0.5, 1.0, batches=1.0))
    columns, lines = cells(study)
    at = [name for name, _ in columns].index("batches")
    assert [line[at] for line in lines] == ["2", "1"]
    assert any("fewer rows" in line for line in legend(study))


def test_markdown_is_the_same_table():
    text = markdown(study_of(*alone(1, 0.4, 2.0), record("m", 1, 0.5, 1.0))).splitlines()
    assert text[0] == "| method | tone accuracy | error mean-squared-error (less) | gain % | ms |"
    assert text[1] == "| --- | ---: | ---: | ---: | ---: |"
    assert text[3] == "| m | 0.500 | 1.000 | +37.5 | 10 |"  # (25 + 50) / 2


def test_a_file_that_is_no_study_is_refused(tmp_path):
    assert "not found" in error(read_study, tmp_path / "study.json")
    for text in ("{", "[]", "{}", '{"format": 99}', '{"format": 1, "mtlcli": "0"}'):
        (tmp_path / "study.json").write_text(text)
        assert str(tmp_path / "study.json") in error(read_study, tmp_path)
    write_study(study_of(record("m", 1, 0.5, 1.0)), tmp_path)
    edit(tmp_path / "study.json", lambda content: content["records"][0]["metrics"]["tone"].update(accuracy="good"))
    message = error(read_study, tmp_path)
    assert "records.0.metrics.tone.accuracy: Input should be a valid number" in message
    (tmp_path / "study.json").write_text((tmp_path / "study.json").read_text().replace("good", "bad"))
    message = error(read_study, tmp_path)
    assert "damaged (sha256 differs)" in message
    assert "mtl study --overwrite" in message


# Methods


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("uncertainty", {"balancer": {"name": "uncertainty"}, "gradient_regularizer": None}),
        ("pcgrad", {"balancer": {"name": "equal"}, "gradient_regularizer": {"name": "pcgrad"}}),
        ("uncertainty+pcgrad", {"balancer": {"name": "uncertainty"}, "gradient_regularizer": {"name": "pcgrad"}}),
        ("annealed", {"scheduler": {"name": "annealed"}}),
        ("Scheduler:annealed", {"scheduler": {"name": "annealed"}}),
        ("gradient-regularizer:pcgrad+annealed", {"balancer": {"name": "equal"},
         "gradient_regularizer": {"name": "pcgrad"}, "scheduler": {"name": "annealed"}}),
        ("architecture:soft-sharing", {"architecture": {"name": "soft-sharing"}}),
        ("mtlcli.balancers.equal:Equal", {"balancer": {"name": "mtlcli.balancers.equal:Equal"}, "gradient_regularizer": None}),
    ],
)  # fmt: skip
def test_a_method_is_found_by_name_in_every_family(text, values):
    assert find_method(text).layer.values == values


def test_regularizers_join_those_of_the_recipe():
    assert (find_method("smart+l2-sp").joining, find_method("smart+l2-sp").layer.values) == (("smart", "l2-sp"), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pcgard", 'method "pcgard": "pcgard" is not a known method .*did you mean "pcgrad"'),
        (
            "soft-sharing",
            '"soft-sharing" is in 2 families; write regularizer:soft-sharing or architecture:soft-sharing',
        ),
        ("scheduler:anealed", 'method "scheduler:anealed": unknown scheduler "anealed"; did you mean "annealed"'),
        ("equal+uncertainty", '"equal" and "uncertainty" are both of the kind balancer'),
        ("nowhere.at_all:Class", 'there is no module "nowhere'),
        ("absent.yaml", "recipe file not found"),
    ],
)
def test_a_method_that_is_none_is_refused(text, message):
    with pytest.raises(MtlError, match=message):
        find_method(text)


def test_all_wrong_names_are_said_at_once():
    assert error(find_methods, ["equal", "pcgard", "uncertainy"]).count("did you mean") == 2


def test_a_recipe_file_changes_the_method_and_leaves_rows_and_length_to_the_study(tmp_path):
    path = tmp_path / "my.way.yaml"
    path.write_text(
        "tasks: [sst]\nsample: true\nencoder: tiny\nbalancer: uncertainty\noptimizer: {lr: 1e-4}\n"
        "training: {steps: 9, micro_batches: 3, seed: 4}\n"
    )
    found = find_method(str(path))
    assert found.label == "my.way"
    assert found.left_out == ("tasks", "sample", "encoder", "training.steps", "training.seed")
    assert found.layer.values == {
        "balancer": "uncertainty", "optimizer": {"lr": 1e-4}, "training": {"micro_batches": 3},
    }  # fmt: skip


# The plan


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path / "files")


def planned(base, *methods, seeds=(1, 2), **more):
    return plan_study(base, find_methods(methods), seeds, **more)


def test_every_run_of_a_study_has_the_same_steps_epochs_and_evaluations(files, tmp_path):
    (tmp_path / "long.yaml").write_text("training: {epochs: 9, patience: 1, eval_every: 1}\nscheduler: proportional\n")
    base = small_config(files, training={"patience": 2})
    jobs = planned(base, "equal", "annealed", "pcgrad", str(tmp_path / "long.yaml")).jobs
    lengths = {tuple(job.config.plain()["training"][key] for key in ("steps", "steps_per_epoch", "epochs", "patience", "eval_every"))
               for job in jobs if job.config}  # fmt: skip
    assert lengths == {(12, 4, None, None, "epoch")}
    # 4 trials; then of each seed 3 tasks alone, tuned weights and 4 methods
    assert [len(jobs), *(sum(job.seed == seed for job in jobs) for seed in (1, 2, TRIAL_SEED))] == [20, 8, 8, 4]
    assert all(job.config.training.seed == job.seed for job in jobs if job.config)


def test_a_task_alone_keeps_its_settings_and_its_own_best_checkpoint(files):
    base = small_config(files, training={"select_by": "near.pearson"}, balancer="uncertainty", scheduler="annealed")
    job = next(job for job in planned(base, "equal").jobs if job.place == "single-task/tone/seed-2")
    assert list(job.config.tasks) == ["tone"]
    assert (job.config.training.select_by, job.config.scheduler.name, job.config.balancer.name) == (
        "mean",
        "round-robin",
        "equal",
    )


def test_trials_of_static_weights_have_mean_one_and_a_seed_of_their_own(files):
    trials = [job for job in planned(small_config(files), "equal", trials=3).jobs if job.kind == "trial"]
    assert trials[0].weights == {"tone": 1.0, "same": 1.0, "near": 1.0}
    assert {job.seed for job in trials} == {TRIAL_SEED}
    for job in trials:
        assert sum(job.weights.values()) == pytest.approx(3.0, abs=1e-3)
        assert max(job.weights.values()) / min(job.weights.values()) <= 16.01
        assert job.config.balancer.options["weights"] == job.weights
    assert len({tuple(job.weights.values()) for job in trials}) == 3


def test_more_seeds_keep_the_trials_out_of_the_table(files):
    def trials(*seeds):
        return [job for job in planned(small_config(files), "equal", seeds=seeds, trials=2).jobs if job.kind == "trial"]

    assert trials(1) == trials(1, 2, 3)
    message = error(planned, small_config(files), "equal", seeds=(1, TRIAL_SEED))
    assert message == "--seeds: static weights are tuned with seed 1000; choose another seed, or --no-tuned"
    assert planned(small_config(files), "equal", seeds=(TRIAL_SEED,), trials=0).jobs


def test_the_baselines_can_be_left_out(files):
    jobs = planned(small_config(files), "equal", seeds=(5,), single_task=False, trials=0).jobs
    assert [job.place for job in jobs] == ["equal/seed-5"]


def test_a_balancer_replaces_both_of_the_recipe_and_a_scheduler_leaves_them(files):
    base = small_config(
        files, balancer="uncertainty", gradient_regularizer="pcgrad", training={"micro_batches": 2}
    )  # fmt: skip
    jobs = planned(base, "equal", "annealed", trials=0, single_task=False).jobs
    found = [(job.config.balancer.name, job.config.gradient_regularizer) for job in jobs[:2]]
    assert found[0] == ("equal", None)
    assert (found[1][0], found[1][1].name) == ("uncertainty", "pcgrad")


def test_what_cannot_work_is_said_before_anything_runs(files, tmp_path):
    (tmp_path / "typo.yaml").write_text("balancer: {name: uncertainty, initial: 1}\n")
    message = error(
        planned, small_config(files, scheduler="annealed"), "equal", "pcgrad", "static", str(tmp_path / "typo.yaml")
    )
    assert "pcgrad: pcgrad compares the tasks of a step" in message
    assert 'method static: balancer.weights: "static" needs this option' in message
    assert f'{tmp_path / "typo.yaml"}:1: balancer.initial: unknown option of "uncertainty"' in message


def test_a_scheduler_that_ends_before_the_others_is_refused(files, tmp_path):
    stages = "[{steps: 5}, {tasks: [tone], steps: %d}]"
    (tmp_path / "short.yaml").write_text(f"scheduler: {{name: stages, stages: {stages % 4}}}\n")
    (tmp_path / "long.yaml").write_text(f"scheduler: {{name: stages, stages: {stages % 7}}}\n")
    base = small_config(files)
    assert "fixes the length at 9 steps, but the study has 12" in error(planned, base, str(tmp_path / "short.yaml"))
    assert planned(base, str(tmp_path / "long.yaml"), trials=0, single_task=False).jobs[0].config.training.steps == 12


def test_a_name_given_twice_or_to_a_baseline_is_refused(files, tmp_path):
    base = small_config(files)
    assert 'two methods are called "equal"' in error(planned, base, "equal", "equal")
    (tmp_path / "single-task.yaml").write_text("balancer: equal\n")
    assert '"single-task" is the name of a baseline' in error(planned, base, str(tmp_path / "single-task.yaml"))


def test_few_epochs_and_what_is_left_out_of_recipes_are_worth_a_note(files, tmp_path):
    (tmp_path / "a.yaml").write_text("sample: true\ntraining: {steps: 3}\n")
    notes = planned(small_config(files, training={"steps_per_epoch": 12}), str(tmp_path / "a.yaml")).notes
    assert notes[0].startswith(
        "ignored in method recipes, because the study sets them for all methods: sample, training.steps"
    )
    assert notes[1].startswith("a run has 1 epoch of 12 steps")


# The runs


def test_a_study_leaves_runs_that_can_be_used_and_a_table(files, tmp_path):
    plan = planned(small_config(files), "pcgrad", "annealed", seeds=(1,), trials=2)
    events = list(run_study(plan, tmp_path / "study"))
    ended = [event.record for event in events if isinstance(event, RunEnded)]
    assert [one.place for one in ended] == [job.place for job in plan.jobs]
    assert sum(isinstance(event, Stepped) for event in events) == 12 * len(plan.jobs)
    assert all(one.step_seconds > 0 and not one.error for one in ended)
    assert read_study(tmp_path / "study") == plan.study
    # what the table says of a run is what `mtl eval` says of its folder
    results = evaluate(tmp_path / "study" / "pcgrad" / "seed-1", [], resamples=1).results
    found = plan.study.record("pcgrad/seed-1").metrics
    assert found["tone"]["accuracy"] == pytest.approx(results["tone"]["dev"]["accuracy"].value, abs=1e-6)
    assert not list((tmp_path / "study").glob("*/*/checkpoints"))
    # the tuned weights are those of the better trial
    trials = [one for one in plan.study.records if one.kind == "trial"]
    best = max(trials, key=lambda one: one.score)
    stored = json.loads((tmp_path / "study/static-tuned/seed-1/run.json").read_text())["config"]
    assert stored["balancer"]["weights"] == plan.study.record("static-tuned/seed-1").weights == best.weights
    table = {row.method: row for row in rows(plan.study)}
    assert list(table) == ["single-task", "static-tuned", "pcgrad", "annealed"]
    assert table["pcgrad"].batches == table["single-task"].batches == 3
    assert table["annealed"].batches == 1


def test_an_interrupted_study_goes_on_where_it_was_and_ends_like_an_unbroken_one(files, tmp_path):
    def plan():
        return planned(
            small_config(files, training={"save_every": 2}), "equal", "pcgrad", seeds=(1,), trials=0, single_task=False
        )

    whole = plan()
    list(run_study(whole, tmp_path / "whole"))
    seen = Counter()
    for event in run_study(plan(), tmp_path / "broken", stop=lambda: seen[Stepped] == 17):
        seen[type(event)] += 1
    assert event == Interrupted(1, 2)  # 12 steps of the first run, 5 of the second
    again = plan()
    open_study(again, tmp_path / "broken")
    rest = list(run_study(again, tmp_path / "broken"))
    assert [event.step for event in rest if isinstance(event, Stepped)] == list(range(6, 13))
    assert [event.reused for event in rest if isinstance(event, RunEnded)] == [True, False]
    assert [one.metrics for one in again.study.records] == [one.metrics for one in whole.study.records]


def test_a_study_may_be_given_more_methods_and_seeds(files, tmp_path):
    base = small_config(files, training={"steps": 2})
    list(run_study(planned(base, "equal", seeds=(1,), trials=0, single_task=False), tmp_path / "s"))
    more = planned(base, "pcgrad", seeds=(1, 2), trials=0, single_task=False)
    open_study(more, tmp_path / "s")
    started = [event.job.place for event in run_study(more, tmp_path / "s") if isinstance(event, RunStarted)]
    assert started == ["pcgrad/seed-1", "pcgrad/seed-2"]
    assert [(row.method, row.seeds) for row in rows(read_study(tmp_path / "s"))] == [("equal", 1), ("pcgrad", 2)]
    assert read_group(tmp_path / "s" / "pcgrad").seeds == (1, 2)


def test_a_folder_with_another_recipe_or_of_something_else_is_refused(files, tmp_path):
    plan = planned(small_config(files), "equal", seeds=(1,), trials=0, single_task=False)
    list(islice(run_study(plan, tmp_path / "s"), 4))
    other = planned(small_config(files, training={"steps": 8}), "equal", seeds=(1,), trials=0, single_task=False)
    assert "was made with another training.steps (12, now 8)" in error(open_study, other, tmp_path / "s")
    fewer = small_config(files)
    del fewer.tasks["near"]
    message = error(open_study, planned(fewer, "equal", seeds=(1,), trials=0, single_task=False), tmp_path / "s")
    assert "was made with another tasks.near ({" in message and ", now none)" in message
    open_study(other, tmp_path / "s", overwrite=True)
    assert list((tmp_path / "s").iterdir()) == []
    assert "is not the folder of a study" in error(open_study, plan, files)
    assert "is not the folder of a study" in error(open_study, plan, files, overwrite=True)


def test_a_study_of_an_mtlcli_that_knew_fewer_keys_goes_on(files, tmp_path):
    def plan():
        return planned(small_config(files, training={"steps": 2}), "equal", seeds=(1,), trials=0, single_task=False)

    list(run_study(plan(), tmp_path / "s"))
    edit(tmp_path / "s" / "study.json", lambda content: content["base"]["optimizer"].pop("beta2"))
    config = tmp_path / "s" / "equal" / "seed-1" / "config.yaml"
    lines = [line for line in config.read_text().splitlines() if not line.strip().startswith("beta2:")]
    config.write_text("\n".join(lines))
    again = plan()
    open_study(again, tmp_path / "s")
    assert [event.reused for event in run_study(again, tmp_path / "s") if isinstance(event, RunEnded)] == [True]


def test_a_run_that_fails_is_recorded_and_tried_again_while_the_others_go_on(files, tmp_path):
    (tmp_path / "wild.yaml").write_text("optimizer: {lr: 1e30, head_lr: 1e30, clip: null}\n")
    methods = (str(tmp_path / "wild.yaml"), "equal")
    plan = planned(small_config(files), *methods, seeds=(1,), trials=0, single_task=False)
    list(run_study(plan, tmp_path / "s"))
    assert "not finite" in plan.study.records[0].error
    assert plan.study.records[1].error == ""
    assert [row.failed for row in study_results.rows(plan.study)] == [1, 0]
    again = planned(small_config(files), *methods, seeds=(1,), trials=0, single_task=False)
    open_study(again, tmp_path / "s")
    started = [event.job.method for event in run_study(again, tmp_path / "s") if isinstance(event, RunStarted)]
    assert started == ["wild"]
