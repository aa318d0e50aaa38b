"""The training loss of sets of labels: values worked by hand, extreme logits, unknown labels, and soft ones."""

import math

import pytest
import torch

import toy
from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.heads.base import HeadFacts
from mtlcli.heads.binary_cross_entropy import BinaryCrossEntropy, label_loss
from mtlcli.heads.linear import Linear
from mtlcli.heads.pair_mix import PairMix
from mtlcli.tasks.class_loss import ClassLoss
from mtlcli.tasks.label_sets import UNKNOWN, LabelSets
from mtlcli.tasks.targets import Ragged

BCE = 0.474077  # softplus(-.5)
ABSENT = 0.974077  # softplus(.5)


def value(logits, sets, settings: ClassLoss | None = None) -> float:
    (loss,) = label_loss(torch.tensor([logits]), torch.tensor([sets], dtype=torch.uint8), settings or ClassLoss())
    return loss.item()


def test_binary_cross_entropy_and_focal_loss_by_hand():
    assert value([0.5], [1]) == pytest.approx(BCE, abs=1e-6)
    assert value([0.5], [0]) == pytest.approx(ABSENT, abs=1e-6)
    assert value([0.5], [1], ClassLoss(gamma=2.0)) == pytest.approx(0.067573, abs=1e-6)
    assert value([0.5], [0], ClassLoss(gamma=2.0)) == pytest.approx((1 / (1 + math.exp(-0.5))) ** 2 * ABSENT, abs=1e-6)
    # alpha 0.25 of Lin et al. is a weight: of 1 for the label, 3 for its absence, times the whole.
    assert 0.25 * value([0.5], [1], ClassLoss(gamma=2.0)) == pytest.approx(0.016893, abs=1e-6)


def test_a_row_costs_the_mean_over_the_labels_of_which_it_says_something():
    assert value([0.5, 0.5, 9.0], [1, 0, UNKNOWN]) == pytest.approx((BCE + ABSENT) / 2, abs=1e-6)
    assert value([0.5, 0.5], [UNKNOWN, UNKNOWN]) == 0
    assert value([0.0] * 500, [0] * 500) == pytest.approx(math.log(2))


def test_weights_are_those_of_torch_for_positives():
    random = torch.Generator().manual_seed(0)
    logits, sets = torch.randn(9, 4, generator=random), torch.randint(2, (9, 4), generator=random)
    weights = (1.0, 2.5, 0.0, 100.0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, sets.float(), reduction="none", pos_weight=torch.tensor(weights)
    )
    torch.testing.assert_close(label_loss(logits, sets, ClassLoss(weights)), expected.mean(-1))


def test_label_smoothing_moves_both_labels_towards_one_half():
    smooth = ClassLoss(smoothing=0.2)
    assert value([0.5], [1], smooth) == pytest.approx(0.9 * BCE + 0.1 * ABSENT, abs=1e-6)
    assert value([0.5], [0], smooth) == pytest.approx(0.1 * BCE + 0.9 * ABSENT, abs=1e-6)
    # The smallest loss is the entropy of a smoothed label.
    assert smooth.floor(2) == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)))
    assert value([math.log(9.0)], [1], smooth) == pytest.approx(smooth.floor(2), abs=1e-6)


@pytest.mark.parametrize("settings", [ClassLoss(), ClassLoss(gamma=0.5), ClassLoss((3.0, 100.0), smoothing=0.1)])
def test_extreme_logits_have_finite_losses_and_gradients(settings):
    for scale in (0.0, 1e-8, 50.0, 1e4, 3e4):
        logits = (scale * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])).requires_grad_()
        sets = torch.tensor([[1, 0], [1, UNKNOWN]], dtype=torch.uint8)
        losses = label_loss(logits, sets, settings)
        losses.sum().backward()
        assert losses.isfinite().all() and logits.grad.isfinite().all()
        assert logits.grad[1, 1] == 0


def test_half_precision_is_computed_in_float32():
    logits = torch.tensor([[12.0, -12.0]], dtype=torch.bfloat16)
    (loss,) = label_loss(logits, torch.tensor([[1, 0]]), ClassLoss())
    assert (loss.dtype, loss.item()) == (torch.float32, pytest.approx(6.1442e-06, rel=1e-3))


def test_a_soft_label_is_the_mixture_of_both_with_every_option():
    logits = torch.tensor([[0.5, -1.0]])
    for settings in (ClassLoss(), ClassLoss(gamma=2.0), ClassLoss((3.0, 1.0))):
        ones, zeros = (label_loss(logits, torch.tensor([[y, y]]), settings) for y in (1, 0))
        soft = label_loss(logits, torch.tensor([[0.3, 0.3]]), settings)
        torch.testing.assert_close(soft, 0.3 * ones + 0.7 * zeros)


def test_options_apply_in_training_alone():
    module = BinaryCrossEntropy(ClassLoss((3.0,), gamma=1.0))
    logits, sets = torch.tensor([[0.5]]), torch.tensor([[1]])
    assert module.eval()(logits, sets).item() == pytest.approx(BCE, abs=1e-6)
    assert module.train()(logits, sets).item() == pytest.approx(3 * math.exp(-ABSENT) * BCE, abs=1e-6)
    assert not module.state_dict()


def test_the_guess_of_a_task_follows_its_options():
    def guess(**settings) -> float:
        return TaskFacts("t", 9, 1, LabelSets(("a", "b", "c")), class_loss=ClassLoss(**settings)).guess

    assert guess() == pytest.approx(math.log(2))
    assert guess(gamma=2.0) == pytest.approx(math.log(2) / 4)
    assert guess(weights=(2.0, 2.0, 2.0), mean_weight=1.25) == pytest.approx(1.25 * math.log(2))


def test_a_head_decides_by_the_thresholds_of_its_target():
    target = LabelSets(("a", "b"), thresholds=(0.9, 0.1))
    head = Linear(HeadFacts(TaskFacts("t", 9, 1, target), toy.DIM, 1))
    decoded = head.decode(torch.tensor([[2.0, -2.0], [3.0, -3.0]]))
    assert decoded["set"].tolist() == [[0, 1], [1, 0]]  # sigmoid(2) is .88, sigmoid(3) .95
    assert decoded["probabilities"][0].tolist() == pytest.approx([0.880797, 0.119203], abs=1e-6)
    sets = Ragged({"set": torch.tensor([[1, 0]], dtype=torch.uint8)})
    assert head.loss(torch.zeros(1, 2), sets).item() == pytest.approx(math.log(2))


def test_heads_that_predict_one_of_two_classes_refuse_two_labels():
    facts = HeadFacts(TaskFacts("t", 9, 1, LabelSets(("a", "b"))), toy.DIM, 2)
    with pytest.raises(MtlError, match=r'^tasks\.t\.head: "pair-mix" predicts two classes or a score'):
        PairMix(facts)
    with pytest.raises(MtlError, match=r"^tasks\.t\.head\.gamma: mixes losses of scores"):
        Linear(HeadFacts(facts.task, toy.DIM, 1), gamma=0.5)
