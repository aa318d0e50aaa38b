"""The joint run: fitted heads, measurements that change nothing, and going on after a stop."""

import copy
import json

import numpy as np
import pytest
import torch

from mtlcli.affinity import probe
from mtlcli.affinity.lookahead import LookaheadRows, _denominators, average, lookahead_steps, measure_lookahead
from mtlcli.affinity.plan import Options, open_units, plan_affinity
from mtlcli.affinity.probe import fit_head, joint_config
from mtlcli.affinity.rows import gradient_row, make_batch, mean_loss, measured_batches, shared_encoder
from mtlcli.affinity.run import measure_affinity
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.errors import MtlError
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import set_up
from small import small_config, write_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"), rows=80)


def measured(files, folder, measures, stop=lambda: False, updates=10):
    """Plan and measure; return the lines of units by measure and unit, and the plan."""
    folder.mkdir(exist_ok=True)
    plan = plan_affinity(small_config(files), Options(measures, updates=updates, batches=6), folder)
    units = open_units(plan, folder)
    list(measure_affinity(plan, folder, units, stop=stop))
    lines = [json.loads(line) for line in units.path.read_text().splitlines()]
    return {(line["measure"], json.dumps(line.get("unit"))): line for line in lines[1:]}, plan


def stepped(files, updates=10, steps=3):
    """A joint run after some updates, without measurements."""
    run = set_up(joint_config(small_config(files), updates))
    run.model.train()
    for _ in range(steps):
        run.engine.run([_loss(run, task) for task in range(3)])
        run.optimizer.step()
    return run


def _loss(run, task):
    return TaskLoss(task, (run.train[task].next(),))


@pytest.mark.slow
def test_measuring_leaves_the_weights_of_the_joint_run_bit_equal(files, tmp_path):
    _, without = measured(files, tmp_path / "a", ("lookahead",))
    _, both = measured(files, tmp_path / "b", ("gradients", "lookahead"))
    # Without any measurement before the last position, which is the end of the run for gradients alone.
    plain = plan_affinity(small_config(files), Options(("gradients",), updates=10, batches=6), tmp_path / "c")
    assert lookahead_steps(10) == [4, 8]
    (tmp_path / "c").mkdir()
    list(measure_affinity(plain, tmp_path / "c", open_units(plain, tmp_path / "c")))
    states = [plan.run.model.state_dict() for plan in (both, plain)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], value) for name, value in without.run.model.state_dict().items())


def test_what_is_stopped_goes_on_to_the_same_numbers(files, tmp_path):
    whole, _ = measured(files, tmp_path / "whole", ("data", "gradients", "lookahead"))
    asked = 0

    def stop():
        nonlocal asked
        asked += 1
        return asked % 30 == 0

    for _ in range(20):
        parts, _ = measured(files, tmp_path / "parts", ("data", "gradients", "lookahead"), stop)
        if parts.keys() == whole.keys():
            break
    assert asked > 60
    assert parts == whole
    assert {measure for measure, _ in whole} == {"data", "gradients", "lookahead", "heads"}
    assert [unit for measure, unit in whole if measure == "gradients"] == ["0", "3", "10"]


def test_gradients_do_not_touch_what_training_uses(files):
    run = stepped(files)
    parameters = [parameter for _, parameter in shared_encoder(run.model)]
    batch = make_batch(run, 0, np.arange(8))
    run.model.eval()
    for parameter in run.model.parameters():
        parameter.grad = None
    state = torch.get_rng_state()
    row = gradient_row(run.model, batch, parameters)
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    mean_loss(run.model, batch).backward()
    expected = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    assert torch.allclose(row, expected)


def test_the_lookahead_is_the_fall_of_the_loss_after_a_step_for_one_task(files):
    run = stepped(files)
    run.model.eval()
    rows = LookaheadRows(run)
    before = copy.deepcopy(run.model.state_dict())
    found = measure_lookahead(run, rows, 0, 5, [0.0] * 3)
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())
    source, receiver = 1, 2
    for_step, _ = rows.of(0, source)
    _, for_loss = rows.of(0, receiver)
    parameters = [parameter for _, parameter in shared_encoder(run.model)]

    def loss():
        with torch.no_grad():
            return np.mean([float(mean_loss(run.model, make_batch(run, receiver, part))) for part in for_loss])

    first = loss()
    parts = [gradient_row(run.model, make_batch(run, source, part), parameters) for part in for_step]
    flat, beta = torch.stack(parts).mean(0), run.config.optimizer.beta2
    with torch.no_grad():
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            state = run.optimizer.state.get(parameter)
            if not state:  # unused, so its gradient is 0
                continue
            gradient = part.view_as(parameter)
            moment = (beta * state["exp_avg_sq"] + (1 - beta) * gradient**2) / (1 - beta ** (float(state["step"]) + 1))
            parameter -= found.rate * gradient / (moment.sqrt() + run.config.optimizer.eps)
    assert found.affinity[source, receiver] == pytest.approx(1 - loss() / first, abs=6e-7)
    # For a step this small, the first-order value is near.
    assert found.first_order[source, receiver] == pytest.approx(
        found.affinity[source, receiver], abs=0.3 * abs(found.affinity).max()
    )


def test_a_floor_keeps_the_ratio_of_a_learned_task_small(files):
    run = stepped(files)
    rows = LookaheadRows(run)
    free, floored = (measure_lookahead(run, rows, 0, 5, [floor] * 3) for floor in (0.0, 100.0))
    assert floored.affinity[:, 0] == pytest.approx(free.affinity[:, 0] * free.losses[0] / 100.0, rel=1e-3)


def test_step_and_loss_of_a_measurement_share_no_row(files):
    run = set_up(joint_config(small_config(files), 10))
    rows = LookaheadRows(run)
    for number in range(4):
        for_step, for_loss = rows.of(number, 0)
        assert for_step and for_loss
        assert not {*np.concatenate(for_step).tolist()} & {*np.concatenate(for_loss).tolist()}


def test_batches_of_tasks_that_read_the_same_rows_are_disjoint(files, tmp_path):
    lines = [f"text {number} of many\t{number % 2}\t{(number // 2) % 2}" for number in range(64)]
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text("sentence\ta\tb\n" + "\n".join(lines) + "\n")
    task = {"kind": "classification", "train": str(tmp_path / "train.tsv"), "dev": str(tmp_path / "dev.tsv")}
    values = small_config(files).plain()
    values["tasks"] = {name: task | {"label": name, "text": ["sentence"]} for name in ("a", "b")}
    run = set_up(joint_config(resolve([Layer(values)]), 10))
    assert run.train[0].group == run.train[1].group is not None
    first, second = (np.concatenate(measured_batches(run, task, "x", 99).batches) for task in (0, 1))
    assert len(first) == len(second) == 32
    assert not {*first.tolist()} & {*second.tolist()}
    assert not np.array_equal(first, np.concatenate(measured_batches(run, 0, "y", 99).batches))


def test_a_head_is_fitted_without_moving_the_encoder_and_never_gets_worse(files, monkeypatch):
    run = set_up(joint_config(small_config(files), 10))
    encoder = copy.deepcopy(run.model.architecture.state_dict())
    random = torch.get_rng_state()
    fits = [fit_head(run, task) for task in range(3)]
    assert all(torch.equal(encoder[name], value) for name, value in run.model.architecture.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    again = set_up(joint_config(small_config(files), 10))
    assert [fit_head(again, task) for task in range(3)] == fits
    assert any(fit.steps for fit in fits)
    # Without updates, the loss is that of the kept head.
    monkeypatch.setattr(probe, "HEAD_PASSES", 0)
    assert [fit_head(run, task).loss for task in range(3)] == [fit.loss for fit in fits]
    assert fits[0].guess == pytest.approx(np.log(2))


def test_a_single_task_and_an_encoder_that_nobody_shares_are_refused(files, tmp_path):
    config = small_config(files)
    with pytest.raises(MtlError, match="expected two tasks or more, found tone"):
        plan_affinity(config.model_copy(update={"tasks": {"tone": config.tasks["tone"]}}), Options(), tmp_path)
    soft = small_config(files, architecture="soft-sharing")
    with pytest.raises(MtlError, match="share no trainable parameter"):
        plan_affinity(soft, Options(("gradients",)), tmp_path)


def test_the_average_over_measurements_weighs_all_rates_alike():
    # Z / eta = 2, 4 for every pair; mean 3, times the mean rate 0.15
    values = np.array([np.full((2, 2), 0.2), np.full((2, 2), 0.8)])
    found = average(values, np.array([0.1, 0.2]), seed=1)
    assert found.value[0, 1] == pytest.approx(3 * 0.15)
    assert found.count == 2
    assert np.isnan(found.low).all()  # one block of five


def test_the_interval_of_the_average_is_that_of_blocks():
    generator = np.random.default_rng(1)
    # Neighbors are equal in fives: 12 independent values with a standard deviation of 1.
    values = np.repeat(generator.standard_normal((12, 1, 1)), 5, axis=0) * np.ones((60, 2, 2))
    found = average(values, np.ones(60), seed=1)
    width = float(found.high[0, 1] - found.low[0, 1])
    assert width == pytest.approx(2 * 1.96 * values[::5, 0, 0].std() / np.sqrt(12), rel=0.15)


def test_a_word_that_the_run_has_not_met_moves_as_little_as_the_optimizer_would_move_it(files):
    run = stepped(files)
    parameters = [parameter for _, parameter in shared_encoder(run.model)]
    words = run.model.architecture.encoder.get_input_embeddings().weight
    unseen = (run.optimizer.state[words]["exp_avg_sq"] == 0).all(1)
    assert unseen.any()
    gradient = torch.full((sum(p.numel() for p in parameters),), 1e-3)
    steps = gradient / _denominators(run, parameters, gradient)
    # After 3 steps without and one with this gradient, v = (1 - b) g^2 / (1 - b^4): a step of about 2.
    expected = np.sqrt((1 - run.config.optimizer.beta2**4) / (1 - run.config.optimizer.beta2))
    of_words = steps[: words.numel()].view_as(words)
    assert of_words[unseen].numpy() == pytest.approx(expected, abs=0.01)
