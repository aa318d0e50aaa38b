"""Heads: values worked out by hand."""

import math

import pytest
import torch

from labels import rows
from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.heads.base import EncoderOutput, HeadFacts
from mtlcli.heads.cosine import Cosine
from mtlcli.heads.linear import Linear
from mtlcli.heads.pair_concat import PairConcat
from mtlcli.tasks.targets import Classes, Ragged, Score

CLASSES = TaskFacts("c", 10, 1, Classes.named("no", "yes"))
SCORES = TaskFacts("s", 10, 1, Score(0.0, 5.0, 2.0, 1.5))


def encoding(*vectors: list[float]) -> EncoderOutput:
    pooled = torch.tensor(vectors)
    return EncoderOutput(pooled.unsqueeze(1), torch.ones(len(pooled), 1, dtype=torch.bool), pooled)


def test_cosine_maps_to_the_range_of_the_task():
    head = Cosine(HeadFacts(SCORES, 2, 2))
    output = head((encoding([1.0, 0.0], [1.0, 0.0], [1.0, 0.0]), encoding([2.0, 0.0], [0.0, 3.0], [-1.0, 0.0])))
    assert output.tolist() == pytest.approx([5.0, 0.0, -5.0])
    assert head.decode(output)["value"].tolist() == pytest.approx([5.0, 0.0, 0.0])


def test_cosine_loss_is_in_standard_deviations_of_the_labels():
    head = Cosine(HeadFacts(SCORES, 2, 2))
    assert head.loss(torch.tensor([5.0]), rows(torch.tensor([2.0]))).tolist() == pytest.approx([4.0])  # (3 / 1.5)^2


def test_relu_takes_a_negative_cosine_as_none():
    head = Cosine(HeadFacts(SCORES, 2, 2), relu=True)
    assert head((encoding([1.0, 0.0]), encoding([-1.0, 0.0]))).tolist() == [0.0]


def test_cosine_of_two_empty_vectors_is_finite():
    output = Cosine(HeadFacts(SCORES, 2, 2))((encoding([0.0, 0.0]), encoding([0.0, 0.0])))
    assert torch.isfinite(output).all()


def test_cosine_refuses_classes():
    with pytest.raises(MtlError, match="pair-concat"):
        Cosine(HeadFacts(CLASSES, 2, 2))


def test_a_score_is_learned_in_standard_deviations_and_given_in_units():
    head = Linear(HeadFacts(SCORES, 2, 1))
    assert head.loss(torch.tensor([0.0]), rows(torch.tensor([3.5]))).tolist() == pytest.approx([1.0])
    assert head.decode(torch.tensor([1.0, 9.0, -9.0]))["value"].tolist() == pytest.approx([3.5, 5.0, 0.0])


def test_classes_are_cross_entropy_and_softmax():
    head = Linear(HeadFacts(CLASSES, 2, 1))
    logits = torch.tensor([[0.0, math.log(3.0)]])
    assert head.loss(logits, rows(torch.tensor([0]))).tolist() == pytest.approx([math.log(4.0)])
    decoded = head.decode(logits)
    assert decoded["index"].tolist() == [1]
    assert decoded["probabilities"].tolist()[0] == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize(("gamma", "loss"), [(1.0, 4.0), (0.25, 2.5), (0.0, 2.0)])
def test_gamma_mixes_squared_and_absolute_error(gamma, loss):
    """An error of 2 standard deviations: gamma * 4 + (1 - gamma) * 2."""
    linear = Linear(HeadFacts(SCORES, 2, 1), gamma=gamma)
    assert linear.loss(torch.tensor([-1.0]), rows(torch.tensor([3.5]))).tolist() == pytest.approx([loss])
    cosine = Cosine(HeadFacts(SCORES, 2, 2), gamma=gamma)  # 3 / 1.5 standard deviations off
    assert cosine.loss(torch.tensor([5.0]), rows(torch.tensor([2.0]))).tolist() == pytest.approx([loss])


def test_a_row_without_a_score_costs_nothing_and_has_no_gradient():
    head = Linear(HeadFacts(SCORES, 2, 1), gamma=0.5)
    output = torch.tensor([0.0, 3.0], requires_grad=True)
    losses = head.loss(output, Ragged({"value": torch.tensor([3.5, 0.0]), "known": torch.tensor([True, False])}))
    losses.sum().backward()
    assert losses.tolist() == [1.0, 0.0]
    assert output.grad.tolist() == [-1.5, 0.0]  # .5 * 2 e + .5 * sign e at e = -1


def test_gamma_is_refused_where_classes_are_predicted():
    with pytest.raises(MtlError, match=r"^tasks\.c\.head\.gamma: mixes losses of scores"):
        Linear(HeadFacts(CLASSES, 2, 1), gamma=0.5)


def test_losses_are_float32_even_from_half_precision():
    head = Linear(HeadFacts(CLASSES, 2, 1))
    assert (
        head.loss(torch.zeros(3, 2, dtype=torch.bfloat16), rows(torch.zeros(3, dtype=torch.long))).dtype
        == torch.float32
    )


@pytest.mark.parametrize(("options", "width"), [({}, 6), ({"difference": False}, 4), ({"product": True}, 8)])
def test_pair_concat_reads_what_it_is_told_to(options, width):
    head = PairConcat(HeadFacts(CLASSES, 2, 2), **options)
    assert head.out.in_features == width
    with torch.no_grad():
        head.eval()
        head.out.bias.zero_()
        head.out.weight.copy_(torch.arange(2 * width).view(2, width).float())
    parts = [1.0, 2.0, 3.0, -1.0]
    parts += [2.0, 3.0] if options.get("difference", True) else []
    parts += [3.0, -2.0] if options.get("product") else []
    output = head((encoding([1.0, 2.0]), encoding([3.0, -1.0])))
    expected = [
        sum(weight * part for weight, part in zip(range(start, start + width), parts, strict=True))
        for start in (0, width)
    ]
    assert output.tolist()[0] == pytest.approx(expected)
