"""Runs with every regularizer: they go on exactly, and cost the passes that the plan says."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mtlcli import registry
from mtlcli.config.schema import Config
from mtlcli.runs import checkpoint
from mtlcli.runs.folder import inspect_folder
from mtlcli.training.events import Stepped
from mtlcli.training.loop import train
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import set_up
from small import small_config, write_files

CHOICES = [
    {"name": "smart"},
    {"name": "smart", "form": "mtdnn", "steps": 2, "dropout": "off"},
    {"name": "bppo", "switch": 0.3},
    {"name": "successive"},
    {"name": "soft-sharing"},
    {"name": "representation-alignment", "memory": 6},
    {"name": "representation-alignment", "distance": "mmd"},
    {"name": "representation-alignment", "distance": "cmd"},
    {"name": "l2-sp"},
]

QUICK = ({"name": "smart"}, {"name": "bppo", "switch": 0.3}, {"name": "representation-alignment", "memory": 6})
"""Those of which every test run trains whole runs: one that draws, one that keeps a second model, one that keeps rows. The others
by `make test-all`."""


def label(choice: dict) -> str:
    return "-".join(str(value) for value in choice.values())


sweep = pytest.mark.parametrize(
    "choice",
    [choice if choice in QUICK else pytest.param(choice, marks=pytest.mark.slow) for choice in CHOICES],
    ids=label,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


def config(files: Path, choice: dict, **sections) -> Config:
    """Twelve steps in three epochs, with dropout; towers where they are needed."""
    architecture = "soft-sharing" if choice["name"] == "soft-sharing" else "hard-sharing"
    more = {"architecture": architecture, "encoder": {"dropout": 0.1}, "balancer": "uncertainty", **sections}
    return small_config(files, regularizers=[choice], **more)


def run(chosen: Config, folder: Path, stop_after: int | None = None, resume: bool = False) -> None:
    found = inspect_folder(folder, resume=resume, overwrite=False).checkpoint
    prepared = set_up(
        chosen, encoder_from=found.folder / "encoder" if found else None, first_step=found.step if found else 0
    )
    seen = 0

    def stop() -> bool:
        return seen == stop_after

    for event in train(prepared, folder, resume_from=found, stop=stop):
        seen = event.step if isinstance(event, Stepped) else seen


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    place, _ = checkpoint.latest(folder / "checkpoints")
    parts = ("model", "optimizer", "plugins", "random")
    return {f"{part}/{key}": value for part in parts for key, value in place.tensors(part).items()}


@pytest.fixture(scope="module")
def without(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict], dict[str, torch.Tensor]]:
    """What the same run learns without its regularizer; one run for each architecture."""

    @functools.cache
    def learned(architecture: str) -> dict[str, torch.Tensor]:
        plain = config(files, {"name": "soft-sharing" if architecture == "soft-sharing" else "smart"})
        run(plain.model_copy(update={"regularizers": []}), folder := tmp_path_factory.mktemp("without") / "run")
        return tensors(folder)

    return lambda choice: learned(config(files, choice).architecture.name)


def test_every_regularizer_is_tried():
    assert {choice["name"] for choice in CHOICES} == set(registry.FAMILIES["regularizers"].built_in)


@sweep
def test_a_stopped_run_goes_on_bit_by_bit(files, tmp_path, choice):
    chosen = config(files, choice)
    run(chosen, tmp_path / "whole")
    run(chosen, tmp_path / "broken", stop_after=4)  # the end of an epoch
    run(chosen, tmp_path / "broken", stop_after=6, resume=True)
    run(chosen, tmp_path / "broken", resume=True)
    assert lines(tmp_path / "whole") == lines(tmp_path / "broken")
    whole, broken = tensors(tmp_path / "whole"), tensors(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[key], broken[key]) for key in whole)


@sweep
def test_a_regularizer_changes_what_is_learned(files, tmp_path, without, choice):
    run(config(files, choice), tmp_path / "with")
    first, second = tensors(tmp_path / "with"), without(choice)
    assert any(not torch.equal(value, second[key]) for key, value in first.items() if key.startswith("model/"))


@pytest.mark.parametrize("choice", CHOICES, ids=label)
def test_the_passes_of_a_step_are_those_of_the_plan(files, choice):
    prepared = set_up(config(files, choice, training={"micro_batches": 2}))
    forwards, backwards = [], []
    for task in range(3):
        last = prepared.model.architecture.encoder_of(task).encoder.layer[-1].output
        if task == 0 or choice["name"] == "soft-sharing":
            last.register_forward_hook(lambda *_: forwards.append(1))
            last.register_full_backward_pre_hook(lambda *_: backwards.append(1))
    step = [TaskLoss(task, (batches.next(), batches.next())) for task, batches in enumerate(prepared.train)]
    prepared.engine.run(step)
    assert len(forwards) == 6 * (1 + prepared.plan.forward_passes)
    assert len(backwards) == 6 * (1 + prepared.plan.backward_passes)


def test_two_regularizers_add_their_terms_and_their_cost(files):
    choices = [{"name": "smart", "weight": 15}, {"name": "bppo"}, {"name": "successive"}]
    prepared = set_up(small_config(files, regularizers=choices))
    assert (prepared.plan.forward_passes, prepared.plan.backward_passes) == (3, 2)


def test_a_large_weight_keeps_the_towers_together(files, tmp_path):
    def spread(weight: float) -> float:
        folder = tmp_path / str(weight)
        sections = {"optimizer": {"lr": 1e-3, "clip": None, "schedule": "constant", "warmup": 0.0}}
        run(config(files, {"name": "soft-sharing", "weight": weight}, **sections), folder)
        weights = tensors(folder)
        return sum(
            float((value - weights[key.replace("others.0.", "encoder.", 1)]).square().sum())
            for key, value in weights.items()
            if key.startswith("model/architecture.others.0.") and value.is_floating_point()
        )

    assert 0 < spread(100.0) < 0.5 * spread(0.0)
