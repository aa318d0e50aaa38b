"""CORAL and cumulative logits by numbers worked out by hand."""

import math

import pytest
import torch

from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.heads.base import HeadFacts
from mtlcli.heads.linear import Linear
from mtlcli.heads.ordinal_coral import OrdinalCoral, class_probabilities
from mtlcli.heads.ordinal_cumulative import OrdinalCumulative, log_probabilities
from mtlcli.tasks.ranks import Ranks
from mtlcli.tasks.targets import Ragged
from mtlcli.testing import GRADES, MIXTURES

RANKS = TaskFacts("ranks", 100, 7, Ranks({label: label for label in "0123"}, above=(0.8, 0.5, 0.2)))
SCORE, BIASES = 0.8, torch.tensor([1.0, -0.2, -1.5])
CLASSES = torch.tensor([[0.141851, 0.212493, 0.313844, 0.331812]])


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
    torch.testing.assert_close(log_probabilities(cumulative.thresholds().detach()[None]).exp(), expected)


def test_cumulative_logits_give_the_same_probabilities_and_their_cross_entropy():
    head = OrdinalCumulative(HeadFacts(RANKS, 4, 1)).eval()
    output = log_probabilities((-BIASES - SCORE)[None])
    torch.testing.assert_close(output.exp(), CLASSES, atol=1e-6, rtol=0)
    assert head.loss(output, gold(2)).item() == pytest.approx(1.158860, abs=1e-6)
    assert head.decode(output)["index"].tolist() == [2]


def test_log_probabilities_keep_their_digits_far_from_the_thresholds():
    far = log_probabilities(torch.tensor([[40.0, 41.0, 42.0], [-42.0, -41.0, -40.0]]))
    assert bool(torch.isfinite(far).all())
    exact = math.log(math.exp(-40) * (1 - math.exp(-1)))  # sigmoid(41) - sigmoid(40)
    assert far[0, 1].item() == pytest.approx(exact, rel=1e-6)


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
