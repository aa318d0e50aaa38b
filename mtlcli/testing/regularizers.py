"""The contract of regularizers."""

import torch
from torch import Tensor

from mtlcli.model import MultiTaskModel
from mtlcli.plugin import RunFacts, TaskFacts
from mtlcli.regularizers.base import Regularizer
from mtlcli.testing.common import GRADES, SCORES, checked_options, close, expect, finite, listed, saved_and_loaded, tell
from mtlcli.testing.models import tiny_batch, tiny_model


def check_regularizer(plugin: type[Regularizer], **options: object) -> None:
    """Tries a regularizer on a model of two layers, for a task with classes and for one with scores, over two updates.

    - it adds one finite number, whose gradient is finite, and changes neither the model's weights nor its mode;
    - `after_step` works, and a copy with the same state goes on with the same numbers;
    - `passes` is 0 or more.
    """
    checked = checked_options(plugin, Regularizer, 1, options)
    name = plugin.__name__
    expect(plugin.passes >= 0, f"{name}.passes: expected 0 or more, found {plugin.passes}")
    run = RunFacts((GRADES, SCORES))

    def make() -> Regularizer:
        return plugin(run, **checked)

    regularizer = make()
    model = tiny_model(run.tasks)
    for _ in range(2):
        for task, facts in enumerate(run.tasks):
            model.zero_grad()
            added = _regularize(regularizer, model, task, facts)
            if added.requires_grad:
                added.backward()
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            expect(finite(*gradients), f"{name}: expected finite gradients for {facts.name}")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)
        regularizer.after_step(model)
        tell(regularizer, run, [[0, 1], [0]], gram=False)
    copy = saved_and_loaded(regularizer, make)
    for task, facts in enumerate(run.tasks):
        first, second = (_regularize(one, model, task, facts).detach() for one in (regularizer, copy))
        expect(
            close(first, second),
            f"{name}: expected a copy with the same state to add the same, found {first.item()} and {second.item()}",
        )


def _regularize(regularizer: Regularizer, model: MultiTaskModel, task: int, facts: TaskFacts) -> Tensor:
    name, batch = type(regularizer).__name__, tiny_batch(task, facts)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        added = model.regularization(task, batch, model(task, batch), [regularizer])
    expect(
        isinstance(added, Tensor) and added.shape == () and finite(added),
        f"{name}: expected one finite number for {facts.name}, found {added!r}",
    )
    expect(model.training, f"{name} leaves the model out of training mode")
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    expect(not changed, f"{name} changes the model in its forward pass: {listed(changed[:3])}")
    if not isinstance(added, Tensor):
        raise TypeError("checked above")
    return added
