"""Balancers: values worked out by hand."""

import math

import pytest
import torch

import toy
from mtlcli.balancers.equal import Equal
from mtlcli.balancers.inverse_size import InverseSize
from mtlcli.balancers.static import Static
from mtlcli.balancers.tchebycheff import Tchebycheff
from mtlcli.balancers.uncertainty import Uncertainty
from mtlcli.errors import MtlError
from mtlcli.plugin import EpochResult, EvaluationResult, StepResult

ALL = torch.tensor([0, 1, 2])
LOSSES = torch.tensor([1.0, 2.0, 4.0])


def test_equal_is_the_losses_themselves():
    assert Equal(toy.facts(3))(LOSSES, ALL).tolist() == [1.0, 2.0, 4.0]


def test_static_multiplies_and_leaves_unnamed_tasks_at_one():
    assert Static(toy.facts(3), weights={"c": 0.25, "a": 3})(LOSSES, ALL).tolist() == [3.0, 2.0, 1.0]


def test_static_refuses_a_task_that_is_not_there():
    with pytest.raises(MtlError, match=r'balancer.weights.aa: no such task; did you mean "a"'):
        Static(toy.facts(3), weights={"aa": 1.0})


def test_inverse_size_gives_the_small_task_most_and_sums_to_the_number_of_tasks():
    weights = InverseSize(toy.facts(3)).known_weights(ALL)  # rows 100, 300, 50: 1/n is 3 : 1 : 6 of 300ths
    torch.testing.assert_close(weights, torch.tensor([0.9, 0.3, 1.8]))


def test_uncertainty_by_hand_classes_whole_scores_half():
    balancer = Uncertainty(toy.facts(3), initial_log_variance=math.log(2))
    expected = [1.0 / 2 + math.log(2) / 2, 0.5 * 2.0 / 2 + math.log(2) / 2, 4.0 / 2 + math.log(2) / 2]
    assert balancer(LOSSES, ALL).tolist() == pytest.approx(expected)


def test_uncertainty_is_at_rest_where_the_paper_says():
    balancer = Uncertainty(toy.facts(3))  # classes: exp(s) = 2 L; scores: exp(s) = L
    with torch.no_grad():
        for s, value in zip(balancer.log_variance, [2.0, 2.0, 8.0], strict=True):
            s.fill_(math.log(value))
    balancer(LOSSES, ALL).sum().backward()
    assert max(abs(float(s.grad)) for s in balancer.log_variance) < 1e-6


def test_uncertainty_may_go_below_zero_and_stays_finite():
    balancer = Uncertainty(toy.facts(3), initial_log_variance=-10.0)
    assert balancer(torch.zeros(3), ALL).tolist() == [-5.0] * 3
    assert torch.isfinite(balancer(torch.full((3,), 1e6), ALL)).all()


@pytest.mark.parametrize(("form", "share"), [("classification", 1.0), ("regression", 0.5)])
def test_uncertainty_may_take_one_form_for_all_tasks_as_known_codes_do(form, share):
    balancer = Uncertainty(toy.facts(3), initial_log_variance=math.log(2), form=form)
    # share L exp(-log 2) + log(2) / 2
    expected = [share * loss / 2 + math.log(2) / 2 for loss in (1.0, 2.0, 4.0)]
    assert balancer(LOSSES, ALL).tolist() == pytest.approx(expected)
    assert balancer.known_weights(ALL).tolist() == pytest.approx([share / 2] * 3)


def test_momentum_leaves_the_uncertainty_of_an_absent_task_alone():
    balancer = Uncertainty(toy.facts(3))
    optimizer = torch.optim.AdamW(balancer.parameters(), lr=0.025, weight_decay=0.0)
    for tasks in (ALL, ALL[1:]):
        optimizer.zero_grad()
        balancer(LOSSES[tasks], tasks).sum().backward()
        optimizer.step()
        if len(tasks) == 3:
            after_first = torch.stack(list(balancer.log_variance)).tolist()
    assert after_first[0] == pytest.approx(0.025, rel=1e-5)  # Adam's first step is lr, here up: 1 / 2 - L exp(-s) < 0
    moved = torch.stack(list(balancer.log_variance)) != torch.tensor(after_first)
    assert moved.tolist() == [False, True, True]
    assert balancer.log_variance[0].grad is None


def test_uncertainty_that_the_optimizer_moved_out_of_bounds_is_put_back():
    balancer = Uncertainty(toy.facts(2))
    with torch.no_grad():
        balancer.log_variance[0].fill_(11.0)
        balancer.log_variance[1].fill_(-12.0)
    balancer.on_step(StepResult(1, ALL[:2], LOSSES[:2], torch.ones(2)))
    assert torch.stack(list(balancer.log_variance)).tolist() == [10.0, -10.0]


def test_tchebycheff_counts_all_alike_until_it_has_a_reference():
    assert Tchebycheff(toy.facts(3))(LOSSES, ALL).tolist() == pytest.approx([1 / 3, 2 / 3, 4 / 3])


def test_tchebycheff_keeps_the_task_that_is_worst_against_its_reference():
    balancer = Tchebycheff(toy.facts(3))
    balancer.on_epoch(EpochResult(0, {0: 0.5, 1: 2.0, 2: 4.0}))
    # 1/l = 2, .5, .25, sum 2.75; L/l = 2, 1, 1: the first is worst
    assert balancer(LOSSES, ALL).tolist() == pytest.approx([2 / 2.75, 0, 0])


def test_tchebycheff_takes_dev_losses_only_when_told_to():
    balancer = Tchebycheff(toy.facts(3))
    balancer.on_evaluation(EvaluationResult(5, {0: 1.0, 1: 1.0, 2: 2.0}, {}))
    assert balancer.reference.tolist() == [0, 0, 0]


def test_tchebycheff_falls_back_on_the_epoch_for_a_task_without_dev_rows():
    balancer = Tchebycheff(toy.facts(3), reference="validation")
    balancer.on_epoch(EpochResult(0, {0: 1.0, 1: 1.0, 2: 1.0}))
    balancer.on_evaluation(EvaluationResult(5, {0: 3.0, 1: 4.0}, {}))
    assert balancer.reference.tolist() == [3.0, 4.0, 1.0]
    balancer.on_epoch(EpochResult(1, {0: 0.5, 1: 0.5, 2: 0.5}))
    assert balancer.reference.tolist() == [3.0, 4.0, 0.5]


def test_tchebycheff_waits_while_one_task_of_the_step_has_no_reference():
    balancer = Tchebycheff(toy.facts(3))
    balancer.on_epoch(EpochResult(0, {0: 0.5, 1: 2.0}))
    assert balancer(LOSSES, ALL).tolist() == pytest.approx([1 / 3, 2 / 3, 4 / 3])
    # without the third: 1/l = 2, .5, sum 2.5; L/l = 2, 1
    assert balancer(LOSSES[:2], ALL[:2]).tolist() == pytest.approx([2 / 2.5, 0])


def test_the_loss_of_the_step_as_reference_would_be_degenerate():
    balancer = Tchebycheff(toy.facts(3))
    terms = LOSSES / (LOSSES * (1 / LOSSES).sum())
    assert terms.tolist() == pytest.approx([terms[0].item()] * 3)  # why l_t has to be a reference
    balancer.on_epoch(EpochResult(0, dict(enumerate(LOSSES.tolist()))))
    assert balancer(LOSSES, ALL).sum() == pytest.approx(terms[0].item())


def test_the_smooth_maximum_by_hand():
    balancer = Tchebycheff(toy.facts(2), smooth=0.5)
    balancer.on_epoch(EpochResult(0, {0: 1.0, 1: 1.0}))
    terms = [1.0 / 2, 2.0 / 2]  # lambda = 1 / (1 * 2)
    expected = 0.5 * math.log(math.exp(terms[0] / 0.5) + math.exp(terms[1] / 0.5))
    assert balancer(LOSSES[:2], ALL[:2]).sum().item() == pytest.approx(expected)


def test_the_smooth_maximum_is_shared_out_by_the_softmax_of_the_terms():
    balancer = Tchebycheff(toy.facts(2), smooth=0.5)
    balancer.on_epoch(EpochResult(0, {0: 1.0, 1: 1.0}))
    # Terms .5 and 1 over mu .5: 1 and 2, whose softmax is 1 / (1 + e) and e / (1 + e).
    maximum = 0.5 * math.log(math.e + math.e**2)
    expected = [maximum / (1 + math.e), maximum * math.e / (1 + math.e)]
    assert balancer(LOSSES[:2], ALL[:2]).tolist() == pytest.approx(expected)


def test_tchebycheff_keeps_its_reference_where_a_dev_loss_is_unknown():
    """NaN: no dev row has a label that training saw."""
    balancer = Tchebycheff(toy.facts(3), reference="validation")
    balancer.on_epoch(EpochResult(0, {0: 1.0, 1: 2.0, 2: 4.0}))
    balancer.on_evaluation(EvaluationResult(5, {0: 1.0, 1: float("nan"), 2: 4.0}, {}))
    balancer.on_epoch(EpochResult(1, {0: 9.0, 1: 3.0, 2: 9.0}))
    assert balancer.reference.tolist() == [1.0, 3.0, 4.0]
