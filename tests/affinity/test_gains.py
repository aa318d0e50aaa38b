"""Measured gains: the plan of the runs, each task's own best evaluation, tests over all pairs, and rows that leak."""

import json

import numpy as np
import pytest

from mtlcli.affinity.gains import (
    RUNS,
    best_of,
    cells_of,
    confirmed_gains,
    curve,
    pair_place,
    plan_confirmation,
    plan_gains,
    read_gains,
    relative,
    significant,
    single_place,
    updates_of,
)
from mtlcli.affinity.matrices import of_gains
from mtlcli.affinity.plan import Options, open_units, plan_affinity
from mtlcli.affinity.probe import joint_config
from mtlcli.affinity.run import measure_affinity
from mtlcli.errors import MtlError
from mtlcli.studies.results import Record, TaskMetric
from mtlcli.studies.run import Interrupted, RunEnded
from mtlcli.training.setup import set_up
from small import small_config, write_files

ACCURACY, ERROR = TaskMetric("accuracy", True), TaskMetric("mean-squared-error", False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def run(files):
    return set_up(joint_config(small_config(files), 10))


def test_a_gain_is_relative_and_signed_by_the_direction_of_the_metric():
    assert relative(0.6, 0.5, ACCURACY) == pytest.approx(20.0)
    assert relative(0.6, 0.5, ERROR) == pytest.approx(-20.0)
    # near 0, a ratio means nothing: points
    assert relative(0.1, 0.04, ACCURACY) == pytest.approx(6.0)
    assert relative(-0.2, -0.4, ACCURACY) == pytest.approx(50.0)


def test_a_task_is_read_at_its_own_best_evaluation():
    assert best_of([(1, 0.4), (2, 0.7), (3, 0.5)], ACCURACY) == 0.7
    assert best_of([(1, 0.4), (2, 0.7), (3, 0.5)], ERROR) == 0.4
    assert best_of([], ERROR) is None


def test_pairs_are_planned_once_and_transfer_in_both_directions(files, run, tmp_path):
    plan = plan_gains(small_config(files), run, tmp_path, ("gain", "transfer"), (1, 2), "rows")
    places = [job.place for job in plan.study.jobs]
    # of each seed 3 alone, 3 pairs and 6 transfers
    assert len(places) == len(set(places)) == 2 * (3 + 3 + 6)
    assert pair_place(("tone", "near"), 1) == pair_place(("near", "tone"), 1) == "pair/near+tone/seed-1"
    assert {job.config.training.steps for job in plan.study.jobs} == {12}
    transfer = next(job for job in plan.study.jobs if job.place == "transfer/tone-same/seed-2")
    assert list(transfer.config.tasks) == ["same"]
    assert transfer.config.encoder.name == str(tmp_path / single_place("tone", 2) / "encoder")
    for job in plan.study.jobs:
        assert job.config.balancer.name == "equal"
        assert job.config.optimizer.schedule == "constant"
        assert job.config.training.patience is None


def test_an_equal_budget_of_compute_halves_the_runs_of_pairs_and_keeps_the_number_of_evaluations(files, run, tmp_path):
    plan = plan_gains(small_config(files), run, tmp_path, ("gain",), (1,), "compute")
    by_kind = {job.kind: job.config.training for job in plan.study.jobs}
    assert (by_kind["single-task"].steps, by_kind["single-task"].steps_per_epoch) == (12, 4)
    assert (by_kind["pair"].steps, by_kind["pair"].steps_per_epoch) == (6, 2)


def test_without_steps_a_run_has_three_passes_over_the_largest_task(files, run):
    config = small_config(files)
    training = config.training.model_copy(update={"steps": None})
    # 50 rows of `same` in batches of 8 are 7 batches
    assert updates_of(config.model_copy(update={"training": training}), run) == 21


def test_every_pair_has_a_t_interval_and_a_p_value_corrected_for_all_pairs():
    gains = np.full((3, 2, 2), np.nan)
    gains[:, 0, 1] = [1.0, 2.0, 3.0]
    gains[:, 1, 0] = [9.9, 10.0, 10.1]
    cells = cells_of(gains)
    assert cells[0, 1].value == pytest.approx(2.0)
    assert (cells[0, 1].low, cells[0, 1].high) == (pytest.approx(-0.484, abs=1e-3), pytest.approx(4.484, abs=1e-3))
    # t = 2 / (1 / sqrt(3)) = 3.464 with 2 degrees of freedom: p = .0742, the larger of two
    assert cells[0, 1].details["p"] == pytest.approx(0.0742, abs=1e-4)
    assert cells[1, 0].details["p_holm"] == pytest.approx(2 * cells[1, 0].details["p"])
    assert significant(cells) == [(1, 0)]
    assert cells_of(gains[:1])[0, 1].low is None


def write_curve(folder, values):
    """metrics.jsonl of a run with evaluations: task -> values."""
    folder.mkdir(parents=True)
    count = len(next(iter(values.values())))
    lines = [
        {"kind": "evaluation", "step": at + 1} | {f"eval/{task}/{metric}": points[at] for (task, metric), points in values.items()}
        for at in range(count)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_gains_are_read_from_the_curves_of_finished_seeds(files, run, tmp_path):
    config = small_config(files)
    plan = plan_gains(config, run, tmp_path, ("gain",), (1, 2), "rows")
    metrics = {name: plan.metrics[name].metric for name in plan.tasks}
    for job in plan.study.jobs:
        if job.seed == 2 and job.kind == "pair":
            continue
        # alone .5, in a pair .6 at its best
        points = [0.5, 0.25] if job.kind == "single-task" else [0.3, 0.6]
        write_curve(tmp_path / job.place, {(name, metrics[name]): points for name in job.config.tasks})
        plan.study.study.add(Record(job.place, job.method, job.kind, job.seed))
    found = read_gains(plan, tmp_path, "pair")
    assert found.seeds == (1,)
    off = ~np.eye(3, dtype=bool)
    signs = np.array([1 if plan.metrics[name].higher_is_better else -1 for name in plan.tasks])
    assert (signs == 1).all()
    assert found.best[0][off] == pytest.approx(20.0)
    # at the last evaluation .6 against .25
    assert found.last[0][off] == pytest.approx(140.0)
    assert found.alone[0] == pytest.approx(0.5)
    assert curve(tmp_path / single_place("tone", 1), "tone", plan.metrics["tone"]) == [(1, 0.5), (2, 0.25)]


def test_a_task_without_dev_rows_cannot_be_gained_on(files, tmp_path):
    config = small_config(files)
    config.tasks["near"].dev = None
    config.tasks["near"].auxiliary = True
    with pytest.raises(MtlError, match="gain need dev rows of every task, and near has none"):
        plan_affinity(config, Options(("gain",)), tmp_path)


def test_groups_are_confirmed_with_other_seeds_by_the_runs_that_serve_each_task(files, run, tmp_path):
    plan = plan_gains(small_config(files), run, tmp_path, ("gain",), (1, 2), "rows")
    groups, served = [["tone", "same"], ["near"]], [["tone", "same"], ["near"]]
    study = plan_confirmation(plan, groups, (1, 2), "rows")
    places = [job.place for job in study.jobs]
    # of seeds 3 and 4: three alone, one group of two, and one model of all
    assert len(places) == 2 * (3 + 1 + 1)
    assert {job.seed for job in study.jobs} == {3, 4}
    metrics = {name: plan.metrics[name].metric for name in plan.tasks}
    for job in study.jobs:
        value = {1: 0.5, 2: 0.6, 3: 0.4}[len(job.config.tasks)]
        write_curve(tmp_path / job.place, {(name, metrics[name]): [value] for name in job.config.tasks})
        plan.study.study.add(Record(job.place, job.method, job.kind, job.seed))
    cells = confirmed_gains(plan, tmp_path, groups, served, (1, 2))
    # two tasks gain 20 %, and one is alone
    assert cells["these groups"].value == pytest.approx(40 / 3)
    assert cells["one model"].value == pytest.approx(-20.0)
    assert cells["one model"].n == 2
    assert confirmed_gains(plan, tmp_path, groups, served, (5,)) == {}


def test_with_equal_compute_a_model_of_three_tasks_makes_a_third_of_the_updates(files, run, tmp_path):
    plan = plan_gains(small_config(files), run, tmp_path, ("gain",), (1,), "compute")
    steps = {
        len(job.config.tasks): job.config.training.steps
        for job in plan_confirmation(plan, [["tone", "same"]], (1,), "compute").jobs
    }
    assert steps == {1: 12, 2: 6, 3: 4}


@pytest.mark.slow
def test_runs_are_made_once_go_on_after_a_stop_and_leak_free_gains_are_computed(files, tmp_path):
    lines = (files / "tone-train.tsv").read_text().splitlines()
    changed = write_files(tmp_path / "leaky")
    dev = (changed / "tone-dev.tsv").read_text().splitlines()
    # 5 of 20 dev rows of `tone` are texts of `same`
    texts = [line.split("\t")[0] for line in (changed / "same-train.tsv").read_text().splitlines()[1:6]]
    dev[1:6] = [f"{text}\t{line.split(chr(9))[1]}" for text, line in zip(texts, dev[1:6], strict=True)]
    (changed / "tone-dev.tsv").write_text("\n".join(dev) + "\n")
    assert len(lines) == 41
    config = small_config(changed)
    folder = tmp_path / "a"
    folder.mkdir()
    options = Options(("data", "gain"), seeds=(1,))
    calls = 0

    def stop():
        nonlocal calls
        calls += 1
        return calls > 30

    plan = plan_affinity(config, options, folder)
    events = list(measure_affinity(plan, folder, open_units(plan, folder), stop=stop))
    assert isinstance(events[-1], Interrupted)
    plan = plan_affinity(config, options, folder)
    units = open_units(plan, folder)
    events = [event for event in measure_affinity(plan, folder, units) if isinstance(event, RunEnded)]
    assert len(events) == 6
    assert sum(event.reused for event in events) == 2
    gains = read_gains(plan.gains, folder / RUNS, "pair")
    assert np.isfinite(gains.best[0][~np.eye(3, dtype=bool)]).all()
    assert not (folder / RUNS / pair_place(("tone", "same"), 1) / "encoder").exists()
    assert (folder / RUNS / single_place("tone", 1) / "encoder").exists()
    leaked = {(1, 0): units.get("data", ["same", "tone"])["leaked"]}
    # A single text is no pair: the rows share a text, and none is a whole row.
    assert leaked == {(1, 0): []}
    assert units.get("data", ["same", "tone"])["sharing"] == 5
    without = of_gains(plan, folder / RUNS, gains, {(1, 0): [0, 1]}, [])[-1]
    assert without.name == "gain-without-leaks"
    assert without.cells[1][0].value is not None
    assert without.cells[0][1].value is None
