"""What a step costs with an architecture: matrix products, counted before step 1."""

import pytest
import torch

from mtlcli.training.cost import relative_products
from mtlcli.training.setup import set_up
from small import small_config, write_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


def ratio(files, architecture, tasks=slice(None)):
    run = set_up(small_config(files, architecture=architecture))
    return relative_products(run.model, run.train[tasks], run.device)


def test_the_products_of_lora_are_those_worked_out_by_hand(files):
    # A token, d = 16, F = 32, 2 layers, rank 8 on query and value, the encoder frozen, a text of 7 tokens. Forward: a layer's 4
    # projections and 2 feed-forward matrices 4 (2 d d) + 2 (2 d F) = 4096, attention 2 (2 d 7) = 448, changes 4 (2 d r) = 1024.
    # Backward, layer 2: inputs of its matrices 4096, attention 896, inputs and weights of its changes 2048; layer 1: without the
    # inputs of query, key, value (1536) and of two factors (512), attention without the keys, which nothing below learns from (672).
    # BERT's pooler, which nothing reads, is one product of the text, forward.
    layer, attention, pooler = 4096, 448, 512 / 7
    forward = 2 * (layer + attention + 1024) + pooler
    backward = (layer + 896 + 2048) + (layer - 1536 + 672 + 2048 - 512)
    assert ratio(files, "lora", slice(1)) == pytest.approx(
        (forward + backward) / (3 * (2 * (layer + attention) + pooler)), rel=1e-6
    )


def test_every_task_runs_the_towers_of_all_and_a_copy_of_an_encoder_costs_nothing(files):
    assert 3 < ratio(files, "sluice") < 3.2  # the mixtures between the layers are the rest
    assert ratio(files, "soft-sharing") == pytest.approx(1, rel=0.01)


def test_higher_tasks_of_a_pipeline_cost_more(files):
    first, second, third = (ratio(files, "feature-pipeline", slice(task, task + 1)) for task in range(3))
    assert first < second < third
    assert first < ratio(files, "feature-pipeline") < third


def test_counting_draws_no_random_numbers_and_leaves_gradients_and_mode_as_they_were(files):
    run = set_up(small_config(files, architecture="adversarial"))
    run.model.train()
    before = torch.get_rng_state()
    relative_products(run.model, run.train, run.device)
    assert torch.equal(torch.get_rng_state(), before)
    assert run.model.training and all(parameter.grad is None for parameter in run.model.parameters())


def test_the_plan_says_what_an_architecture_costs_where_it_changes_the_step(files):
    notes = set_up(small_config(files, architecture="lora")).plan.notes
    assert "lora: a step computes 0.84 times the matrix products of hard sharing" in notes
    assert not [note for note in set_up(small_config(files)).plan.notes if "products" in note]
