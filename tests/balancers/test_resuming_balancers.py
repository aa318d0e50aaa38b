"""What balancers remember and learn is in the checkpoint: a run that was stopped goes on as if it had not been."""

from pathlib import Path

import pytest
import torch

from mtlcli.runs import checkpoint
from mtlcli.runs.folder import inspect_folder
from mtlcli.training.events import Stepped
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import small_config, write_files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


def go(files: Path, folder: Path, choice: dict, stop_after: int | None = None) -> list[dict[str, float]]:
    """Runs, or goes on with, three epochs of four steps -> the weights of every step."""
    found = inspect_folder(folder, resume=True, overwrite=False).checkpoint
    prepared = set_up(
        small_config(files, balancer=choice),
        encoder_from=found.folder / "encoder" if found else None,
        first_step=found.step if found else 0,
    )
    weights: list[dict[str, float]] = []
    for event in train(prepared, folder, resume_from=found, stop=lambda: len(weights) == stop_after):
        if isinstance(event, Stepped):
            weights.append(event.weights)  # noqa: PERF401 -- `stop` counts them
    return weights


def kept(folder: Path) -> dict[str, torch.Tensor]:
    place, _ = checkpoint.latest(folder / "checkpoints")
    return {
        f"{part}/{key}": value
        for part in ("model", "plugins", "optimizer")
        for key, value in place.tensors(part).items()
    }


@pytest.mark.parametrize(
    "choice",
    [
        # one that draws, one that learns and one that remembers; the others by `make test-all`
        {"name": "rlw"},
        {"name": "gradnorm"},
        {"name": "dwa", "window": 2},
        pytest.param({"name": "imtl-l"}, marks=pytest.mark.slow),
        pytest.param({"name": "epoch-sigmoid", "start": {"near": 2}}, marks=pytest.mark.slow),
        pytest.param({"name": "ratio-clamp"}, marks=pytest.mark.slow),
        pytest.param({"name": "famo"}, marks=pytest.mark.slow),
        pytest.param({"name": "tchebycheff"}, marks=pytest.mark.slow),
    ],
    ids=lambda choice: choice["name"],
)
def test_a_run_stopped_within_an_epoch_goes_on_bit_by_bit(files, tmp_path, choice):
    whole = go(files, tmp_path / "whole", choice)
    broken = go(files, tmp_path / "broken", choice, stop_after=9) + go(files, tmp_path / "broken", choice)
    assert len(whole) == 12
    assert whole == broken
    assert len({tuple(step.values()) for step in whole}) > 1, "the weights do change in this run"
    first, second = kept(tmp_path / "whole"), kept(tmp_path / "broken")
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
