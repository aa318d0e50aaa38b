"""The step engine: the same numbers by every way, and nothing held twice."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import toy
from mtlcli.balancers.base import Balancer
from mtlcli.balancers.equal import Equal
from mtlcli.balancers.static import Static
from mtlcli.balancers.tchebycheff import Tchebycheff
from mtlcli.balancers.uncertainty import Uncertainty
from mtlcli.data.batches import Batch
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.gradient_regularizers.pcgrad import PCGrad
from mtlcli.regularizers.base import Forward, Regularizer
from mtlcli.training.gradient_rows import combine_rows, gram_matrix
from mtlcli.training.passes import TaskLoss


class KeepsRows(Equal):
    """Equal weights, by the way of the rows."""

    needs = frozenset({"gram"})


class SumOfRows(GradientRegularizer):
    """Adds the rows themselves."""

    reads_rows = True

    def combine(self, rows: Tensor, gram: Tensor, tasks: Tensor) -> Tensor:
        return rows.sum(0)


def same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        assert (gradient is None) == (second[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, second[name], rtol=1e-5, atol=1e-7, msg=name)


def run(
    balancer: Balancer | None = None, regularizer: GradientRegularizer | None = None, step=None, tasks: int = 3, **more
):
    made = toy.model(tasks)
    combined = toy.engine(made, balancer, regularizer, **more).run(step or toy.one_each(tasks))
    return toy.gradients(made), combined


def test_the_way_without_rows_gives_the_numbers_of_the_way_with_rows():
    for balancer in (Equal, KeepsRows):
        assert toy.engine(toy.model(3), balancer(toy.facts(3))).needs_rows() == (balancer is KeepsRows)
    same(run(Equal(toy.facts(3)))[0], run(KeepsRows(toy.facts(3)))[0])


def test_the_sum_of_losses_is_what_plain_autograd_would_do():
    made = toy.model(3)
    step = toy.one_each(3)
    total = sum(made.losses(one.task, made(one.task, one.batches[0]), one.batches[0]).mean() for one in step)
    total.backward()
    same(toy.gradients(made), run(step=step)[0])


def test_static_weights_scale_encoder_and_heads_alike():
    plain, _ = run(step=[TaskLoss(0, (toy.batch(0, 8),))])
    weighted, combined = run(Static(toy.facts(3), weights={"a": 2.5}), step=[TaskLoss(0, (toy.batch(0, 8),))])
    assert combined.weights.tolist() == [2.5]
    same({name: None if g is None else 2.5 * g for name, g in plain.items()}, weighted)


def test_a_regularizer_that_reads_rows_gets_them_weighted():
    by_rows, _ = run(Static(toy.facts(3), weights={"a": 2.0}), SumOfRows(toy.facts(3)))
    same(run(Static(toy.facts(3), weights={"a": 2.0}))[0], by_rows)


@pytest.mark.parametrize("regularizer", [None, PCGrad])
def test_four_micro_batches_of_two_are_one_batch_of_eight(regularizer):
    whole = [toy.batch(task, 8) for task in range(3)]
    apart = [
        TaskLoss(task, tuple(toy.part(one, at, at + 2) for at in range(0, 8, 2))) for task, one in enumerate(whole)
    ]
    together = [TaskLoss(task, (one,)) for task, one in enumerate(whole)]
    made = [None if regularizer is None else regularizer(toy.facts(3)) for _ in range(2)]
    first, one = run(None, made[0], apart)
    second, other = run(None, made[1], together)
    same(first, second)
    torch.testing.assert_close(one.losses, other.losses)


def test_micro_batches_of_unequal_size_weigh_by_their_rows():
    whole = toy.batch(0, 7)
    apart = [TaskLoss(0, (toy.part(whole, 0, 5), toy.part(whole, 5, 7)))]
    same(run(step=apart)[0], run(step=[TaskLoss(0, (whole,))])[0])


@pytest.mark.parametrize("regularizer", [None, PCGrad])
def test_a_task_absent_from_the_step_keeps_no_gradient_in_its_head(regularizer):
    chosen = None if regularizer is None else regularizer(toy.facts(3))
    found, combined = run(None, chosen, [TaskLoss(0, (toy.batch(0, 4),)), TaskLoss(2, (toy.batch(2, 4),))])
    assert combined.tasks.tolist() == [0, 2]
    assert found["heads.1.out.weight"] is None
    assert found["heads.0.out.weight"] is not None


def test_a_shared_parameter_that_no_task_of_the_step_uses_keeps_no_gradient():
    made = toy.model(2)
    made.architecture.spare = torch.nn.Parameter(torch.ones(3))
    engine = toy.engine(made, None, PCGrad(toy.facts(2)))
    engine.run(toy.one_each(2))
    assert made.architecture.spare.grad is None


def test_heads_keep_their_own_gradient_under_pcgrad():
    plain, _ = run()
    projected, combined = run(None, PCGrad(toy.facts(3)))
    assert combined.gram is not None and (combined.gram < 0).any(), "the toy step has a conflict"
    for name in plain:
        if name.startswith("heads."):
            torch.testing.assert_close(plain[name], projected[name])
    assert any(not torch.equal(plain[name], projected[name]) for name in plain if not name.startswith("heads."))


def test_a_module_held_by_two_heads_is_shared():
    made = toy.model(3)
    made.heads[2].out = made.heads[0].out
    assert made.private_parameters(0) == made.private_parameters(2) == []
    assert {id(p) for p in made.heads[0].out.parameters()} <= {id(p) for p in made.shared_parameters()}


def test_pcgrad_by_the_gram_matrix_is_algorithm_1_on_float64_rows():
    made, step = toy.model(3), toy.one_each(3)
    rows = torch.stack([toy.row_of(made, one) for one in step]).double()
    order = PCGrad(toy.facts(3)).generator
    literal = torch.zeros_like(rows[0])
    for i in range(3):
        gradient = rows[i].clone()
        for j in torch.randperm(3, generator=order).tolist():
            if j != i and gradient @ rows[j] < 0:
                gradient -= (gradient @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        literal += gradient
    toy.engine(made, None, PCGrad(toy.facts(3))).run(step)
    found = torch.cat([p.grad.flatten() for p in made.shared_parameters()])
    assert (found.double() - literal).norm() < 1e-6 * rows.norm()


def test_weights_of_a_balancer_that_is_not_linear_are_its_derivatives():
    balancer = Tchebycheff(toy.facts(3))
    balancer.reference.copy_(torch.tensor([1.0, 2.0, 1.0]))
    _, combined = run(balancer)
    assert (combined.weights != 0).sum() == 1
    assert combined.objectives.sum() == pytest.approx(float((combined.weights * combined.losses).sum()), rel=1e-5)


def test_tchebycheff_trains_every_head_on_its_own_loss():
    plain, _ = run()
    balancer = Tchebycheff(toy.facts(3))
    balancer.reference.copy_(torch.ones(3))
    found, _ = run(balancer)
    for name in plain:
        if name.startswith("heads."):
            torch.testing.assert_close(plain[name], found[name])


@pytest.mark.parametrize("regularizer", [None, PCGrad])
def test_the_balancer_gets_the_gradient_of_the_sum_of_objectives(regularizer):
    balancer = Uncertainty(toy.facts(3))
    _, combined = run(balancer, None if regularizer is None else regularizer(toy.facts(3)))
    share = torch.tensor([1.0, 0.5, 1.0])
    found = torch.stack([s.grad for s in balancer.log_variance])
    torch.testing.assert_close(found, 0.5 - share * combined.losses)  # at s = 0


def test_gradients_lie_in_the_rows_and_nowhere_else():
    made = toy.model(2)
    engine = toy.engine(made, None, PCGrad(toy.facts(2)))
    engine.run(toy.one_each(2))
    start, end = engine.rows[0].data_ptr(), engine.rows[0].data_ptr() + 4 * engine.size
    assert engine.buffer_bytes() == engine.rows.nbytes == 2 * 4 * engine.size
    assert all(start <= p.grad.data_ptr() < end for p in made.shared_parameters())


def test_a_step_after_another_starts_from_nothing():
    made = toy.model(3)
    engine = toy.engine(made, None, PCGrad(toy.facts(3)))
    engine.run(toy.one_each(3))
    engine.gradient_regularizer = PCGrad(toy.facts(3))
    engine.run(toy.one_each(3))
    same(toy.gradients(made), run(None, PCGrad(toy.facts(3)))[0])


class Constant(Regularizer):
    """Adds three times the mean of the output's square, and counts how often it was asked and told."""

    passes = 1.0
    steps = 0

    def forward(self, forward: Forward) -> Tensor:
        again = forward.rerun(forward.word_embeddings()) if forward.task == 9 else forward.rerun(None)
        assert torch.equal(again, forward.output)
        assert forward.divergence(again, forward.output).abs().max() == 0
        return 3 * forward.output.square().mean()


def test_a_regularizer_adds_to_the_loss_but_not_to_the_logged_one():
    plain, without = run()
    found, combined = run(None, None, regularizers=(Constant(toy.facts(3)),))
    torch.testing.assert_close(combined.losses, without.losses)
    assert (combined.totals > combined.losses).all()
    assert not torch.equal(found["heads.0.out.weight"], plain["heads.0.out.weight"])


class Nothing(Regularizer):
    """Has nothing to add."""

    def forward(self, forward: Forward) -> None:
        return None


def test_a_regularizer_that_adds_nothing_leaves_the_loss_as_it_is():
    _, combined = run(None, None, regularizers=(Nothing(toy.facts(3)),))
    assert torch.equal(combined.totals, combined.losses)


def test_what_regularizers_add_to_unequal_micro_batches_is_weighted_by_their_rows():
    whole = toy.batch(0, 7)
    added = []
    for batches in ((whole,), (toy.part(whole, 0, 5), toy.part(whole, 5, 7))):
        gradients, combined = run(step=[TaskLoss(0, batches)], regularizers=(Constant(toy.facts(3)),))
        added.append((gradients, combined.totals - combined.losses))
    (first, once), (second, in_pieces) = added
    output = toy.model(3)(0, whole).detach()
    torch.testing.assert_close(once, 3 * output.square().mean().reshape(1))
    torch.testing.assert_close(in_pieces, once)
    same(first, second)


@pytest.mark.parametrize("columns", [1, 65535, 65536, 200_001])
def test_the_gram_matrix_is_exact_to_a_millionth(columns):
    rows = torch.randn(3, columns, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1e-4], [1.0], [30.0]])
    exact = rows.double() @ rows.double().T
    norms = exact.diagonal().sqrt()
    assert ((gram_matrix(rows) - exact).abs() / torch.outer(norms, norms)).max() < 1e-6


def test_rows_are_combined_in_place():
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    combine_rows(rows, [1.0, -1.0, 0.5])
    assert rows[0].tolist() == [0.5, 1.0]


# Loss units


def forget(batch: Batch, *rows: int) -> Batch:
    """The same batch without the labels of some rows."""
    target, count = toy.facts(2).tasks[batch.task].target, batch.count
    gold = batch.gold.numpy()
    values = [None if row in rows else target.gold_json(gold, row) for row in range(count)]
    gold = target.gold_from_json(values)
    units = float(target.units(gold).sum())
    return replace(batch, gold=target.collate(gold, np.arange(count)), units=units)


@pytest.mark.parametrize("task", [0, 1])
def test_unequal_micro_batches_with_unlabelled_rows_are_one_batch_cut_in_pieces(task):
    whole = forget(toy.batch(task, 9), 1, 7, 8)  # 6 units: 0 in the last piece, which is two rows
    gold = whole.gold.numpy()
    pieces = []
    for start, end in ((0, 1), (1, 7), (7, 9)):
        piece = toy.part(whole, start, end)
        unknown = [row - start for row in (1, 7, 8) if start <= row < end]
        pieces.append(forget(piece, *unknown))
    assert [piece.units for piece in pieces] == [1.0, 5.0, 0.0] and whole.units == 6.0 and len(gold) == 9
    found = []
    for batches in ((whole,), tuple(pieces)):
        made = toy.model()
        combined = toy.engine(made).run([TaskLoss(task, batches)])
        found.append((combined.losses, toy.gradients(made)))
    (loss, gradients), (loss_of_pieces, gradients_of_pieces) = found
    torch.testing.assert_close(loss_of_pieces, loss, atol=1e-6, rtol=1e-6)
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(gradients_of_pieces[name], gradient, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("task", [0, 1])
def test_an_unlabelled_row_changes_neither_loss_nor_gradient(task):
    whole = toy.batch(task, 6)
    known = toy.part(whole, 0, 4)
    found = []
    for batch in (known, forget(whole, 4, 5)):
        made = toy.model()
        combined = toy.engine(made).run([TaskLoss(task, (batch,))])
        found.append((combined.losses, toy.gradients(made)))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-6, rtol=1e-6)
    for name, gradient in found[0][1].items():
        if gradient is not None:
            torch.testing.assert_close(found[1][1][name], gradient, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("task", [0, 1])
def test_a_visit_without_any_label_has_loss_0_and_gradients_of_0(task):
    made = toy.model()
    batch = forget(toy.batch(task, 3), 0, 1, 2)
    combined = toy.engine(made).run([TaskLoss(task, (batch,))])
    assert combined.losses.tolist() == [0.0]
    assert all(gradient is None or not gradient.any() for gradient in toy.gradients(made).values())
