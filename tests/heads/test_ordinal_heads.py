"""CORAL and cumulative logits by numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch

from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.heads.base import EncoderOutput, HeadFacts
from mtlcli.heads.linear import Linear
from mtlcli.heads.ordinal_coral import OrdinalCoral, class_probabilities
from mtlcli.heads.ordinal_cumulative import OrdinalCumulative, log_probabilities
from mtlcli.tasks.class_loss import ClassLoss
from mtlcli.tasks.ranks import Ranks
from mtlcli.tasks.targets import Ragged
from mtlcli.testing import GRADES, MIXTURES

RANKS = TaskFacts("ranks", 100, 7, Ranks({label: label for label in "0123"}, above=(0.8, 0.5, 0.2)))
SCORE, BIASES = 0.8, torch.tensor([1.0, -0.2, -1.5])
CLASSES = torch.tensor([[0.141851, 0.212493, 0.313844, 0.331812]])


def thresholds_of(head: OrdinalCumulative) -> tuple[torch.Tensor, torch.Tensor]:
    thresholds = head.thresholds().detach()
    return thresholds[None], thresholds.diff()


def encodings(vectors: torch.Tensor) -> tuple[EncoderOutput, ...]:
    return (EncoderOutput(vectors[:, None], torch.ones(len(vectors), 1, dtype=torch.bool), vectors),)


def gold(*index: int) -> Ragged:
    return Ragged({"index": torch.tensor(index)})


def test_coral_sums_binary_cross_entropies_and_counts_thresholds():
    head = OrdinalCoral(HeadFacts(RANKS, 4, 1)).eval()
    output = (SCORE + BIASES)[None]
    torch.testing.assert_close(torch.sigmoid(output), torch.tensor([[0.858149, 0.645656, 0.331812]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(class_probabilities(output), CLASSES, atol=1e-6, rtol=0)
    assert head.loss(output, gold(2)).item() == pytest.approx(0.993652 / 3, abs=1e-6)
    assert head.loss(output, gold(-1)).item() == 0.0
    assert head.decode(output)["index"].tolist() == [2]  # and the most probable class is 3


def test_thresholds_out_of_order_keep_the_count_and_positive_probabilities():
    head = OrdinalCoral(HeadFacts(RANKS, 4, 1)).eval()
    decoded = head.decode(torch.tensor([[-1.0, 2.0, 0.5]]))
    assert decoded["index"].tolist() == [2]
    assert bool((decoded["probabilities"] > 0).all())


def test_both_heads_start_at_the_shares_of_the_training_rows():
    expected = torch.tensor([[0.2, 0.3, 0.3, 0.2]])
    coral, cumulative = (head(HeadFacts(RANKS, 4, 1)).eval() for head in (OrdinalCoral, OrdinalCumulative))
    torch.testing.assert_close(class_probabilities(coral.bias.detach()[None]), expected)
    torch.testing.assert_close(log_probabilities(*thresholds_of(cumulative)).exp(), expected)


def test_cumulative_logits_give_the_same_probabilities_and_their_cross_entropy():
    head = OrdinalCumulative(HeadFacts(RANKS, 4, 1)).eval()
    output = log_probabilities((-BIASES - SCORE)[None], (-BIASES).diff())
    torch.testing.assert_close(output.exp(), CLASSES, atol=1e-6, rtol=0)
    assert head.loss(output, gold(2)).item() == pytest.approx(1.158860, abs=1e-6)
    assert head.decode(output)["index"].tolist() == [2]


def test_log_probabilities_keep_their_digits_far_from_the_thresholds():
    far = log_probabilities(torch.tensor([[40.0, 41.0, 42.0], [-42.0, -41.0, -40.0]]), torch.ones(2))
    assert bool(torch.isfinite(far).all())
    exact = math.log(math.exp(-40) * (1 - math.exp(-1)))  # sigmoid(41) - sigmoid(40)
    assert far[0, 1].item() == pytest.approx(exact, rel=1e-6)


def test_a_class_that_training_never_has_keeps_a_finite_loss_and_gradient():
    head = OrdinalCumulative(HeadFacts(RANKS, 4, 1)).eval()
    # The thresholds around class 1 have moved together until float32 cannot tell them apart.
    torch.nn.init.constant_(head.steps, -40.0)
    output = head(encodings(torch.randn(3, 4)))
    losses = head.loss(output, gold(0, 1, 3))
    losses.sum().backward()
    assert bool(torch.isfinite(losses).all()) and losses[1] > 30
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in head.parameters())


@pytest.mark.parametrize("head", [OrdinalCoral, OrdinalCumulative])
def test_scores_and_losses_are_float32_under_autocast(head):
    head, vectors = head(HeadFacts(RANKS, 4, 1)).eval(), torch.randn(3, 4)
    plain = head(encodings(vectors))
    with torch.autocast("cpu", torch.bfloat16):
        output = head(encodings(vectors))
        losses = head.loss(output, gold(0, 1, 3))
    torch.testing.assert_close(output, plain, atol=0, rtol=0)
    assert output.dtype == losses.dtype == torch.float32


@pytest.mark.parametrize("head", [OrdinalCoral, OrdinalCumulative, Linear])
def test_class_weights_multiply_the_loss_of_a_class_in_training_only(head):
    settings = ClassLoss((1.0, 2.0, 0.0, 0.5))
    weighted, plain = (head(HeadFacts(task, 4, 1)) for task in (replace(RANKS, class_loss=settings), RANKS))
    weighted.load_state_dict(plain.state_dict())
    output = plain.eval()(encodings(torch.randn(4, 4)))
    losses = plain.loss(output, gold(0, 1, 2, 3))
    torch.testing.assert_close(
        weighted.train().loss(output, gold(0, 1, 2, 3)), losses * torch.tensor([1.0, 2.0, 0.0, 0.5])
    )
    torch.testing.assert_close(weighted.eval().loss(output, gold(0, 1, 2, 3)), losses)


def test_the_loss_of_a_guess_is_that_of_a_head_at_its_start_with_equal_shares():
    even = TaskFacts("t", 100, 7, Ranks({label: label for label in "01"}, above=(0.5,)))
    coral = OrdinalCoral(HeadFacts(even, 4, 1)).eval()
    assert coral.loss(coral.bias.detach()[None], gold(1)).item() == pytest.approx(OrdinalCoral.guess(even.target))
    assert OrdinalCoral.guess(RANKS.target) == math.log(2)
    assert OrdinalCumulative.guess(RANKS.target) == math.log(4)
    weighted = replace(RANKS, head_guess=math.log(2), class_loss=ClassLoss((1.0, 1.0, 1.0, 5.0), mean_weight=2.0))
    assert (weighted.dev_guess, weighted.guess) == (math.log(2), 2 * math.log(2))


def test_the_divergence_of_coral_outputs_is_that_of_their_class_probabilities():
    head, target = OrdinalCoral(HeadFacts(RANKS, 4, 1)).eval(), RANKS.target
    a, b = (SCORE + BIASES)[None], (SCORE - 1 + BIASES)[None]
    p, q = class_probabilities(a).double(), class_probabilities(b).double()
    expected = ((p - q) * (p.log() - q.log())).sum()
    found = target.divergence(head.predicted(a), head.predicted(b))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_certain_teacher_gives_the_loss_of_its_class():
    head = OrdinalCoral(HeadFacts(RANKS, 4, 1)).eval()
    output = (SCORE + BIASES)[None].repeat(2, 1)
    soft = Ragged({"probabilities": torch.tensor([[0.0, 0, 1, 0], [0.5, 0, 0.5, 0]])})
    losses = RANKS.target.soft_loss(lambda labels: head.loss(output, labels), soft)
    of_0, of_2 = (head.loss(output[:1], gold(index)).item() for index in (0, 2))
    torch.testing.assert_close(losses, torch.tensor([of_2, (of_0 + of_2) / 2]))


def test_a_plain_head_decodes_ordered_classes_in_their_order():
    head = Linear(HeadFacts(RANKS, 4, 1)).eval()
    assert head.decode(CLASSES.log())["index"].tolist() == [2]


def test_the_loss_of_a_distribution_is_its_divergence():
    head = Linear(HeadFacts(MIXTURES, 4, 1)).eval()
    labels = Ragged(
        {
            "probabilities": torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.0, 0.0, 0.0]]),
            "known": torch.tensor([True, True, False]),
        }
    )
    output = torch.tensor([[0.5, 0.3, 0.2]]).log().repeat(3, 1)
    torch.testing.assert_close(head.loss(output, labels), torch.tensor([0.085123, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_ordinal_heads_decline_classes_without_an_order():
    for head in (OrdinalCoral, OrdinalCumulative):
        with pytest.raises(MtlError, match=r"ordered classes \(kind: ordinal\)"):
            head(HeadFacts(GRADES, 4, 1))
