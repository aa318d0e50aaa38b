"""The training loss of classes: values worked by hand, what has no gradient, and a batch that is the sum of its pieces."""

import math
from dataclasses import replace

import pytest
import torch

import toy
from labels import rows
from mtlcli.facts import TaskFacts
from mtlcli.heads.base import HeadFacts
from mtlcli.heads.cross_entropy import CrossEntropy, class_loss
from mtlcli.heads.linear import Linear
from mtlcli.heads.pair_mix import PairMix
from mtlcli.heads.tag_linear import TagLinear
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.tasks.class_loss import ClassLoss
from mtlcli.tasks.tags import Tags
from mtlcli.tasks.targets import UNSEEN, Classes, Ragged
from mtlcli.training.passes import TaskLoss

LOGITS = torch.tensor([[2.0, 1.0, 0.0]])
FIRST = torch.tensor([0])
PLAIN = 0.407606  # log(1 + e^-1 + e^-2)
BALANCED = ClassLoss((0.370370, 3.703704, 33.333333))


def value(settings: ClassLoss, index: int = 0) -> float:
    return class_loss(LOGITS, torch.tensor([index]), settings).item()


def test_label_smoothing_mixes_in_the_mean_over_all_classes():
    assert value(ClassLoss()) == pytest.approx(PLAIN, abs=1e-6)
    assert value(ClassLoss(smoothing=0.1)) == pytest.approx(0.507606, abs=1e-6)


def test_label_smoothing_without_weights_is_that_of_torch():
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    index = torch.arange(9) % 5
    expected = torch.nn.functional.cross_entropy(logits, index, reduction="none", label_smoothing=0.3)
    torch.testing.assert_close(class_loss(logits, index, ClassLoss(smoothing=0.3)), expected)


def test_the_focal_loss_lowers_the_loss_of_items_that_are_right():
    p = math.exp(-PLAIN)
    assert value(ClassLoss(gamma=2.0)) == pytest.approx((1 - p) ** 2 * PLAIN, abs=1e-6)
    assert value(ClassLoss(gamma=0.5), 2) == pytest.approx((1 - math.exp(-2 - PLAIN)) ** 0.5 * (2 + PLAIN), abs=1e-5)


def test_the_weight_of_the_class_multiplies_the_whole_smoothed_loss():
    assert value(BALANCED) == pytest.approx(0.370370 * PLAIN, abs=1e-6)
    assert value(replace(BALANCED, smoothing=0.1)) == pytest.approx(0.370370 * 0.507606, abs=1e-6)
    assert value(BALANCED, 2) == pytest.approx(33.333333 * (PLAIN + 2), abs=1e-4)


@pytest.mark.parametrize(
    "settings", [ClassLoss(), BALANCED, ClassLoss(smoothing=0.1), ClassLoss(gamma=2.0), replace(BALANCED, gamma=1.5)]
)
def test_items_without_a_class_cost_nothing(settings):
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 5.0, 1.0]], requires_grad=True)
    losses = class_loss(logits, torch.tensor([UNSEEN, 1]), settings)
    assert losses[0] == 0 and losses[1] > 0
    losses.sum().backward()
    assert logits.grad[0].tolist() == [0.0, 0.0, 0.0] and logits.grad[1].any()


@pytest.mark.parametrize("settings", [ClassLoss(), ClassLoss(smoothing=0.1), ClassLoss(gamma=2.0)])
def test_a_class_of_weight_0_gives_no_gradient(settings):
    logits = LOGITS.repeat(2, 1).requires_grad_()
    class_loss(logits, torch.tensor([0, 1]), replace(settings, weights=(0.0, 2.0, 1.0))).sum().backward()
    assert logits.grad[0].tolist() == [0.0, 0.0, 0.0] and logits.grad[1].any()


@pytest.mark.parametrize("gamma", [0.01, 0.5, 1.0, 2.0])
def test_the_focal_gradient_of_an_item_that_is_surely_right_is_finite(gamma):
    logits = torch.tensor([[1e4, 0.0], [20.0, 0.0], [0.0, 1e4]], requires_grad=True)
    class_loss(logits, torch.tensor([0, 0, 0]), ClassLoss(gamma=gamma)).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0].tolist() == [0.0, 0.0]


def test_a_batch_of_one_class_has_its_weight():
    """PyTorch's weighted mean would be the plain loss here, whatever the weight."""
    losses = class_loss(LOGITS.repeat(4, 1), torch.zeros(4, dtype=torch.long), BALANCED)
    assert losses.mean().item() == pytest.approx(0.370370 * PLAIN, abs=1e-6)


def test_balanced_weights_keep_the_mean_loss_of_a_guess():
    index = torch.tensor([0] * 90 + [1] * 9 + [2])
    assert class_loss(torch.zeros(100, 3), index, BALANCED).mean().item() == pytest.approx(math.log(3), abs=1e-5)


def test_evaluation_is_plain_and_nothing_is_stored():
    module = CrossEntropy(replace(BALANCED, smoothing=0.1))
    assert module(LOGITS, FIRST).item() == pytest.approx(0.370370 * 0.507606, abs=1e-6)
    assert module.weight_of(torch.tensor([2, 0])).tolist() == pytest.approx([33.333333, 0.370370])
    module.eval()
    assert module(LOGITS, FIRST).item() == pytest.approx(PLAIN, abs=1e-6)
    assert module.weight_of(FIRST) == 1.0
    assert not module.state_dict()


def test_half_precision_is_computed_in_single_precision():
    loss = class_loss(LOGITS.bfloat16(), FIRST, replace(BALANCED, smoothing=0.1))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(0.370370 * 0.507606, abs=1e-6)


def test_the_losses_that_pair_mix_adds_have_the_weight_of_the_class_too():
    task = TaskFacts("p", 10, 1, Classes.named("different", "same"), class_loss=ClassLoss((3.0, 0.0)))
    plain = replace(task, class_loss=ClassLoss())
    output = torch.randn(4, 2 + 2 * 6, generator=torch.Generator().manual_seed(1))
    losses = []
    for facts in (task, plain):
        torch.manual_seed(0)
        head = PairMix(HeadFacts(facts, 6, 2), cosine_loss=1.0, triplet_loss=1.0)
        head.observe(output, rows(torch.tensor([0, 0, 0, 0])))
        losses.append(head.loss(output, rows(torch.tensor([0, 1, 0, UNSEEN]))))
    assert losses[0][0] > 0 and losses[1][1] > 0
    torch.testing.assert_close(losses[0], losses[1] * torch.tensor([3.0, 0.0, 3.0, 0.0]))


def test_words_have_the_weights_of_their_tags_and_the_smoothing_of_their_task():
    tags, logits = Tags(("O", "B-A", "I-A"), "bio"), LOGITS.repeat(5, 1)
    gold = Ragged({"tag": torch.tensor([0, 1, -1, 9, 2])}, torch.tensor([0, 4, 5]))  # 9: a tag that training lacks
    settings = ClassLoss((0.5, 2.0, 10.0), smoothing=0.1)
    head = TagLinear(HeadFacts(TaskFacts("t", 2, 1, tags, class_loss=settings), 3, 1))
    uniform = PLAIN + 1  # mean of PLAIN, PLAIN + 1 and PLAIN + 2
    smoothed = [0.9 * (PLAIN + extra) + 0.1 * uniform for extra in range(3)]
    expected = [0.5 * smoothed[0] + 2 * smoothed[1], 10 * smoothed[2]]
    assert head.loss(logits, gold).tolist() == pytest.approx(expected, abs=1e-4)
    assert head.eval().loss(logits, gold).tolist() == pytest.approx([2 * PLAIN + 1, PLAIN + 2], abs=1e-5)
    assert tags.class_counts(gold.numpy()).tolist() == [1, 1, 1]


# In the engine


def weighted_model() -> MultiTaskModel:
    """The toy model with all that can change a class loss at once, but for the focal loss."""
    torch.manual_seed(18)
    settings = ClassLoss((0.3, 5.0, 2.0), smoothing=0.1)
    tasks = [replace(task, class_loss=settings) for task in toy.facts(1).tasks]
    return MultiTaskModel(toy.Words(), {task.name: Linear(HeadFacts(task, toy.DIM, 1), dropout=0.0) for task in tasks})


def test_a_batch_with_all_weights_is_its_micro_batches():
    whole = replace(toy.batch(0, 9), weights=torch.tensor([0.0, 1.0, 3.0, 0.5, 0.0, 0.2, 1.5, 2.8, 0.0]))
    pieces = tuple(
        replace(toy.part(whole, start, end), weights=whole.weights[start:end])
        for start, end in ((0, 1), (1, 7), (7, 9))
    )
    results = []
    for batches in ((whole,), pieces):
        model = weighted_model()
        combined = toy.engine(model).run([TaskLoss(0, batches)])
        results.append((combined.losses, toy.gradients(model)))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-6, rtol=1e-6)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, atol=1e-6, rtol=1e-6)


def test_rows_are_weighted_and_divided_by_their_number():
    plain, weights = toy.batch(0, 5), torch.tensor([0.0, 1.0, 3.0, 0.5, 0.5])
    model = weighted_model()
    combined = toy.engine(model).run([TaskLoss(0, (replace(plain, weights=weights),))])
    losses = model.losses(0, model(0, plain), plain).detach()
    assert combined.losses.item() == pytest.approx(float((losses * weights).sum()) / 5, abs=1e-6)


def test_a_row_of_weight_0_counts_and_changes_no_gradient():
    plain = toy.batch(0, 6)
    results = []
    for batch, scale in (
        (replace(plain, weights=torch.tensor([1.0] * 4 + [0.0] * 2)), 6 / 4),
        (toy.part(plain, 0, 4), 1.0),
    ):
        model = weighted_model()
        toy.engine(model).run([TaskLoss(0, (batch,))])
        results.append({name: gradient * scale for name, gradient in toy.gradients(model).items()})
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, atol=1e-6, rtol=1e-6)


def test_row_weights_multiply_the_loss_of_scores_too():
    plain = toy.batch(1, 4)
    model = toy.model()
    combined = toy.engine(model).run([TaskLoss(1, (replace(plain, weights=torch.tensor([2.0, 0.0, 1.0, 1.0])),))])
    losses = model.losses(1, model(1, plain), plain).detach()
    assert combined.losses.item() == pytest.approx(float(2 * losses[0] + losses[2] + losses[3]) / 4, abs=1e-5)
