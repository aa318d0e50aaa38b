"""Representation alignment: the three distances by hand, and whose encodings are compared."""

import math

import pytest
import torch

from forwards import RUN, added, batch, plain, term
from mtlcli.plugin import StepResult
from mtlcli.regularizers.representation_alignment import (
    RepresentationAlignment,
    central_moment_discrepancy,
    mean_kl,
    squared_mmd,
)
from mtlcli.testing.common import start_of

DISTANCES = [mean_kl, squared_mmd, central_moment_discrepancy]


def test_kl_of_two_vectors_by_hand():
    # softmax of (0, log 3) is (1/4, 3/4); of (0, 0) it is (1/2, 1/2): -1/4 log(1/2) + 1/4 log(3/2) = log(3) / 4
    x, y = torch.tensor([[0.0, math.log(3)]]), torch.zeros(1, 2)
    assert mean_kl(x, y).item() == pytest.approx(math.log(3) / 4, rel=1e-6)


def test_kl_takes_the_mean_of_the_softmax_not_the_softmax_of_the_mean():
    # (1/4, 3/4) and (3/4, 1/4) are (1/2, 1/2) together
    x = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]])
    assert mean_kl(x, torch.zeros(3, 2)).item() == pytest.approx(0, abs=1e-7)


def test_mmd_of_two_vectors_by_hand():
    # one point each, so the mean squared distance is their own, 9: k(x, y) = mean exp(-1 / f) of f = 1/4, 1/2, 1, 2, 4
    kernel = sum(math.exp(-1 / f) for f in (0.25, 0.5, 1, 2, 4)) / 5
    assert squared_mmd(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 3.0]])).item() == pytest.approx(
        2 - 2 * kernel, rel=1e-5
    )


def test_mmd_of_three_vectors_by_hand():
    # 0 and 1 against 3: squared distances 1, 9, 4 with mean 14 / 3; sides 1/2, 1/2, -1, and k = 1 of a vector with itself.
    def kernel(square: float) -> float:
        return sum(math.exp(-square / (f * 14 / 3)) for f in (0.25, 0.5, 1, 2, 4)) / 5

    expected = (2 + 2 * kernel(1)) / 4 + 1 - kernel(9) - kernel(4)
    assert squared_mmd(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0]])).item() == pytest.approx(expected, rel=1e-5)


def test_mmd_does_not_change_with_the_scale_of_the_encodings():
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 3, generator=random), torch.randn(4, 3, generator=random) + 1
    torch.testing.assert_close(squared_mmd(x, y), squared_mmd(1000 * x, 1000 * y), rtol=1e-4, atol=1e-6)


def test_cmd_by_hand():
    # sigmoids .2 and .6: mean .4, central moments 2 to 5: .04, 0, .0016, 0. Against .5 and .5: mean .5, no moments
    x = torch.logit(torch.tensor([[0.2], [0.6]]))
    assert central_moment_discrepancy(x, torch.zeros(2, 1)).item() == pytest.approx(0.1 + 0.04 + 0.0016, rel=1e-4)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_set_is_at_no_distance_from_itself_and_the_gradient_there_is_finite(distance):
    for x in (
        torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
        torch.zeros(1, 3),
        torch.full((3, 3), 1e3),
    ):
        x.requires_grad_()
        found = distance(x, x.detach().clone())
        assert found.item() == pytest.approx(0, abs=1e-6)
        found.backward()
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().max() < 1e-5


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_gradient_brings_two_sets_together(distance):
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 3, generator=random), torch.randn(8, 3, generator=random) + torch.tensor([2.0, 0.0, -1.0])
    before = distance(x, y).item()
    for _ in range(20):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(distance(x, y), x)
        x = (x - gradient / gradient.norm()).detach()
    assert distance(x, y).item() < 0.5 * before


def begun(model, **options) -> RepresentationAlignment:
    made = RepresentationAlignment(RUN, **options)
    start = start_of(model, RUN.tasks)
    made.setup(type(start)(model, 2, start.steps, start.blocks, start.teacher_predictions))
    return made


def stepped(plugin, *tasks: int) -> None:
    plugin.on_step(StepResult(1, torch.tensor(tasks), torch.ones(len(tasks)), torch.ones(len(tasks))))


def test_a_batch_is_compared_with_the_other_tasks_last_batch():
    model = plain([[0.0, 0.0], [0.0, math.log(3)], [5.0, 5.0]], [1.0, 1.0])
    plugin = begun(model, weight=2.0)
    assert term(model, plugin, batch(0, [[1]])) == 0.0, "no other task has been seen"
    assert term(model, plugin, batch(1, [[0]])) == 0.0, (
        "not even in the same step: the order of the tasks does not matter"
    )
    stepped(plugin, 0, 1)
    assert added(model, plugin, batch(1, [[0]])) == pytest.approx(2 * math.log(3) / 4, rel=1e-5)
    stepped(plugin, 1)
    assert added(model, plugin, batch(0, [[1]])) == pytest.approx(2 * math.log(3) / 4, rel=1e-5)
    assert added(model, plugin, batch(0, [[2]])) == pytest.approx(0, abs=1e-6)  # (5, 5) has the softmax of (0, 0)


def test_only_the_batch_of_the_step_gets_a_gradient():
    model = plain([[0.0, 0.0], [0.0, math.log(3)]], [1.0, 1.0])
    plugin = begun(model)
    term(model, plugin, batch(0, [[1]]))
    stepped(plugin, 0)
    term(model, plugin, batch(1, [[0]])).backward()
    gradient = model.architecture.encoder.words.weight.grad
    assert gradient[0].abs().max() > 0 and gradient[1].abs().max() == 0


def test_what_a_skipped_step_saw_is_forgotten():
    model = plain([[0.0, 0.0], [math.nan, 0.0]], [1.0, 1.0])
    plugin = begun(model)
    term(model, plugin, batch(0, [[1]]))  # not finite: this step is left out, and the next one visits the other task
    term(model, plugin, batch(1, [[0]]))
    stepped(plugin, 1)
    assert plugin.filled.tolist() == [0, 1]
    assert torch.isfinite(plugin.memory).all()


def test_the_memory_holds_so_many_encodings():
    model = plain([[0.0, 0.0], [1.0, 2.0]], [1.0, 1.0])
    plugin = begun(model, memory=2)
    term(model, plugin, batch(0, [[1], [1], [0]]))
    stepped(plugin, 0)
    assert plugin.filled.tolist() == [2, 0]
    assert plugin.memory[0].tolist() == [[1.0, 2.0], [1.0, 2.0]]


def test_cmd_has_five_moments():
    x, y = torch.tensor([[0.0], [0.0], [0.0], [4.0]]), torch.tensor([[-2.0], [1.0], [3.0]])
    p, q = torch.sigmoid(x).double(), torch.sigmoid(y).double()
    central = [abs(float(((p - p.mean()) ** k).mean() - ((q - q.mean()) ** k).mean())) for k in range(2, 6)]
    parts = [float((p.mean() - q.mean()).abs()), *central]
    assert min(parts) > 1e-4, "every moment counts"
    assert float(central_moment_discrepancy(x, y)) == pytest.approx(sum(parts), rel=1e-5)
