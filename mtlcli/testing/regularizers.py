"""The contract of regularizers."""

from typing import get_args

import torch
from torch import Tensor

from mtlcli.facts import RunFacts, TaskFacts
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.regularizers.base import Regularizer, RegularizerNeed
from mtlcli.testing.common import (
    GRADES,
    SCORES,
    call_hooks,
    checked_options,
    close,
    expect,
    finite,
    listed,
    saved_and_loaded,
    start_of,
)
from mtlcli.testing.models import step_engine, tiny_batch, tiny_model
from mtlcli.training.engine import StepEngine
from mtlcli.training.forward import regularization
from mtlcli.training.passes import TaskLoss
from mtlcli.training.rng import random_states


def check_regularizer(plugin: type[Regularizer], **options: object) -> None:
    """Check a regularizer on a model of two layers, for a task with classes and a task with scores, over two updates.

    - it returns one finite number with a finite gradient, or None, and changes neither the model's weights nor its mode;
    - `after_backward` adds finite values to existing gradients only;
    - `after_step` works, and a copy with the same state continues with the same numbers;
    - `forward_passes` and `backward_passes` are 0 or more.
    """
    checked = checked_options(plugin, Regularizer, 1, options)
    name = plugin.__name__
    unknown = set(plugin.needs) - set(get_args(RegularizerNeed))
    expect(not unknown, f"{name}.needs: expected some of {listed(get_args(RegularizerNeed))}; found {listed(unknown)}")
    run = RunFacts((GRADES, SCORES))
    model = tiny_model(run.tasks, towers="towers" in plugin.needs)
    start = start_of(model, run.tasks)

    def make() -> Regularizer:
        regularizer = plugin(run, **checked)
        regularizer.setup(start)
        return regularizer

    regularizer = make()
    passes = (regularizer.forward_passes, regularizer.backward_passes)
    expect(min(passes) >= 0, f"{name}.forward_passes, backward_passes: expected 0 or more, found {passes}")
    engine = step_engine(model, run, [regularizer])
    for _ in range(2):
        for task, facts in enumerate(run.tasks):
            _regularize(regularizer, model, task, facts)
            _check_gradients(name, engine, task, facts)
        # In place of an optimizer update, so that a regularizer that compares with earlier weights has a difference.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)
        regularizer.after_step(model)
        call_hooks(regularizer, run, [[0, 1], [0]], gram=False)
    copy = saved_and_loaded(regularizer, make)
    for task, facts in enumerate(run.tasks):
        first, second = (_regularize(twin, model, task, facts).detach() for twin in (regularizer, copy))
        expect(
            close(first, second),
            f"{name}: expected a copy with the same state to add the same, found {first.item()} and {second.item()}",
        )


def _check_gradients(name: str, engine: StepEngine, task: int, facts: TaskFacts) -> None:
    before = {key: value.clone() for key, value in engine.model.state_dict().items()}
    engine.run([TaskLoss(task, (tiny_batch(task, facts),))])
    named = dict(engine.model.named_parameters())
    gradients = {key: parameter.grad for key, parameter in named.items() if parameter.grad is not None}
    expect(finite(*gradients.values()), f"{name}: expected finite gradients for {facts.name}")
    # The run has two tasks, so 1 - task is the other one.
    other = [key for key in gradients if key.startswith(f"heads.{1 - task}.")]
    expect(not other, f"{name}: a step of {facts.name} alone gives a gradient to {listed(other)}")
    changed = [key for key, value in engine.model.state_dict().items() if not torch.equal(value, before[key])]
    expect(not changed, f"{name} changes the model's weights before the optimizer does: {listed(changed[:3])}")


def _regularize(regularizer: Regularizer, model: MultiTaskModel, task: int, facts: TaskFacts) -> Tensor:
    name, batch = type(regularizer).__name__, tiny_batch(task, facts)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # so that the plugin and its copy draw the same perturbations
        states = random_states(torch.device("cpu"))
        hidden = model.hidden(task, model.inputs(task, batch))
        output = model.output(task, batch, hidden)
        added = regularization(model, task, batch, hidden, output, states, [regularizer])
    added = added if isinstance(added, Tensor) else torch.tensor(added)
    expect(added.shape == () and finite(added), f"{name}: expected one finite number for {facts.name}, found {added!r}")
    expect(model.training, f"{name} leaves the model out of training mode")
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    expect(not changed, f"{name} changes the model in its forward pass: {listed(changed[:3])}")
    return added
