"""Regularizers of the weights: what they add to a gradient, by hand."""

import pytest
import torch
from torch import nn

import toy
from mtlcli.architectures.base import ArchitectureFacts
from mtlcli.architectures.soft_sharing import SoftSharing
from mtlcli.heads.base import HeadFacts
from mtlcli.heads.linear import Linear
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.plugin import EpochResult
from mtlcli.regularizers.l2_sp import L2SP
from mtlcli.regularizers.soft_sharing import SoftSharingDistance
from mtlcli.regularizers.successive import Successive
from mtlcli.testing.common import start_of
from mtlcli.training.passes import TaskLoss

FACTS = toy.facts(3)


def begun(plugin, model, **options):
    made = plugin(FACTS, **options)
    made.setup(start_of(model, FACTS.tasks))
    return made


def no_gradient(model, but: str = "") -> None:
    """Gradients of zero, and none for the parameters whose name starts with `but`."""
    for name, parameter in model.named_parameters():
        parameter.grad = None if but and name.startswith(but) else torch.zeros_like(parameter)


def set_to(model, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def gradients(model) -> dict[str, float | None]:
    """The one value of each gradient."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            found[name] = None
            continue
        values = parameter.grad.unique()
        assert len(values) == 1, name
        found[name] = values.item()
    return found


def test_successive_pulls_to_where_the_previous_epoch_ended():
    model = toy.model(3)
    successive = begun(Successive, model, delta=0.25)
    for value, expected in ((1.0, 0.0), (2.0, 0.0)):  # the first epoch: no pull
        set_to(model, value)
        no_gradient(model)
        successive.after_backward(model)
        assert set(gradients(model).values()) == {expected}
    set_to(model, 3.0)
    successive.on_epoch(EpochResult(0, {}))
    for value in (3.0, 5.0):
        set_to(model, value)
        no_gradient(model)
        successive.after_backward(model)
        for name, found in gradients(model).items():  # 2 * .25 * (5 - 3) on what is shared
            assert found == (0.0 if name.startswith("heads.") else value - 3.0) * 2 * 0.25, name
    successive.on_epoch(EpochResult(1, {}))
    no_gradient(model)
    successive.after_backward(model)
    assert set(gradients(model).values()) == {0.0}, "the new epoch starts where the old one ended"


def test_l2_sp_pulls_the_encoder_to_its_first_weights_and_heads_to_zero():
    model = toy.model(3)
    set_to(model, 1.0)
    pulled = begun(L2SP, model, alpha=0.5, beta=0.25)
    set_to(model, 3.0)
    no_gradient(model, but="heads.1.")
    pulled.after_backward(model)
    for name, found in gradients(model).items():
        if name.startswith("heads."):
            assert found == (None if name.startswith("heads.1.") else 0.25 * 3), name
        else:
            assert found == 0.5 * (3 - 1), name


def test_a_pull_is_the_derivative_of_its_penalty():
    model, step = toy.model(3), toy.one_each(3)
    toy.engine(model).run(step)
    plain = toy.gradients(model)
    pulled = begun(L2SP, model, alpha=0.3, beta=0.2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=pulled.generator))
    first = pulled.initial.tensors()
    penalty = sum(
        0.15 * (p - first[name]).square().sum() if name in first else 0.1 * p.square().sum()
        for name, p in model.named_parameters()
    )
    expected = torch.autograd.grad(penalty, list(model.parameters()))
    toy.engine(model).run(step)
    without = toy.gradients(model)
    toy.engine(model, regularizers=(pulled,)).run(step)
    for (name, parameter), more in zip(model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, without[name] + more, msg=name)
        assert plain[name] is not None


class Weight(nn.Module):
    """A tower of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(1))


def towers(*values: float) -> MultiTaskModel:
    model = MultiTaskModel(
        SoftSharing(ArchitectureFacts(Weight(), FACTS.tasks[: len(values)])),
        {task.name: Linear(HeadFacts(task, 1, 1)) for task in FACTS.tasks[: len(values)]},
    )
    with torch.no_grad():
        for tower, value in zip(model.architecture.towers(), values, strict=True):
            tower.number.fill_(value)
    return model


@pytest.mark.parametrize(
    ("values", "expected"),
    # weight .5 times the squared differences of (1, 2, 4), 1 + 9 + 4: d/da = (1 - 2) + (1 - 4), d/db = 1 - 2, d/dc = 3 + 2
    [((1.0, 2.0, 4.0), [-4.0, -1.0, 5.0]), ((1.0, 3.0), [-2.0, 2.0]), ((7.0, 7.0, 7.0), [0.0, 0.0, 0.0])],
)
def test_the_distance_pulls_every_two_towers_together(values, expected):
    model = towers(*values)
    no_gradient(model)
    SoftSharingDistance(FACTS, weight=0.5).after_backward(model)
    assert [tower.number.grad.item() for tower in model.architecture.towers()] == pytest.approx(expected)


def test_the_tower_of_an_absent_task_stays_where_it_is():
    model = towers(1.0, 2.0, 4.0)
    no_gradient(model, but="architecture.others.0.")
    SoftSharingDistance(FACTS, weight=0.5).after_backward(model)
    found = [tower.number.grad for tower in model.architecture.towers()]
    assert found[1] is None
    assert (found[0].item(), found[2].item()) == pytest.approx((-4.0, 5.0))


def test_pulls_come_on_top_of_combined_rows():
    from mtlcli.gradient_regularizers.pcgrad import PCGrad

    model, step = toy.model(3), [TaskLoss(task, (toy.batch(task, 8),)) for task in range(3)]
    toy.engine(model, None, PCGrad(FACTS)).run(step)
    without = toy.gradients(model)
    pulled = begun(L2SP, model, alpha=0.0, beta=1.0)
    toy.engine(model, None, PCGrad(FACTS), regularizers=(pulled,)).run(step)
    for name, parameter in model.named_parameters():
        more = parameter.detach() if name.startswith("heads.") else 0
        torch.testing.assert_close(parameter.grad, without[name] + more, msg=name)


def test_successive_has_nothing_to_pull_where_no_parameter_is_shared():
    """A frozen encoder with modules of single tasks, such as adapters."""
    model = nn.Module()
    model.named_shared_parameters = list
    successive = begun(Successive, model)
    successive.on_epoch(EpochResult(1, {}))
    successive.after_backward(model)
    assert not successive.due
