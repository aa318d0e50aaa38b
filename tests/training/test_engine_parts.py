"""Parts of an architecture in the engine: private, of some tasks, apart; an extra loss; another task's head."""

import pytest
import torch
from torch import nn

import toy
from mtlcli.architectures.base import HiddenStates, Inputs, Part
from mtlcli.balancers.uncertainty import Uncertainty
from mtlcli.gradient_regularizers.gradvac import GradVac
from mtlcli.gradient_regularizers.pcgrad import PCGrad
from mtlcli.heads.base import HeadFacts
from mtlcli.heads.linear import Linear
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.testing.common import start_of


class Parts(toy.Words):
    """Adds to the states a vector of all tasks, one of the first two, one that is apart, and one of each task."""

    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        self.encoder.requires_grad_(not frozen)
        self.some, self.apart = (nn.Parameter(torch.zeros(toy.DIM)) for _ in range(2))
        self.own = nn.ParameterList(nn.Parameter(torch.zeros(toy.DIM)) for _ in range(3))

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """States plus the vectors of the task."""
        return HiddenStates(hidden.last + self.apart + self.own[task] + (self.some if task < 2 else 0))

    def parts(self):
        """What each vector is for."""
        return {"some": Part((0, 1)), "apart": Part(apart=True)} | {f"own.{task}": Part((task,)) for task in range(3)}


class Alone(toy.Words):
    """A frozen encoder, and a vector for each task: nothing is shared."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder.requires_grad_(False)
        self.own = nn.ParameterList(nn.Parameter(torch.zeros(toy.DIM)) for _ in range(3))

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """States plus the task's vector."""
        return HiddenStates(hidden.last + self.own[task])

    def parts(self):
        """One part per task."""
        return {f"own.{task}": Part((task,)) for task in range(3)}


class Extra(toy.Words):
    """Adds the squared length of the first token's state, half, to the loss of each text in training."""

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """States with an extra loss."""
        last = self.encoder(inputs.tokens)
        return HiddenStates(last, extra=0.5 * last[:, 0].square().sum(-1) if self.training else None)


class Reads(toy.Words):
    """Adds the first class's score of task 0 to the states of task 1."""

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """States plus the other task's score."""
        if task != 1:
            return hidden
        return HiddenStates(hidden.last + inputs.read(0, hidden)[:, :1, None])

    def reads(self, task: int) -> tuple[int, ...]:
        """Task 1 reads task 0."""
        return (0,) if task == 1 else ()


def model_of(architecture, tasks: int = 3) -> MultiTaskModel:
    torch.manual_seed(18)
    fresh = architecture()
    heads = {task.name: Linear(HeadFacts(task, toy.DIM, 1), dropout=0.0) for task in toy.facts(tasks).tasks}
    return MultiTaskModel(fresh, heads)


def gradients(model: MultiTaskModel, balancer=None, regularizer=None, step=None):
    combined = toy.engine(model, balancer, regularizer).run(step or toy.one_each(3))
    return {name: p.grad for name, p in model.named_parameters()}, combined


def alone(model: MultiTaskModel, part) -> dict[str, torch.Tensor]:
    """The gradients of one task's mean loss."""
    model.zero_grad()
    batch = part.batches[0]
    loss = model.losses(batch.task, model(batch.task, batch), batch).sum() / batch.units
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("regularizer", [None, PCGrad])
def test_each_part_gets_the_gradients_of_its_tasks(regularizer):
    model, step = model_of(Parts), toy.one_each(3)
    single = [alone(model, part) for part in step]
    found, combined = gradients(model, None, None if regularizer is None else regularizer(toy.facts(3)), step)
    # Private: of one task alone. Apart: the plain sum, whatever the gradient regularizer does with the rest.
    for task in range(3):
        torch.testing.assert_close(found[f"architecture.own.{task}"], single[task][f"architecture.own.{task}"])
    torch.testing.assert_close(
        found["architecture.apart"], sum(one["architecture.apart"] for one in single), rtol=1e-5, atol=1e-7
    )
    weights = combined.coefficients.tolist()
    expected = sum(w * one["architecture.some"] for w, one in zip(weights[:2], single[:2], strict=True))
    torch.testing.assert_close(found["architecture.some"], expected, rtol=1e-5, atol=1e-7)
    assert regularizer is None or max(abs(w - 1) for w in weights) > 0.01, "the toy step has a conflict"


def test_what_is_apart_does_not_enter_the_comparison_and_gets_the_balancer_s_weights():
    model, step = model_of(Parts), toy.one_each(3)
    single = [alone(model, part) for part in step]
    balancer = Uncertainty(toy.facts(3))
    with torch.no_grad():
        for value, parameter in zip((0.5, -0.5, 0.0), balancer.log_variance, strict=True):
            parameter.fill_(value)
    found, combined = gradients(model, balancer, PCGrad(toy.facts(3)), step)
    compared = [name for name, _ in model.named_shared_parameters()]
    assert "architecture.apart" not in compared and "architecture.some" in compared
    lengths = [sum(one[name].square().sum() for name in compared if name in one) for one in single]
    torch.testing.assert_close(combined.gram.diagonal().float(), torch.stack(lengths), rtol=1e-5, atol=0)
    expected = sum(w * one["architecture.apart"] for w, one in zip(combined.weights, single, strict=True))
    torch.testing.assert_close(found["architecture.apart"], expected, rtol=1e-5, atol=1e-7)


def test_a_part_that_no_task_of_the_step_uses_keeps_no_gradient():
    found, _ = gradients(model_of(Parts), None, PCGrad(toy.facts(3)), [toy.one_each(3)[2]])
    assert found["architecture.some"] is None and found["architecture.own.0"] is None
    assert found["architecture.apart"] is not None and found["architecture.own.2"] is not None


def test_methods_by_block_work_where_a_task_uses_none_of_a_block():
    model, regularizer = model_of(Parts), GradVac(toy.facts(3), granularity="tensor")
    regularizer.setup(start_of(model, toy.facts(3).tasks))
    found, _ = gradients(model, None, regularizer)
    assert all(gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("balancer", [None, Uncertainty])
def test_a_step_in_which_nothing_is_shared_is_a_normal_step(balancer):
    model, step = model_of(Alone), toy.one_each(3)
    assert model.shared_parameters() == []
    single = [alone(model, part) for part in step]
    found, combined = gradients(model, None if balancer is None else balancer(toy.facts(3)), None, step)
    for task in range(3):
        name = f"architecture.own.{task}"
        torch.testing.assert_close(found[name], combined.weights[task] * single[task][name])


def test_an_extra_loss_is_minimised_but_not_reported():
    plain, extra, step = model_of(toy.Words).train(), model_of(Extra).train(), toy.one_each(3)
    without, before = gradients(plain, None, None, step)
    found, combined = gradients(extra, None, None, step)
    torch.testing.assert_close(combined.losses, before.losses)
    added = []
    for part in step:
        last = extra.architecture.encoder(part.batches[0].tokens)[:, 0]
        added.append(0.5 * last.square().sum(-1).mean())
    torch.testing.assert_close(combined.totals - combined.losses, torch.stack(added).detach())
    extra.zero_grad()
    sum(added).backward()
    for name, parameter in extra.named_parameters():
        expected = without[name] if parameter.grad is None else without[name] + parameter.grad
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_micro_batches_weigh_an_extra_loss_by_their_rows():
    step = toy.one_each(3)[:1]
    whole = step[0].batches[0]
    halves = [type(step[0])(0, (toy.part(whole, 0, 2), toy.part(whole, 2, whole.count)))]
    totals = [gradients(model_of(Extra).train(), None, None, one)[1].totals for one in (step, halves)]
    torch.testing.assert_close(totals[0], totals[1])


def test_a_head_that_another_task_reads_is_shared_and_gets_both_gradients():
    model, step = model_of(Reads), toy.one_each(3)
    heads = {id(p) for p in model.heads[0].parameters()}
    assert heads <= {id(p) for p in model.shared_parameters()} and not model.private_parameters(0)
    single = [alone(model, part) for part in step]
    found, _ = gradients(model, None, None, step)
    for name, parameter in model.named_parameters():
        if id(parameter) in heads:
            assert single[1][name].any()
            torch.testing.assert_close(found[name], single[0][name] + single[1][name])
