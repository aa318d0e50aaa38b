"""Names, groups, configuration and plan as trackers show them."""

import math

import pytest

from mtlcli.runs.plan import Plan, TaskPlan
from mtlcli.statistics.bootstrap import Estimate
from mtlcli.trackers.session import final_values, scalars_of
from mtlcli.trackers.texts import LONGEST_VALUE, flat_config, name_and_group, plan_text, recipe_text
from small import small_config, write_files


@pytest.mark.parametrize(
    ("marks", "run", "expected"),
    [
        ((), "runs/demo", ("demo", "")),
        (("group/seeds.json",), "group/seed-1", ("group/seed-1", "group")),
        # a study's methods are folders of seeds, too
        (("first/study.json", "first/pcgrad/seeds.json"), "first/pcgrad/seed-1", ("first/pcgrad/seed-1", "first")),
        (("first/study.json",), "first/single-task/sst/seed-1", ("first/single-task/sst/seed-1", "first")),
        (("first/study.json",), "second/demo", ("demo", "")),
    ],
)
def test_a_run_is_named_by_its_place_in_its_group(tmp_path, marks, run, expected):
    (tmp_path / run).mkdir(parents=True)
    for mark in marks:
        (tmp_path / mark).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / mark).write_text("{}")
    assert name_and_group(tmp_path / run) == expected
    assert name_and_group(tmp_path / run / ".." / (tmp_path / run).name) == expected


def test_the_configuration_is_flat_text_without_trackers(tmp_path):
    long = "x" * 7000
    config = small_config(
        write_files(tmp_path),
        regularizers=[{"name": "l2-sp", "alpha": 0.5}],
        trackers="tensorboard",
        data=f"/{long[:200]}",
    )
    config.tasks["tone"].aliases = {long: "good", "b": long}
    flat = flat_config(config)
    assert flat["regularizers.0.name"] == "l2-sp" and flat["regularizers.0.alpha"] == "0.5"
    assert flat["training.epochs"] == "null" and flat["sample"] == "false" and flat["training.steps"] == "12"
    assert not any(key.startswith("trackers") for key in flat)
    assert len(flat["tasks.tone.aliases.b"]) == LONGEST_VALUE == 6000
    assert "tensorboard" not in recipe_text(config)
    assert config.trackers[0].name == "tensorboard"


def test_a_plan_is_a_table_in_markdown():
    task = TaskPlan("a|b", 100, 20, 8, 1.0, 0.25, 2.0 / 3, 3, 100, "single", "linear", 10)
    plan = Plan(
        (task,), 10, 5, (5, 10), "round-robin", "equal", "tiny", 1000, "cpu", "fp32", 0, 0.0, 0.0, 0, 1.0, ("a note",), ("a doubt",)
    )  # fmt: skip
    lines = plan_text(plan).splitlines()
    assert lines[0].startswith("| task | training rows | dev rows |")
    assert lines[2] == "| a\\|b | 100 | 20 | 8 | 1 | 0.25 | 0.6667 | 3 | single | linear |"
    assert lines[-2:] == ["- a note", "- warning: a doubt"]


def test_numbers_of_a_line_leave_out_what_is_none():
    line = {"kind": "step", "step": 3, "epoch": 0, "lr": 0.5, "train/sst/loss": None, "skipped": True}
    assert scalars_of(line) == {"epoch": 0.0, "lr": 0.5, "skipped": 1.0}
    assert scalars_of({"kind": "evaluation", "step": 3, "epoch": 0, "score": None, "eval/sst/f1": 0.25}) == {
        "eval/sst/f1": 0.25
    }


def test_final_values_have_their_interval_behind_them():
    estimates = {"sst": {"dev": {"accuracy": Estimate(0.5, 0.25, 0.75, 10), "f1": Estimate(math.nan, 0.0, 1.0, 10)}}}
    assert final_values(estimates) == {
        "final/sst/dev/accuracy": 0.5, "final/sst/dev/accuracy/low": 0.25, "final/sst/dev/accuracy/high": 0.75,
        "final/sst/dev/f1/low": 0.0, "final/sst/dev/f1/high": 1.0,
    }  # fmt: skip
