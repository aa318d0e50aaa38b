"""Several label columns of one file as several tasks: one order of rows, one pass of the encoder, the same gradients."""

import signal
from dataclasses import replace

import pytest
import torch

import mtlcli
from columns import config_of, write_table
from mtlcli.architectures.hard_sharing import HardSharing
from mtlcli.config.layers import dump
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.facts import RunFacts, TaskFacts
from mtlcli.model.predict import predict_rows
from mtlcli.schedulers.base import Stage, Visit
from mtlcli.tasks.targets import Classes
from mtlcli.training.dev import predict_dev
from mtlcli.training.dry_run import dry_run
from mtlcli.training.events import Stepped
from mtlcli.training.loop import train
from mtlcli.training.passes import TaskLoss
from mtlcli.training.plan import passes_of_groups
from mtlcli.training.setup import set_up
from mtlcli.training.state import Progress
from mtlcli.training.step import take_step

METHODS = [
    {}, {"balancer": "uncertainty"}, {"balancer": "gradnorm"}, {"balancer": "uncertainty+pcgrad"}, {"balancer": "famo"},
    {"gradient_regularizer": {"name": "gradvac", "granularity": "layer"}}, {"regularizers": [{"name": "smart"}]},
    {"training": {"micro_batches": 2}}, {"architecture": "convolution"},
]  # fmt: skip


def passes_in(run, monkeypatch) -> list[int]:
    """Count the passes of the encoder."""
    count = [0]
    states = HardSharing.states

    def counted(self, task, inputs):
        count[0] += 1
        return states(self, task, inputs)

    monkeypatch.setattr(HardSharing, "states", counted)
    return count


def step_of(run, *, shares: bool):
    """Take one step without dropout, with shared passes or separate ones: losses, weights, and gradients by name."""
    run.model.eval()
    torch.manual_seed(3)
    micro = run.config.training.micro_batches
    step = []
    for task, source in enumerate(run.train):
        batches = tuple(source.next() for _ in range(micro))
        step.append(TaskLoss(task, batches if shares else tuple(replace(batch, group=None) for batch in batches)))
    combined = run.engine.run(step)
    named = {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}
    return combined, named


@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(map(str, method.values())) or "equal")
def test_a_shared_pass_gives_the_gradients_of_separate_ones(tmp_path, method):
    folder = write_table(tmp_path, missing=0.2)
    together, apart = (step_of(set_up(config_of(folder, **method)), shares=shares) for shares in (True, False))
    torch.testing.assert_close(together[0].losses, apart[0].losses, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(together[0].weights, apart[0].weights, rtol=1e-5, atol=1e-6)
    assert together[1].keys() == apart[1].keys()
    # On the scale of the whole gradient: that of a key's bias is 0 but for rounding.
    total = torch.stack([gradient.norm() for gradient in apart[1].values()]).norm()
    for name, gradient in apart[1].items():
        assert (together[1][name] - gradient).norm() / total < 1e-6, name


def test_tasks_of_one_file_run_the_encoder_once_a_step(tmp_path, monkeypatch):
    run = set_up(config_of(write_table(tmp_path)))
    assert [source.group for source in run.train] == [0, 0]
    count = passes_in(run, monkeypatch)
    with (tmp_path / "log").open("w") as log:
        take_step(run, Progress(cursors=[0, 0]), log)
    assert count == [1]
    first, second = (source.next() for source in run.train)
    assert first.rows.tolist() == second.rows.tolist()
    assert run.train[0].tokenized.sides is run.train[1].tokenized.sides
    assert run.plan.notes == (
        "tone and near read the same rows: in a step they share one forward and backward pass of the encoder and its dropout "
        "(12 passes for 24 batches)",
    )


@pytest.mark.parametrize("change", [{"batch_size": 4}, {"sampling": "balanced"}, {"max_rows": 20}])
def test_tasks_with_other_rows_or_batches_share_nothing(tmp_path, change):
    folder = write_table(tmp_path)
    config = config_of(folder)
    config.tasks["tone"] = config.tasks["tone"].model_copy(update=change)
    assert [source.group for source in set_up(config).train] == [None, None]


def test_max_rows_draws_the_same_rows_for_all_columns(tmp_path):
    config = config_of(write_table(tmp_path))
    for name in ("tone", "near"):
        config.tasks[name] = config.tasks[name].model_copy(update={"max_rows": 20})
    run = set_up(config)
    assert [source.group for source in run.train] == [0, 0]
    assert [len(source.tokenized) for source in run.train] == [20, 20]


def test_dev_rows_that_another_task_trains_on_are_a_warning(tmp_path):
    folder = write_table(tmp_path)
    config = config_of(folder)
    config.tasks["near"] = config.tasks["near"].model_copy(
        update={"train": str(folder / "table-dev.tsv"), "dev": str(folder / "table-train.tsv")}
    )
    warnings = set_up(config).plan.warnings
    assert "tone: 20 of 20 dev rows have the texts of a training row of near" in warnings
    assert "near: 40 of 40 dev rows have the texts of a training row of tone" in warnings


def test_a_stopped_run_of_several_columns_ends_like_the_unbroken_one(tmp_path):
    config = config_of(write_table(tmp_path, missing=0.2), balancer="uncertainty+pcgrad")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(config.model_dump(exclude_none=True, by_alias=True)))

    def trained(name: str, **more):
        return mtlcli.train(recipe, output=tmp_path / name, **more)

    def interrupt(event: object) -> None:
        if isinstance(event, Stepped) and event.step == 5:
            signal.raise_signal(signal.SIGINT)

    assert trained("whole").finished
    assert not trained("parts", on_event=interrupt).finished
    assert trained("parts", resume=True).finished
    whole, parts = ((tmp_path / name / "heads.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_a_frozen_encoder_keeps_the_features_of_a_group_once(tmp_path):
    stages = {"name": "stages", "stages": [{"epochs": 3, "freeze": ["encoder"], "scheduler": "all-together"}]}
    folder = write_table(tmp_path)
    config = config_of(folder, scheduler=stages, training={"steps": None, "steps_per_epoch": None})
    run = set_up(config)
    for event in train(run, tmp_path / "run"):
        if isinstance(event, Stepped):
            assert run.kept.train[0] is run.kept.train[1]
            assert run.kept.dev[0]["dev"] is run.kept.dev[1]["dev"]


def test_the_tasks_of_a_pass_have_the_same_dropout_mask(tmp_path):
    config = config_of(write_table(tmp_path))
    for name in ("tone", "near"):
        config.tasks[name] = config.tasks[name].model_copy(
            update={"head": config.tasks[name].head.model_copy(update={"dropout": 0.0})}
        )
    run = set_up(config)
    for module in run.model.architecture.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    step = [TaskLoss(task, (source.next(),)) for task, source in enumerate(run.train)]
    torch.manual_seed(3)
    together = run.engine.run(step).losses
    alone = []
    for part in step:
        torch.manual_seed(3)
        alone.append(run.engine.run([part]).losses)
    torch.testing.assert_close(together, torch.cat(alone))
    torch.manual_seed(4)
    assert (run.engine.run(step).losses - together).abs().min() > 1e-4  # there is dropout


def test_an_architecture_with_features_for_each_task_shares_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(HardSharing, "pass_of", lambda self, task: task)
    run = set_up(config_of(write_table(tmp_path)))
    count = passes_in(run, monkeypatch)
    run.engine.run([TaskLoss(task, (source.next(),)) for task, source in enumerate(run.train)])
    assert count == [2]
    assert run.plan.notes == (
        "tone and near read the same rows, but share no pass of the encoder: in this architecture every task has features of its own",
    )


def test_towers_share_nothing(tmp_path):
    run = set_up(config_of(write_table(tmp_path), architecture="soft-sharing"))
    run.model.eval()
    step = [TaskLoss(task, (source.next(),)) for task, source in enumerate(run.train)]
    run.engine.run(step)
    towers = run.model.architecture.towers()
    assert all(any(p.grad is not None for p in tower.parameters()) for tower in towers)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"batch_size": 4}, "their batches have different sizes (4 and 8)"),
        ({"sampling": "balanced"}, "the rows of tone come in an order that depends on the labels"),
        ({"max_rows": 20}, "they train on different rows (20 and 40)"),
    ],
)
def test_the_plan_says_why_tasks_of_one_file_share_nothing(tmp_path, change, reason):
    folder = write_table(tmp_path)
    config = config_of(folder)
    config.tasks["tone"] = config.tasks["tone"].model_copy(update=change)
    note = f"tone and near read {folder / 'table-train.tsv'}, but share no pass of the encoder: {reason}"
    assert note in set_up(config).plan.notes


class Fixed:
    """A scheduler with the visits of each step written down."""

    chooses_rows = False

    def __init__(self, *steps: list[Visit]) -> None:
        self.steps = steps

    def visits(self, position):
        return self.steps[position.step]

    def stage(self, position):
        return Stage(0, position.total_steps)

    run = RunFacts(tuple(TaskFacts(name, 4, 4, Classes(("a", "b"))) for name in "xyz"))


def test_passes_are_counted_by_the_position_in_the_rows():
    # Tasks 0 and 1 read the same rows. Step 1: both take batch 0. Step 2: task 0 takes 1 and 2. Step 3: 3, and 1 to 3.
    steps = [[Visit(0), Visit(1), Visit(2)], [Visit(0, 2)], [Visit(0), Visit(1, 3)]]
    assert passes_of_groups(Fixed(*steps), [0, 0, None], 3, 3) == {0: (8, 6)}
    assert passes_of_groups(Fixed(*steps), [None, None, None], 3, 3) == {}


def test_one_task_a_step_shares_nothing_and_the_plan_says_so(tmp_path):
    notes = set_up(config_of(write_table(tmp_path), scheduler="proportional")).plan.notes
    assert (
        "tone and near read the same rows, but share no pass of the encoder: no step has the same rows of several tasks"
        in notes
    )


def test_rows_of_gradients_need_a_backward_pass_for_each_task_and_the_plan_says_so(tmp_path):
    (note,) = set_up(config_of(write_table(tmp_path), gradient_regularizer="pcgrad")).plan.notes
    assert note.startswith("tone and near read the same rows: in a step they share one forward pass of the encoder")


def test_the_dry_run_names_every_task_of_a_group_and_shares_their_pass(tmp_path, monkeypatch):
    run = set_up(config_of(write_table(tmp_path)))
    count = passes_in(run, monkeypatch)
    assert [result.task for result in dry_run(run)] == ["tone", "near"]
    assert count == [3]  # each alone, and one pass for both


def test_a_share_of_the_rows_is_held_out_for_all_columns(tmp_path):
    config = config_of(write_table(tmp_path))
    for name in ("tone", "near"):
        config.tasks[name] = config.tasks[name].model_copy(update={"dev": "25%"})
    run = set_up(config)
    assert [source.group for source in run.train] == [0, 0]
    assert not any("training row" in warning for warning in run.plan.warnings)
    assert len({task.dev["dev"].texts_digest for task in run.tasks}) == 1 and len(run.tasks[0].dev["dev"]) == 10


def test_evaluation_runs_the_encoder_once_for_tasks_with_the_same_rows(tmp_path, monkeypatch):
    run = set_up(config_of(write_table(tmp_path)))
    count = passes_in(run, monkeypatch)
    together = predict_dev(run, {})
    assert count == [1]  # 20 short rows are one batch
    for task, name in enumerate(("tone", "near")):
        alone = predict_rows(run.model, {task: run.dev[name]["dev"]}, run.device, run.autocast)[task]
        predicted = together.rows[name]["dev"]
        assert predicted.loss == alone.loss
        assert all((predicted.rows[field] == alone.rows[field]).all() for field in alone.rows.fields)


def test_a_finished_run_is_evaluated_in_shared_passes(tmp_path, monkeypatch):
    config = config_of(write_table(tmp_path))
    for _ in train(set_up(config), tmp_path / "run"):
        pass
    calls = []
    forward = HardSharing.states
    monkeypatch.setattr(
        HardSharing, "states", lambda self, task, inputs: calls.append(task) or forward(self, task, inputs)
    )
    results = evaluate(tmp_path / "run", resamples=0)
    assert calls == [0] and set(results.results) == {"tone", "near"}
    calls.clear()
    alone = [evaluate(tmp_path / "run", [(name, [])], resamples=0)[name]["dev"] for name in ("tone", "near")]
    assert calls == [0, 1]
    for name, of_task in zip(("tone", "near"), alone, strict=True):
        assert {key: value.value for key, value in results[name]["dev"].items()} == {
            key: value.value for key, value in of_task.items()
        }
