"""What the step engine does for balancers that ask for more than losses, against plain autograd."""

import pytest
import torch
from torch import Tensor, nn

import toy
from mtlcli.architectures.base import HiddenStates
from mtlcli.balancers.base import Balancer
from mtlcli.balancers.equal import Equal
from mtlcli.balancers.famo import FAMO
from mtlcli.balancers.gradnorm import GradNorm
from mtlcli.balancers.static import Static
from mtlcli.gradient_regularizers.pcgrad import PCGrad
from mtlcli.heads.base import HeadFacts
from mtlcli.heads.linear import Linear
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.training.passes import TaskLoss


def rows_of(model: MultiTaskModel, step: list[TaskLoss], last: list[nn.Parameter]) -> Tensor:
    """Flat gradients (k, P) of the tasks' mean losses on some parameters, by plain autograd."""
    found = []
    for one in step:
        loss = model.losses(one.task, model(one.task, one.batches[0]), one.batches[0]).mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, last)]))
    return torch.stack(found)


def last_layer(model: MultiTaskModel) -> list[nn.Parameter]:
    return list(model.architecture.encoder[1].parameters())


def same(first: dict, second: dict, factor: float = 1.0) -> None:
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        torch.testing.assert_close(factor * gradient, second[name], rtol=1e-5, atol=1e-7, msg=name)


class Overhears(Balancer):
    """Keeps the inner products that it was shown."""

    needs = frozenset({"last-layer-gram"})

    def __init__(self, run) -> None:
        super().__init__(run)
        self.seen: list[Tensor] = []

    def known_weights(self, tasks: Tensor) -> Tensor:
        return torch.ones(len(tasks))

    def own_objective(self, losses: Tensor, tasks: Tensor, gram: Tensor) -> None:
        self.seen.append(gram)


def test_the_last_layer_gram_is_that_of_the_last_layer_only():
    model, step = toy.model(3), toy.one_each(3)
    rows = rows_of(model, step, last_layer(model))
    balancer = Overhears(toy.facts(3))
    combined = toy.engine(model, balancer).run(step)
    torch.testing.assert_close(balancer.seen[0], rows @ rows.T, rtol=1e-5, atol=1e-8)
    whole = torch.stack([toy.row_of(model, one) for one in step])
    assert (whole.square().sum(1) > 1.01 * rows.square().sum(1)).all()  # the word vectors have a part that is left out
    assert combined.gram is None  # nobody asked for that of all layers


def test_a_gradient_regularizer_sees_all_layers_while_the_balancer_sees_the_last():
    model, step = toy.model(3), toy.one_each(3)
    rows = rows_of(model, step, last_layer(model))
    whole = torch.stack([toy.row_of(model, one) for one in step]).double()
    balancer = Overhears(toy.facts(3))
    combined = toy.engine(model, balancer, PCGrad(toy.facts(3))).run(step)
    torch.testing.assert_close(balancer.seen[0], rows @ rows.T, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(combined.gram, whole @ whole.T, rtol=1e-5, atol=1e-8)


class Depths(toy.Words):
    """Task 0 reads the word vectors, the others what the layer above makes of them."""

    def states(self, task: int, inputs) -> HiddenStates:
        return HiddenStates(self.encoder[0](inputs.tokens) if task == 0 else self.encoder(inputs.tokens))


def test_tasks_that_read_different_layers_are_compared_on_the_last_one_that_all_reach():
    torch.manual_seed(18)
    heads = {task.name: Linear(HeadFacts(task, toy.DIM, 1), dropout=0.0) for task in toy.facts(3).tasks}
    model = MultiTaskModel(Depths(), heads)
    words = list(model.architecture.encoder[0].parameters())
    balancer, step = Overhears(toy.facts(3)), toy.one_each(3)
    engine = toy.engine(model, balancer)
    engine.run(step)
    engine.run(step[1:])
    rows, above = rows_of(model, step, words), rows_of(model, step[1:], last_layer(model))
    torch.testing.assert_close(balancer.seen[0], rows @ rows.T, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(balancer.seen[1], above @ above.T, rtol=1e-5, atol=1e-8)


def test_gradnorm_learns_from_its_own_objective_and_the_step_uses_the_weights_of_before():
    facts, model, step = toy.facts(3), toy.model(3), toy.one_each(3)
    balancer = GradNorm(facts, alpha=0.0)
    start = [0.5, 1.5, 1.0]
    with torch.no_grad():
        for weight, value in zip(balancer.weights, start, strict=True):
            weight.fill_(value)
    norms = rows_of(model, step, last_layer(model)).norm(dim=1)
    weighted = norms * torch.tensor(start)
    combined = toy.engine(model, balancer).run(step)
    assert combined.weights.tolist() == start
    found = torch.stack([weight.grad for weight in balancer.weights])
    torch.testing.assert_close(found, norms * torch.sign(weighted - weighted.mean()), rtol=1e-4, atol=1e-6)
    other = toy.model(3)
    toy.engine(other, Static(facts, weights=dict(zip("abc", start, strict=True)))).run(step)
    same(toy.gradients(other), toy.gradients(model))


def with_dropout() -> MultiTaskModel:
    torch.manual_seed(18)
    heads = {task.name: Linear(HeadFacts(task, toy.DIM, 1), dropout=0.5) for task in toy.facts(3).tasks}
    return MultiTaskModel(toy.Words(), heads).train()


def test_the_losses_after_the_update_have_the_dropout_masks_of_the_losses_before():
    model = with_dropout()
    halves = [tuple(toy.part(toy.batch(task, 8), *ends) for ends in ((0, 5), (5, 8))) for task in range(3)]
    step = [TaskLoss(task, batches) for task, batches in enumerate(halves)]
    engine = toy.engine(model, FAMO(toy.facts(3)))

    def by_hand() -> Tensor:
        """All passes one after the other, from the same random state: means over the 8 rows."""
        torch.manual_seed(5)
        with torch.no_grad():
            sums = [[model.losses(one.task, model(one.task, b), b).sum() for b in one.batches] for one in step]
        return torch.stack([(first + second) / 8 for first, second in sums])

    torch.manual_seed(5)
    before = engine.run(step).losses
    random = torch.get_rng_state()
    torch.testing.assert_close(engine.passes.losses_after(step), before)  # nothing has moved yet
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.5 * parameter.grad
    after = engine.passes.losses_after(step)
    assert torch.equal(random, torch.get_rng_state())  # the next step's masks are its own
    torch.testing.assert_close(after, by_hand())
    assert (after - before).abs().min() > 1e-3
    with torch.no_grad():
        fresh = model.losses(0, model(0, halves[0][0]), halves[0][0])
    torch.manual_seed(5)
    with torch.no_grad():
        assert not torch.equal(fresh, model.losses(0, model(0, halves[0][0]), halves[0][0]))  # masks do matter here


class Doubles(Equal):
    """Puts twice its losses in the place of every batch's own."""

    def batch_losses(self, batch) -> Tensor:
        assert torch.equal(batch.losses, batch.loss_of(batch_targets[batch.task]))
        return 2 * batch.losses


class DoublesByRows(Doubles):
    """The same by the way of the rows."""

    needs = frozenset({"gram"})


batch_targets = {task: toy.batch(task, 8).gold for task in range(3)}


@pytest.mark.parametrize("balancer", [Doubles, DoublesByRows])
def test_what_a_balancer_puts_in_the_place_of_the_losses_is_minimised_but_not_reported(balancer):
    plain, model, step = toy.model(3), toy.model(3), toy.one_each(3)
    expected = toy.engine(plain).run(step)
    found = toy.engine(model, balancer(toy.facts(3))).run(step)
    same(toy.gradients(plain), toy.gradients(model), factor=2.0)
    torch.testing.assert_close(found.losses, expected.losses)
    torch.testing.assert_close(found.totals, 2 * expected.losses)
