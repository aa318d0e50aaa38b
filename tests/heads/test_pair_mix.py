"""The mix of a mapping and a cosine, and the losses on its encodings: values worked out by hand."""

import math

import pytest
import torch

from labels import rows
from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.heads.base import EncoderOutput, HeadFacts
from mtlcli.heads.pair_mix import NEGATIVES, PairMix
from mtlcli.tasks.targets import Classes, Score

PAIRS = TaskFacts("p", 10, 1, Classes.named("different", "same"))
SCORES = TaskFacts("s", 10, 1, Score(0.0, 5.0, 2.0, 1.5))


def encoding(*vectors: list[float]) -> EncoderOutput:
    pooled = torch.tensor(vectors)
    return EncoderOutput(pooled.unsqueeze(1), torch.ones(len(pooled), 1, dtype=torch.bool), pooled)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def with_weights(head: PairMix) -> PairMix:
    """f([a, b, |a-b|]) = the sum of all six numbers."""
    with torch.no_grad():
        head.mapping.weight.fill_(1.0)
        head.mapping.bias.zero_()
    return head.eval()


def test_a_score_is_alpha_times_the_mapping_and_the_rest_the_cosine_in_its_range():
    head = with_weights(PairMix(HeadFacts(SCORES, 2, 2), alpha=0.25))
    output = head((encoding([3.0, 0.0]), encoding([0.0, 4.0])))
    # f = 3 + 4 + |3| + |-4| = 14 standard deviations; cosine 0 is the score 0, (0 - 2) / 1.5 = -4/3 standard deviations
    assert output.tolist() == pytest.approx([0.25 * 14 + 0.75 * -4 / 3])
    assert head.decode(torch.tensor([0.5]))["value"].tolist() == pytest.approx([2.75])  # 2 + 0.5 * 1.5


def test_alpha_0_is_the_cosine_alone_times_5():
    head = PairMix(HeadFacts(SCORES, 2, 2), alpha=0.0)
    assert list(head.parameters()) == []
    output = head((encoding([3.0, 0.0]), encoding([3.0, 4.0])))
    assert head.decode(output)["value"].tolist() == pytest.approx([3.0])  # cosine 3/5


def test_the_cosine_runs_from_the_low_end_of_the_range_to_the_high_end():
    head = PairMix(HeadFacts(TaskFacts("s", 10, 1, Score(1.0, 5.0, 2.0, 1.5)), 2, 2), alpha=0.0)
    output = head((encoding([1.0, 0.0], [1.0, 0.0], [3.0, 0.0]), encoding([0.0, 2.0], [2.0, 0.0], [3.0, 4.0])))
    assert head.decode(output)["value"].tolist() == pytest.approx([1.0, 5.0, 3.4])  # cosines 0, 1 and .6


def test_classes_are_the_sigmoid_of_the_mix():
    head = with_weights(PairMix(HeadFacts(PAIRS, 2, 2), alpha=0.5))
    output = head((encoding([0.3, 0.0]), encoding([0.3, 0.4])))
    # f = .3 + .3 + .4 + |0| + |-.4| = 1.4, cosine .6: 0.5 * 1.4 + 0.5 * 0.6 = 1
    decoded = head.decode(output)
    assert output.tolist()[0] == pytest.approx([0.0, 1.0])
    assert decoded["probabilities"].tolist()[0] == pytest.approx([1 - sigmoid(1), sigmoid(1)])
    # binary cross-entropy of the logit 1
    assert head.loss(output, rows(torch.tensor([1]))).tolist() == pytest.approx([-math.log(sigmoid(1))])
    assert head.loss(output, rows(torch.tensor([0]))).tolist() == pytest.approx([-math.log(1 - sigmoid(1))])


def test_alpha_is_that_of_v3a_unless_said_otherwise():
    assert PairMix(HeadFacts(PAIRS, 2, 2)).fixed_alpha == 0.99
    assert PairMix(HeadFacts(SCORES, 2, 2)).fixed_alpha == 0.01


def test_a_learned_alpha_starts_where_it_is_told_and_has_a_gradient():
    head = with_weights(PairMix(HeadFacts(SCORES, 2, 2), alpha=0.25, learn_alpha=True))
    output = head((encoding([3.0, 0.0]), encoding([0.0, 4.0])))
    assert output.tolist() == pytest.approx([2.5])
    output.sum().backward()
    # d/dx sigmoid(x) = .25 * .75, times f - cosine = 14 + 4/3
    assert head.alpha_logit.grad.item() == pytest.approx(0.25 * 0.75 * (14 + 4 / 3), rel=1e-5)


def test_hidden_layers_stand_before_cosine_and_mapping():
    head = PairMix(HeadFacts(SCORES, 2, 2), alpha=0.0, hidden=(2,)).eval()
    with torch.no_grad():
        head.hidden[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        head.hidden[1].bias.zero_()
    output = head((encoding([1.0, 9.0]), encoding([2.0, 7.0])))  # relu leaves (1, 0) and (2, 0)
    assert head.decode(output)["value"].tolist() == pytest.approx([5.0])


def contrastive(**options) -> PairMix:
    return PairMix(HeadFacts(PAIRS, 2, 2), alpha=0.0, **options)


A, B = encoding([3.0, 0.0], [3.0, 0.0]), encoding([3.0, 4.0], [3.0, 4.0])  # cosine .6, distance 4
TARGETS = torch.tensor([1, 0])
BCE = [-math.log(sigmoid(0.6)), -math.log(1 - sigmoid(0.6))]


def test_the_cosine_embedding_loss_by_hand():
    head = contrastive(cosine_loss=2.0)
    # 1 - .6 for the same, max(0, .6) for different, twice each
    assert head.loss(head((A, B)), rows(TARGETS)).tolist() == pytest.approx([BCE[0] + 0.8, BCE[1] + 1.2])
    apart = head((encoding([1.0, 0.0]), encoding([-1.0, 0.0])))  # cosine -1 costs a different pair nothing
    assert head.loss(apart, rows(torch.tensor([0]))).tolist() == pytest.approx([-math.log(1 - sigmoid(-1))])


def test_the_triplet_loss_takes_the_previous_batch_as_negatives_and_anchors_of_the_second_class_only():
    head = contrastive(triplet_loss=2.0, distance="euclidean")
    output = head((A, B))
    assert head.loss(output, rows(TARGETS)).tolist() == pytest.approx(BCE)  # no negatives yet
    head.observe(head((encoding([0.0, 4.0], [8.0, 8.0]), B)).detach(), rows(TARGETS))
    # |a - b| = 4, |a - n| = |(3, 0) - (0, 4)| = 5, margin 1: max(0, 4 - 5 + 1) = 0
    assert head.loss(output, rows(TARGETS)).tolist() == pytest.approx(BCE, abs=1e-4)
    head.observe(head((encoding([3.0, 2.0], [8.0, 8.0]), B)).detach(), rows(TARGETS))
    # |a - n| = 2: 4 - 2 + 1 = 3, twice; the row of the first class is no anchor
    assert head.loss(output, rows(TARGETS)).tolist() == pytest.approx([BCE[0] + 6.0, BCE[1]], abs=1e-4)


def test_the_distance_of_a_triplet_is_one_minus_the_cosine():
    head = contrastive(triplet_loss=1.0)
    head.observe(head((encoding([4.0, 3.0]), encoding([1.0, 1.0]))).detach(), rows(torch.tensor([1])))
    # cos(a, b) = .6, cos(a, n) = .8: (1 - .6) - (1 - .8) + 1 = 1.2
    assert head.loss(head((A, B)), rows(TARGETS)).tolist() == pytest.approx([BCE[0] + 1.2, BCE[1]], abs=1e-4)


def test_the_margin_is_added_to_the_distances():
    head = contrastive(triplet_loss=1.0, margin=2.5, distance="euclidean")
    head.observe(head((encoding([0.0, 4.0]), encoding([1.0, 1.0]))).detach(), rows(torch.tensor([1])))
    assert head.loss(head((A, B)), rows(TARGETS)).tolist() == pytest.approx(
        [BCE[0] + 1.5, BCE[1]], abs=1e-4
    )  # 4 - 5 + 2.5


def test_a_smaller_previous_batch_is_used_round_and_a_larger_one_is_cut():
    head = contrastive(triplet_loss=1.0, distance="euclidean")
    head.observe(head((encoding([3.0, 2.0]), encoding([1.0, 1.0]))).detach(), rows(torch.tensor([1])))
    both = head.loss(head((A, B)), rows(torch.tensor([1, 1]))).tolist()
    assert both == pytest.approx([BCE[0] + 3.0] * 2, abs=1e-4)
    many = torch.randn(NEGATIVES + 9, 2)
    whole = EncoderOutput(many.unsqueeze(1), torch.ones(len(many), 1, dtype=torch.bool), many)
    head.observe(head((whole, whole)).detach(), rows(torch.ones(len(many), dtype=torch.long)))
    assert torch.equal(head.negatives, many[:NEGATIVES]) and int(head.kept) == NEGATIVES


def test_negatives_are_saved_and_changed_by_observing_alone():
    head = contrastive(triplet_loss=1.0)
    head.observe(head((A, B)).detach(), rows(TARGETS))
    state = {key: value.clone() for key, value in head.state_dict().items()}
    assert {"negatives", "kept"} <= state.keys()
    for mode in (True, False):
        head.train(mode)
        head.decode(head((B, A)))
        head.loss(head((B, A)), rows(TARGETS)).sum()
    assert all(torch.equal(value, head.state_dict()[key]) for key, value in state.items())
    head.observe(torch.full((2, 6), math.nan), rows(TARGETS))  # a step that is left out leaves no trace
    assert all(torch.equal(value, head.state_dict()[key]) for key, value in state.items())


def test_the_output_carries_the_encodings_only_where_the_loss_needs_them():
    assert contrastive()((A, B)).shape == (2, 2)
    head = contrastive(cosine_loss=1.0)
    output = head((A, B))
    assert output.shape == (2, 6)
    assert torch.equal(head.predicted(output), contrastive()((A, B)))
    assert torch.equal(output[:, 2:], torch.cat([A.pooled, B.pooled], dim=-1))


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (TaskFacts("t", 9, 1, Classes.named("x", "y", "z")), {}, "two classes or a score, and the task one of x, y, z"),
        (SCORES, {"triplet_loss": 1.0}, "compare pairs of two classes"),
        (SCORES, {"cosine_loss": 1.0}, "compare pairs of two classes"),
        (PAIRS, {"gamma": 0.5}, "mixes losses of scores"),
        (PAIRS, {"alpha": 1.0, "learn_alpha": True}, "starts from a number between 0 and 1"),
        (PAIRS, {"alpha": 0.0, "learn_alpha": True}, "starts from a number between 0 and 1"),
    ],
)
def test_what_cannot_be_mixed_is_refused(task, options, message):
    with pytest.raises(MtlError, match=rf"^tasks\.{task.name}\.head.*{message}"):
        PairMix(HeadFacts(task, 2, 2), **options)
