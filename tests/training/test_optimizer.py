"""The learning rate that falls on a plateau: what counts as a rise, what falls, and that a resumed run knows both."""

import json
import math
from pathlib import Path

import pytest
import torch

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config, OptimizerConfig
from mtlcli.errors import MtlError
from mtlcli.runs import checkpoint
from mtlcli.runs.folder import inspect_folder
from mtlcli.training.events import Stepped
from mtlcli.training.loop import train
from mtlcli.training.optimizer import Plateau, rate_factor
from mtlcli.training.setup import set_up

PATIENT = OptimizerConfig(schedule="plateau")  # factor .5, patience 3


def factors(config: OptimizerConfig, *losses: dict[str, float]) -> list[float]:
    """The factor after each evaluation."""
    plateau, found = Plateau(), []
    for one in losses:
        plateau.observe(one, config)
        found.append(plateau.factor)
    return found


def test_three_rises_in_a_row_halve_the_rate_and_the_next_three_do_so_again():
    losses = [{"a": value} for value in (5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0)]
    # rises:                              -    1    2    3    1    2    3
    assert factors(PATIENT, *losses) == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]


def test_a_loss_that_falls_or_stays_begins_the_count_anew():
    losses = [{"a": value} for value in (5.0, 6.0, 7.0, 6.5, 7.0, 7.5, 7.5, 8.0, 8.5, 9.0)]
    # rises:                              -    1    2    0    1    2    0    1    2    3
    assert factors(PATIENT, *losses) == [1.0] * 9 + [0.5]


def test_factor_and_patience_are_those_of_the_configuration():
    config = OptimizerConfig(schedule="plateau", plateau_factor=0.1, plateau_patience=1)
    # rises:                                              -           1           0           1
    found = factors(config, *({"a": value} for value in (1.0, 2.0, 1.5, 3.0)))
    assert found == pytest.approx([1.0, 0.1, 0.1, 0.01])


def test_a_task_of_large_losses_does_not_decide_alone():
    config = OptimizerConfig(schedule="plateau", plateau_patience=1)
    # 100 to 90 and 1 to 1.2: the plain sum falls from 101 to 91.2; relative to the first it rises from 2 to .9 + 1.2 = 2.1
    assert factors(config, {"large": 100.0, "small": 1.0}, {"large": 90.0, "small": 1.2}) == [1.0, 0.5]
    # 100 to 110 and 1 to .8: the plain sum rises to 110.8; relative it falls to 1.1 + .8 = 1.9
    assert factors(config, {"large": 100.0, "small": 1.0}, {"large": 110.0, "small": 0.8}) == [1.0, 1.0]


def test_a_first_loss_of_zero_divides_nothing_and_one_that_is_not_known_is_left_out():
    config = OptimizerConfig(schedule="plateau", plateau_patience=1)
    # zero: 0 + 4 / 4 = 1, then .5 + 2 / 4 = 1, then .7 + .5 = 1.2
    assert factors(config, {"a": 0.0, "b": 4.0}, {"a": 0.5, "b": 2.0}, {"a": 0.7, "b": 2.0}) == [1.0, 1.0, 0.5]
    assert factors(config, {"a": math.nan, "b": 4.0}, {"a": math.nan, "b": 5.0}) == [1.0, 0.5]
    assert factors(config, {"a": math.nan}, {"a": math.nan}) == [1.0, 1.0]


def test_after_the_warm_up_the_schedule_itself_stays_at_the_peak():
    config = OptimizerConfig(schedule="plateau", warmup=0.2)
    assert [rate_factor(config, step, 10) for step in (0, 1, 2, 9)] == [0.5, 1.0, 1.0, 1.0]


# Runs whose loss on dev rises for sure: they learn that nearly all is good, and on dev all is bad

WORDS = ("red", "green", "small", "large", "old", "new", "round", "square")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for split, labels in (("train", ["good"] * 7 + ["bad"]), ("dev", ["bad"] * 8)):
        lines = [f"the {word} house\t{label}" for word, label in zip(WORDS, labels, strict=True)]
        (folder / f"{split}.tsv").write_text("sentence\tlabel\n" + "\n".join(lines) + "\n")
    return folder


def rising(files: Path, schedule: str = "plateau", **more) -> Config:
    """Twelve steps at a rate of 1e-3, an evaluation after every second one, patience 2."""
    values = {
        "tasks": {"tone": {"kind": "classification", "train": str(files / "train.tsv"), "dev": str(files / "dev.tsv")}},
        "encoder": {
            "name": "tiny",
            "dim": 16,
            "layers": 1,
            "attention_heads": 2,
            "intermediate": 16,
            "vocabulary": 100,
        },
        "optimizer": {"lr": 1e-3, "warmup": 0, "schedule": schedule, "plateau_patience": 2},
        "training": {"steps": 12, "steps_per_epoch": 4, "eval_every": 2, "batch_size": 8, "device": "cpu"},
    }
    return resolve([Layer(values | more)])


def rates(config: Config, folder: Path, stop_after: int = 0, resume: bool = False) -> list[float]:
    """Runs, and gives the learning rate of each step."""
    found = inspect_folder(folder, resume=resume, overwrite=False).checkpoint
    prepared = set_up(config, encoder_from=found.folder / "encoder" if found else None)
    made: list[float] = []
    for event in train(prepared, folder, resume_from=found, stop=lambda: len(made) == stop_after):
        made.extend([event.lr] if isinstance(event, Stepped) else [])
    return made


@pytest.mark.parametrize(
    ("steps", "every", "patience", "noted"), [(12, 2, 4, False), (12, 2, 5, True), (11, 2, 4, False), (12, "epoch", 1, False),
                                              (12, "epoch", 2, True), (4, "epoch", 1, True)]
)  # fmt: skip
def test_the_plan_notes_a_rate_that_has_no_time_to_fall(files, steps, every, patience, noted):
    config = rising(files)
    config.training.steps, config.training.eval_every, config.optimizer.plateau_patience = steps, every, patience
    assert any("the plateau schedule has no effect" in line for line in set_up(config).plan.warnings) is noted
    config.optimizer.schedule = "constant"
    assert not any("the plateau schedule has no effect" in line for line in set_up(config).plan.warnings)


def end_of(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """All tensors of the last checkpoint, and its progress but for the time."""
    place, _ = checkpoint.latest(folder / "checkpoints")
    tensors = {f"{part}/{key}": value for part in ("model", "optimizer") for key, value in place.tensors(part).items()}
    return tensors, {key: value for key, value in place.state()["progress"].items() if key != "seconds"}


# evaluated after steps 2 (the first), 4, 6 (the second rise), 8, 10 (the second again) and 12
FALLING = [1e-3] * 6 + [5e-4] * 4 + [2.5e-4] * 2


def test_the_rate_of_a_run_falls_after_the_evaluation_of_the_last_rise(files, tmp_path):
    assert rates(rising(files), tmp_path / "run") == FALLING
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines if line["kind"] == "step"] == FALLING
    losses = [line["eval/tone/loss"] for line in lines if line["kind"] == "evaluation"]
    assert losses == sorted(losses)
    assert rates(rising(files, "constant"), tmp_path / "constant") == [1e-3] * 12


@pytest.mark.parametrize("stop_after", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (6, 7, 9))])
def test_a_run_stopped_around_a_fall_and_resumed_is_the_unbroken_run_bit_by_bit(files, tmp_path, stop_after):
    rates(rising(files), tmp_path / "whole")
    first = rates(rising(files), tmp_path / "broken", stop_after)
    assert len(first) == stop_after
    assert first + rates(rising(files), tmp_path / "broken", resume=True) == FALLING
    (whole, progress), (broken, same) = end_of(tmp_path / "whole"), end_of(tmp_path / "broken")
    assert progress == same
    assert progress["plateau"]["factor"] == 0.25
    assert whole.keys() == broken.keys() and all(torch.equal(whole[key], broken[key]) for key in whole)


def test_a_new_stage_starts_from_the_peak_and_counts_anew(files, tmp_path):
    stages = {"name": "stages", "stages": [{"steps": 6}, {"steps": 8}]}
    config = rising(files, scheduler=stages, training={"eval_every": 2, "batch_size": 8, "device": "cpu"})
    # the first stage ends where its rate would have fallen; the second is evaluated after 8 (its first), 10 and 12 (second rise)
    assert rates(config, tmp_path / "run") == [1e-3] * 12 + [5e-4] * 2


def test_without_dev_rows_there_is_no_loss_to_follow(files):
    task = {"kind": "classification", "train": str(files / "train.tsv")}
    with pytest.raises(MtlError) as caught:
        set_up(rising(files, tasks={"tone": task}))
    assert caught.value.lines == (
        'optimizer.schedule: "plateau" requires losses on dev, but no task has dev rows; set tasks.NAME.dev, or choose '
        "linear, cosine or constant",
    )


@pytest.mark.parametrize(("key", "value"), [("factor", 1.0), ("factor", 0.0), ("patience", 0)])
def test_a_plateau_that_would_change_nothing_or_all_is_refused(files, key, value):
    with pytest.raises(MtlError, match=f"optimizer.plateau_{key}: found {value}"):
        rising(files, optimizer={"schedule": "plateau", f"plateau_{key}": value})
