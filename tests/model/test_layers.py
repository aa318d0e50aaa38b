"""Which hidden layer a task reads."""

import pytest
import torch

from mtlcli.errors import MtlError
from mtlcli.runs.saved_model import load_run
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import small_config, write_files


@pytest.fixture
def config(tmp_path):
    """The small run, `tone` on the first of its two layers."""
    config = small_config(write_files(tmp_path / "files"))
    config.tasks["tone"].layer = 1
    return config


def last_layer_moves(prepared, task: int) -> bool:
    """Whether a loss on the task's first rows has a gradient in the encoder's last layer."""
    model = prepared.model
    batch = prepared.train[task].next()
    model.zero_grad(set_to_none=True)
    model.losses(task, model(task, batch), batch).mean().backward()
    return any(one.grad is not None for one in model.architecture.encoder.encoder.layer[-1].parameters())


def test_a_task_reads_its_own_layer_and_the_others_that_of_the_run(config):
    prepared = set_up(config)
    assert [prepared.model.layer_of(task) for task in range(3)] == [1, -1, -1]
    assert [last_layer_moves(prepared, task) for task in range(3)] == [False, True, True]


def test_a_run_predicts_from_the_layer_it_was_trained_with(config, tmp_path):
    run = tmp_path / "run"
    prepared = set_up(config)
    for _ in train(prepared, run):
        pass
    again = load_run(run)[0].model
    assert [again.layer_of(task) for task in range(3)] == [1, -1, -1]
    assert torch.equal(again.heads[0].out.weight, prepared.model.heads[0].out.weight)


def test_a_layer_that_is_not_there_is_named_where_it_was_written(config):
    config.tasks["tone"].layer = 3
    with pytest.raises(
        MtlError, match=r"^tasks.tone.layer: tone reads layer 3; this encoder has 0 \(embeddings\) to 2"
    ):
        set_up(config)
