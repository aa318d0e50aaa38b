"""Runs with every scheduler that has state or an order of its own: they go on exactly, and one task alone is plain training."""

import json
from pathlib import Path

import pytest
import torch

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.plugin import ProbeResult
from mtlcli.runs import checkpoint
from mtlcli.runs.folder import inspect_folder
from mtlcli.training.events import Evaluated, Stepped
from mtlcli.training.loop import train
from mtlcli.training.setup import TrainingRun, set_up
from small import small_config, write_files

SCHEDULERS = {
    "all-together": {"max_micro_batches": 3},
    "bandit": {"primary": "near", "hold": 2, "temperature": 0.05},
    "curriculum": {"measure_share": 0.5},
    "entropy": {},
    "fixed-ratio": {"ratio": {"tone": 2.0}, "order": "interleaved"},
    "linear-temperature": {},
    "shuffled": {},
    "similarity": {},
    "state-machine": {"decay": 0.7},
    "worst-task": {},
}
FEEDBACK = ("bandit", "curriculum", "state-machine", "worst-task")
"""Those that have something to remember."""
QUICK = ("bandit", "curriculum", "shuffled")
"""Those that every test run resumes: one that follows the dev loss, one that keeps a list, one that draws an order. The others by
`make test-all`."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


def config(files: Path, name: str, **training) -> Config:
    """12 steps with an evaluation after every second one."""
    scheduler = {"name": name, **SCHEDULERS[name]}
    return small_config(files, scheduler=scheduler, training={"eval_every": 2, **training})


def run(config: Config, folder: Path, stop_after: int | None = None, resume: bool = False) -> tuple[TrainingRun, list]:
    """A run and its events; it is asked to stop after a step."""
    found = inspect_folder(folder, resume=resume, overwrite=False).checkpoint
    prepared = set_up(
        config, encoder_from=found.folder / "encoder" if found else None, first_step=found.step if found else 0
    )
    events, seen = [], 0

    def stop() -> bool:
        return seen == stop_after

    for event in train(prepared, folder, resume_from=found, stop=stop):
        events.append(event)
        seen = event.step if isinstance(event, Stepped) else seen
    return prepared, events


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    place, _ = checkpoint.latest(folder / "checkpoints")
    parts = ("model", "optimizer", "plugins", "random")
    return {f"{part}/{key}": value for part in parts for key, value in place.tensors(part).items()}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SCHEDULERS]
)
def test_a_stopped_run_goes_on_with_the_same_tasks_bit_by_bit(files, tmp_path, name):
    run(config(files, name), tmp_path / "whole")
    run(config(files, name), tmp_path / "broken", stop_after=7)
    run(config(files, name), tmp_path / "broken", resume=True)
    assert lines(tmp_path / "whole") == lines(tmp_path / "broken")
    whole, broken = tensors(tmp_path / "whole"), tensors(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[key], broken[key]) for key in whole)


@pytest.mark.parametrize("name", FEEDBACK)
def test_what_a_scheduler_heard_is_in_the_checkpoint(files, tmp_path, name):
    prepared, _ = run(config(files, name), tmp_path / "run")
    untouched = set_up(config(files, name)).scheduler.state_dict()
    saved = tensors(tmp_path / "run")
    state = {key: value for key, value in untouched.items() if isinstance(value, torch.Tensor)}
    assert any(not torch.equal(saved[f"plugins/scheduler/{key}"], value) for key, value in state.items())
    for key, value in prepared.scheduler.state_dict().items():
        assert torch.equal(saved[f"plugins/scheduler/{key}"], value)


def test_the_bandit_hears_the_dev_loss_of_its_primary_and_pulls_again(files, tmp_path):
    prepared = set_up(config(files, "bandit"))
    heard: list[ProbeResult] = []
    hear = prepared.scheduler.on_probe
    prepared.scheduler.on_probe = lambda result: (heard.append(result), hear(result))  # type: ignore[method-assign]
    events = list(train(prepared, tmp_path / "run"))
    assert [result.step for result in heard] == [2, 4, 6, 8, 10, 12]
    assert all(set(result.losses) == {2} for result in heard)
    tasks = [next(iter(event.losses)) for event in events if isinstance(event, Stepped)]
    assert tasks[:2] == ["near", "near"]
    assert all(tasks[step] == tasks[step + 1] for step in range(0, 12, 2))


def test_the_state_machine_lowers_the_rate_that_the_run_reports(files, tmp_path):
    settings = config(files, "state-machine").plain()
    settings["optimizer"] |= {"warmup": 0.0, "schedule": "constant"}
    prepared, events = run(small_config(files, **settings), tmp_path / "run")
    first = next(event.lr for event in events if isinstance(event, Stepped))
    task, before, rate = 0, [float("inf")] * 3, 1.0
    for event in events:
        if isinstance(event, Stepped):
            assert list(event.losses) == [prepared.model.names[task]]
            assert event.lr == pytest.approx(first * rate)
        elif isinstance(event, Evaluated):
            losses = [event.losses[name] for name in prepared.model.names]
            if losses[task] > before[task]:
                task, rate = (task + 1) % 3, rate * 0.7
            before = losses
    assert rate < 1  # random labels: some loss rises


def test_entropy_sampling_trains_on_one_batch_of_three(files, tmp_path):
    prepared = set_up(config(files, "entropy"))
    counts, run_step = [], prepared.engine.run

    def counting(step):
        counts.append(sum(batch.count for one in step for batch in one.batches))
        return run_step(step)

    prepared.engine.run = counting  # type: ignore[method-assign]
    list(train(prepared, tmp_path / "run"))
    # batches of 8 candidates; the last of a pass has 8 (tone, 40 rows), 2 (same, 50) or 2 (near, 34)
    assert len(counts) == 12
    assert set(counts) <= {8, 6, 4} and counts[0] == 8
    assert all(batches.cursor == 12 for batches in prepared.train)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_one_task_alone_is_plain_training(files, tmp_path, name):
    only = {"tone": small_config(files).plain()["tasks"]["tone"]}
    options = {key: value for key, value in SCHEDULERS[name].items() if key not in ("primary", "max_micro_batches")}
    if name == "state-machine":
        options["decay"] = 1.0
    for place, scheduler in (("plain", {"name": "round-robin"}), ("other", {"name": name, **options})):
        settings = small_config(files, training={"steps": 5, "eval_every": 2}, scheduler=scheduler).plain()
        run(_only(files, only, settings), tmp_path / place)
    first, second = tensors(tmp_path / "plain"), tensors(tmp_path / "other")
    for key, value in first.items():
        if key.startswith("model/"):
            assert torch.equal(value, second[key]), key


def _only(files: Path, tasks: dict, settings: dict) -> Config:
    return resolve([Layer({**settings, "tasks": tasks})])
