"""What balancers remember and learn is in the checkpoint: a run that was stopped goes on as if it had not been."""

from operator import attrgetter
from pathlib import Path

import pytest
import torch

from resuming import go, kept
from small import write_files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


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
    weights = attrgetter("weights")
    whole = go(files, tmp_path / "whole", weights, balancer=choice)
    broken = go(files, tmp_path / "broken", weights, stop_after=9, balancer=choice)
    broken += go(files, tmp_path / "broken", weights, balancer=choice)
    assert len(whole) == 12
    assert whole == broken
    assert len({tuple(step.values()) for step in whole}) > 1, "the weights do change in this run"
    first, second = kept(tmp_path / "whole"), kept(tmp_path / "broken")
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
