"""What every method must be equal to: copies of one task are one task, order and accumulation change nothing."""

import pytest
import torch

import toy
from mtlcli import registry
from mtlcli.facts import RunFacts, TaskFacts
from mtlcli.heads.base import HeadFacts
from mtlcli.heads.linear import Linear
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.tasks.targets import Classes
from mtlcli.testing.common import start_of
from mtlcli.training.passes import TaskLoss

OPTIONS = {
    "static": {"weights": {"a": 1.0}},
    "epoch-sigmoid": {"start": {"a": 1.0}},
    "distill-anneal": {"teachers": {"a": "anywhere"}, "mode": "fixed", "weight": 1.0},  # heard, but without a say
}
METHODS = [
    (family, name) for family in ("balancers", "gradient_regularizers") for name in registry.FAMILIES[family].built_in
]
RANDOM_ORDER = {"pcgrad", "gradvac"}
"""Methods that take the other tasks in random order: with two tasks there is but one."""


def copies(count: int) -> tuple[RunFacts, MultiTaskModel]:
    """So many tasks with three classes, the same rows and the same head."""
    facts = RunFacts(tuple(TaskFacts(name, 100, 10, Classes.named("x", "y", "z")) for name in "abc"[:count]), seed=1)
    torch.manual_seed(18)
    architecture = toy.Words()
    head = Linear(HeadFacts(facts.tasks[0], toy.DIM, 1), dropout=0.0)
    heads = {}
    for task in facts.tasks:
        heads[task.name] = Linear(HeadFacts(task, toy.DIM, 1), dropout=0.0)
        heads[task.name].load_state_dict(head.state_dict())
    return facts, MultiTaskModel(architecture, heads)


def engine_with(family: str, name: str, facts: RunFacts, model: MultiTaskModel, **options):
    plugin = registry.load(family, name, "test")(facts, **OPTIONS.get(name, {}), **options)
    plugin.setup(start_of(model, facts.tasks))
    balancer = plugin if family == "balancers" else None
    return toy.engine(model, balancer, None if balancer is plugin else plugin)


def shared(model: MultiTaskModel) -> torch.Tensor:
    found = [p.grad for p in model.shared_parameters()]
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for p, g in zip(model.shared_parameters(), found, strict=True)
        ]
    )


@pytest.mark.parametrize(("family", "name"), METHODS)
def test_three_copies_of_a_task_pull_where_one_does(family, name):
    facts, model = copies(3)
    batch = toy.batch(0, 8)
    plain = toy.row_of(model, TaskLoss(0, (batch,)))
    options = {"scale": "mean"} if family == "gradient_regularizers" else {}
    engine_with(family, name, facts, model, **options).run([TaskLoss(task, (batch,)) for task in range(3)])
    found = shared(model)
    factor = float(found @ plain / (plain @ plain))
    assert factor > 0.01
    torch.testing.assert_close(found, factor * plain, rtol=1e-4, atol=1e-6)
    if family == "gradient_regularizers":
        assert factor == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("family", "name"), METHODS)
def test_the_order_of_the_tasks_changes_nothing(family, name):
    tasks = 2 if name in RANDOM_ORDER else 3
    found = []
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2]):
        order = [task for task in order if task < tasks]
        facts, model = toy.facts(tasks), toy.model(tasks)
        engine_with(family, name, facts, model).run([TaskLoss(task, (toy.batch(task, 8),)) for task in order])
        found.append(toy.gradients(model))
    for other in found[1:]:
        for key, gradient in found[0].items():
            torch.testing.assert_close(other[key], gradient, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")


@pytest.mark.parametrize(("family", "name"), METHODS)
def test_four_micro_batches_of_two_are_one_batch_of_eight(family, name):
    found = []
    for size in (8, 2):
        facts, model = toy.facts(3), toy.model(3)
        step = []
        for task in range(3):
            whole = toy.batch(task, 8)
            step.append(TaskLoss(task, tuple(toy.part(whole, at, at + size) for at in range(0, 8, size))))
        engine_with(family, name, facts, model).run(step)
        found.append(toy.gradients(model))
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")


@pytest.mark.parametrize(("family", "name"), METHODS)
def test_two_steps_in_a_row_stay_finite_and_leave_absent_tasks_alone(family, name):
    plugin = registry.load(family, name, "test")
    facts, model = toy.facts(3), toy.model(3)
    engine = engine_with(family, name, facts, model)
    engine.run([TaskLoss(task, (toy.batch(task, 8),)) for task in range(3)])
    if "all-tasks" in plugin.needs:
        pytest.skip(f"{name} needs every task in every step")
    engine.run([TaskLoss(task, (toy.batch(task, 8, seed=1),)) for task in (0, 2)])
    for key, gradient in toy.gradients(model).items():
        if key.startswith("heads.1."):
            assert gradient is None, key
        elif gradient is not None:
            assert torch.isfinite(gradient).all(), key
