"""The step engine against a float64 reference: balancer weights, visit weights, gradient regularizer, micro-batches, blocks."""

import math
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import toy
from mtlcli.balancers.base import Balancer
from mtlcli.balancers.equal import Equal
from mtlcli.balancers.rlw import RLW
from mtlcli.balancers.static import Static
from mtlcli.balancers.tchebycheff import Tchebycheff
from mtlcli.balancers.uncertainty import Uncertainty
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.gradient_regularizers.gradvac import GradVac
from mtlcli.gradient_regularizers.pcgrad import PCGrad
from mtlcli.gradient_regularizers.upgrad import UPGrad
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.training.gradient_rows import blocks
from mtlcli.training.passes import TaskLoss

FACTS = toy.facts(4)
LOG_VARIANCES = [0.3, -0.8, 0.0, 1.1]
UNCERTAINTY_WEIGHTS = [math.exp(-s) * (0.5 if t == 1 else 1.0) for t, s in enumerate(LOG_VARIANCES)]
STATIC_WEIGHTS = [2.5, 0.4, 1.0, 1.7]


def three_of_four(weights: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> list[TaskLoss]:
    """A step without task c whose micro-batches differ in size and number."""
    cuts = {0: (0, 3, 8), 1: (0, 8), 3: (0, 2, 3, 8)}
    return [
        TaskLoss(task, tuple(toy.part(toy.batch(task, 8), *ends) for ends in pairwise(at)), weight)
        for (task, at), weight in zip(cuts.items(), weights, strict=True)
    ]


def static() -> Balancer:
    return Static(FACTS, weights=dict(zip("abcd", STATIC_WEIGHTS, strict=True)))


def uncertainty() -> Balancer:
    balancer = Uncertainty(FACTS)
    with torch.no_grad():
        for parameter, value in zip(balancer.log_variance, LOG_VARIANCES, strict=True):
            parameter.fill_(value)
    return balancer


BALANCERS = [(static, STATIC_WEIGHTS), (uncertainty, UNCERTAINTY_WEIGHTS)]


class Damped(GradientRegularizer):
    """Shrinks long gradients: coefficients 1 / (0.01 + |g|^2), so that a wrong scale of the rows is seen."""

    def __init__(self, run, granularity: str) -> None:
        super().__init__(run)
        self.granularity = granularity
        self.grams: list[Tensor] = []

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        self.grams.append(gram)
        return 1 / (0.01 + gram.diagonal())


def rows_and_private(model: MultiTaskModel, step: list[TaskLoss]) -> tuple[Tensor, list[list[Tensor]]]:
    """Gradients of the tasks' mean losses over all their rows, in float64: shared (k, P), and of each task's own head."""
    exact, rows, private = deepcopy(model).double(), [], []
    for part in step:
        head = exact.head(part.task)
        total = sum(head.loss(exact(part.task, batch), batch.gold).sum() for batch in part.batches) / part.count
        shared, mine = exact.shared_parameters(), exact.private_parameters(part.task)
        gradients = torch.autograd.grad(total, [*shared, *mine])
        rows.append(torch.cat([gradient.flatten() for gradient in gradients[: len(shared)]]))
        private.append(list(gradients[len(shared) :]))
    return torch.stack(rows), private


def by_blocks(rows: Tensor, columns: list[slice]) -> Tensor:
    """What `Damped` makes of weighted rows (k, P), block by block -> (P,)."""
    parts = [rows[:, part] / (0.01 + rows[:, part].square().sum(1, keepdim=True)) for part in columns]
    return torch.cat([part.sum(0) for part in parts])


def projected(rows: Tensor, order: torch.Generator) -> Tensor:
    """Algorithm 1 of PCGrad on rows (k, P) -> (P,)."""
    total = torch.zeros_like(rows[0])
    for i in range(len(rows)):
        running = rows[i].clone()
        for j in torch.randperm(len(rows), generator=order).tolist():
            if j != i and running @ rows[j] < 0:
                running -= (running @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        total += running
    return total


def shared_gradient(model: MultiTaskModel) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.shared_parameters()]).double()


def check(model: MultiTaskModel, step: list[TaskLoss], expected: Tensor, private: list[list[Tensor]], factors) -> None:
    """The shared gradient is `expected` (P,), each head's its plain one times the task's factor, absent heads have none."""
    torch.testing.assert_close(shared_gradient(model), expected, rtol=2e-5, atol=1e-6)
    for part, gradients, factor in zip(step, private, factors, strict=True):
        for parameter, gradient in zip(model.private_parameters(part.task), gradients, strict=True):
            torch.testing.assert_close(parameter.grad.double(), factor * gradient, rtol=2e-5, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.private_parameters(2))


VISITS = [(1.0, 1.0, 1.0), (5 / 8, 1 / 8, 2 / 8)]


@pytest.mark.parametrize("visits", VISITS)
@pytest.mark.parametrize(("make", "weights"), BALANCERS)
@pytest.mark.parametrize("granularity", ["whole", "layer", "tensor"])
def test_a_regularizer_works_on_rows_times_the_weights_of_balancer_and_visit(granularity, make, weights, visits):
    model, step = toy.model(4), three_of_four(visits)
    rows, private = rows_and_private(model, step)
    factors = [weights[part.task] * part.weight for part in step]
    weighted = rows * torch.tensor(factors, dtype=torch.float64).unsqueeze(1)
    columns = [slice(0, rows.shape[1])] if granularity == "whole" else [c for _, c in blocks(model, granularity)]
    assert len(columns) == {"whole": 1, "layer": 2, "tensor": 3}[granularity]
    regularizer = Damped(FACTS, granularity)
    combined = toy.engine(model, make(), regularizer).run(step)
    check(model, step, by_blocks(weighted, columns), private, factors)
    for gram, part in zip(regularizer.grams, columns, strict=True):
        torch.testing.assert_close(gram, weighted[:, part] @ weighted[:, part].T, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(combined.gram, rows @ rows.T, rtol=1e-5, atol=1e-9)  # the reported one is unweighted
    torch.testing.assert_close(combined.weights.double(), torch.tensor([weights[part.task] for part in step]).double())


@pytest.mark.parametrize("visits", VISITS)
@pytest.mark.parametrize(("make", "weights"), BALANCERS)
def test_pcgrad_projects_rows_times_the_weights_of_balancer_and_visit(make, weights, visits):
    model, step = toy.model(4), three_of_four(visits)
    rows, private = rows_and_private(model, step)
    factors = [weights[part.task] * part.weight for part in step]
    weighted = rows * torch.tensor(factors, dtype=torch.float64).unsqueeze(1)
    assert (weighted @ weighted.T).min() < 0, "the step has a conflict"
    toy.engine(model, make(), PCGrad(FACTS)).run(step)
    check(model, step, projected(weighted, PCGrad(FACTS).generator), private, factors)


@pytest.mark.parametrize("visits", VISITS)
@pytest.mark.parametrize(("make", "weights"), BALANCERS)
@pytest.mark.parametrize("by_rows", [False, True])
def test_the_plain_sum_is_of_rows_times_the_weights_of_balancer_and_visit(by_rows, make, weights, visits):
    model, step = toy.model(4), three_of_four(visits)
    rows, private = rows_and_private(model, step)
    factors = [weights[part.task] * part.weight for part in step]
    balancer = make()
    if by_rows:
        balancer.needs = frozenset({"gram"})
    engine = toy.engine(model, balancer)
    assert engine.needs_rows() == by_rows
    engine.run(step)
    check(model, step, torch.tensor(factors, dtype=torch.float64) @ rows, private, factors)


# Visit weights


def test_heads_that_keep_their_own_loss_are_still_multiplied_by_the_weight_of_the_visit():
    visits = (5 / 8, 1 / 8, 2 / 8)
    model, step = toy.model(4), three_of_four(visits)
    rows, private = rows_and_private(model, step)
    toy.engine(model, Tchebycheff(FACTS)).run(step)  # no reference yet: each task counts 1 / 3
    expected = torch.tensor(visits, dtype=torch.float64) @ rows / 3
    check(model, step, expected, private, visits)


def test_draws_of_one_task_are_a_mean_over_micro_batches_of_equal_size():
    from mtlcli.schedulers.base import draws

    order = [1, 0, 1, 1]
    taken = [toy.batch(task, 4, seed) for seed, task in enumerate(order)]
    model, exact = toy.model(2), toy.model(2)
    sum(exact.losses(batch.task, exact(batch.task, batch), batch).mean() for batch in taken).div(4).backward()
    step = [
        TaskLoss(visit.task, tuple(batch for batch in taken if batch.task == visit.task), visit.weight)
        for visit in draws(order)
    ]
    toy.engine(model).run(step)
    for first, second in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-5, atol=1e-7)


def test_a_mean_over_the_tasks_of_the_step_does_not_shrink_steps_with_many_tasks():
    visits = (5 / 8, 1 / 8, 2 / 8)
    model, step = toy.model(4), three_of_four(visits)
    rows, private = rows_and_private(model, step)
    balancer = RLW(FACTS)
    balancer.logits.zero_()  # weights 1 / 3 each
    toy.engine(model, balancer).run(step)
    check(model, step, torch.tensor(visits, dtype=torch.float64) @ rows, private, visits)


@pytest.mark.parametrize(("scale", "factor"), [("native", 3.0), ("mean", 3.0), ("sum", 1.0)])
def test_a_gradient_regularizer_that_averages_gets_visit_weights_of_mean_one(scale, factor):
    model, step = toy.model(4), three_of_four((5 / 8, 1 / 8, 2 / 8))
    engine = toy.engine(model, Equal(FACTS), UPGrad(FACTS, scale=scale))
    assert engine._visit_weights(step).tolist() == pytest.approx([factor * 5 / 8, factor / 8, factor * 2 / 8])
    assert engine._visit_weights(three_of_four()).tolist() == [1.0, 1.0, 1.0]
    # Two that average: squared. The tasks of a step that is not drawn keep weight 1.
    both = toy.engine(toy.model(4), RLW(FACTS), UPGrad(FACTS))
    assert both._visit_weights(step).tolist() == pytest.approx([9 * 5 / 8, 9 / 8, 9 * 2 / 8])
    assert both._visit_weights(three_of_four()).tolist() == [1.0, 1.0, 1.0]


# No shared parameter


@pytest.mark.parametrize("regularizer", [None, PCGrad, lambda run: GradVac(run, granularity="layer")])
@pytest.mark.parametrize("make", [static, uncertainty, lambda: Tchebycheff(FACTS)])
def test_heads_alone_learn_where_nothing_is_shared(make, regularizer):
    model, step = toy.model(4), three_of_four((5 / 8, 1 / 8, 2 / 8))
    _, private = rows_and_private(model, step)
    for parameter in model.architecture.parameters():
        parameter.requires_grad_(False)
    assert model.shared_parameters() == []
    balancer = make()
    engine = toy.engine(model, balancer, None if regularizer is None else regularizer(FACTS))
    combined = engine.run(step)
    weights = combined.weights.tolist() if balancer.weighs_heads else [1.0, 1.0, 1.0]
    for part, gradients, weight in zip(step, private, weights, strict=True):
        for parameter, gradient in zip(model.private_parameters(part.task), gradients, strict=True):
            torch.testing.assert_close(parameter.grad.double(), weight * part.weight * gradient, rtol=1e-5, atol=1e-7)
    assert engine.buffer_bytes() == 0
    assert torch.isfinite(combined.losses).all()
