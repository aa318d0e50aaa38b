"""The contrast of classes: values worked out by hand."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from labels import rows
from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.heads.base import EncoderOutput, HeadFacts
from mtlcli.heads.class_contrastive import ClassContrastive
from mtlcli.tasks.targets import Classes, Score

TASK = TaskFacts("c", 10, 1, Classes.named("no", "yes"))
TARGETS = torch.tensor([0, 1, 0, 1])


def head(**options) -> ClassContrastive:
    torch.manual_seed(1)
    return ClassContrastive(HeadFacts(TASK, 2, 1), **options)


def output(made: ClassContrastive, vectors: list[list[float]]) -> torch.Tensor:
    pooled = torch.tensor(vectors)
    return made((EncoderOutput(pooled.unsqueeze(1), torch.ones(len(pooled), 1, dtype=torch.bool), pooled),))


def test_encodings_are_normalized():
    assert output(head(), [[3.0, 4.0]]).tolist()[0] == pytest.approx([0.6, 0.8])


def test_the_scaled_similarities_of_the_pairs_are_held_against_the_identity():
    made = head(scale=10.0)
    # a = (1, 0), (0, 1); b = (.6, .8), (0, 1): S = 10 * [[.6, 0], [.8, 1]]
    losses = made.loss(output(made, [[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [0.0, 1.0]]), rows(TARGETS))
    first = -math.log(math.exp(6) / (math.exp(6) + math.exp(0)))
    second = -math.log(math.exp(10) / (math.exp(8) + math.exp(10)))
    assert losses.tolist() == pytest.approx([first, second, first, second], rel=1e-4)


def test_pairs_are_found_in_any_order_and_the_rest_costs_nothing():
    made = head(scale=10.0)
    vectors = [[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [0.0, 1.0]]
    mixed = [vectors[1], vectors[3], vectors[0], vectors[2], [5.0, 1.0]]
    losses = made.loss(output(made, mixed), rows(torch.tensor([1, 1, 0, 0, 1])))  # the third of class 1 has no partner
    expected = made.loss(output(made, vectors), rows(TARGETS))[[1, 3, 0, 2]].tolist()
    assert losses.tolist() == pytest.approx([*expected, 0.0], rel=1e-5)
    assert made.loss(output(made, vectors[:2]), rows(torch.tensor([0, 1]))).tolist() == [0.0, 0.0]


def test_three_classes_are_found_in_a_batch_of_six():
    task = TaskFacts("c", 10, 1, Classes.named("a", "b", "c"))
    made = ClassContrastive(HeadFacts(task, 3, 1), scale=1.0)
    eye = torch.eye(3).tolist()
    losses = made.loss(output(made, eye + eye), rows(torch.tensor([0, 1, 2, 0, 1, 2])))
    assert losses.tolist() == pytest.approx([-math.log(math.e / (math.e + 2))] * 6)


def test_centroids_are_means_first_and_follow_slowly_then():
    made = head(decay=0.75)
    made.observe(output(made, [[1.0, 0.0], [0.0, 1.0]]), rows(torch.tensor([1, 1])))
    assert made.centroids[1].tolist() == [0.5, 0.5]
    made.observe(output(made, [[1.0, 0.0]]), rows(torch.tensor([1])))
    assert made.centroids[1].tolist() == [0.75, 0.25]  # the mean of both batches
    made.observe(output(made, [[1.0, 0.0]]), rows(torch.tensor([1])))
    made.observe(output(made, [[1.0, 0.0]]), rows(torch.tensor([1])))
    assert made.centroids[1].tolist() == pytest.approx([0.875, 0.125])  # of four; from now on a quarter is new
    made.observe(output(made, [[0.0, 1.0]]), rows(torch.tensor([1])))
    assert made.centroids[1].tolist() == pytest.approx([0.75 * 0.875, 0.75 * 0.125 + 0.25])
    assert made.seen.tolist() == [0, 5]


def test_the_class_of_the_nearest_centroid_is_predicted():
    made = head(scale=2.0)
    made.observe(output(made, [[1.0, 0.0], [0.0, 1.0]]), rows(torch.tensor([0, 1])))
    decoded = made.decode(output(made, [[4.0, 3.0], [0.0, 9.0]]))
    assert decoded["index"].tolist() == [0, 1]
    high = math.exp(1.6) / (math.exp(1.6) + math.exp(1.2))  # 2 * .8 against 2 * .6
    assert decoded["probabilities"].tolist()[0] == pytest.approx([high, 1 - high])


def test_out_of_training_the_loss_is_that_of_the_prediction_and_nothing_is_observed():
    made = head(scale=2.0)
    made.observe(output(made, [[1.0, 0.0], [0.0, 1.0]]), rows(torch.tensor([0, 1])))
    made.eval()
    state = {key: value.clone() for key, value in made.state_dict().items()}
    losses = made.loss(output(made, [[4.0, 3.0]]), rows(torch.tensor([1])))
    assert losses.tolist() == pytest.approx([-math.log(math.exp(1.2) / (math.exp(1.6) + math.exp(1.2)))])
    assert all(torch.equal(value, made.state_dict()[key]) for key, value in state.items())


def test_numbers_that_are_not_finite_leave_the_centroids_alone():
    made = head()
    before = made.centroids.clone()
    made.observe(torch.tensor([[math.nan, 1.0]]), rows(torch.tensor([0])))
    assert torch.equal(made.centroids, before) and made.seen.tolist() == [0, 0]


def test_some_steps_put_classes_apart():
    made = head()
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(4, 2, generator=random, requires_grad=True)
    first = made.loss(normalize(vectors, dim=-1), rows(TARGETS)).mean().item()
    for _ in range(50):
        loss = made.loss(normalize(vectors, dim=-1), rows(TARGETS)).mean()
        (gradient,) = torch.autograd.grad(loss, vectors)
        with torch.no_grad():
            vectors -= 0.1 * gradient
    assert loss.item() < 0.01 < 1 < first
    a, b, c, d = normalize(vectors.detach(), dim=-1)
    assert a @ c > a @ d and b @ d > b @ c


def test_scores_are_refused():
    with pytest.raises(MtlError, match="contrasts classes"):
        ClassContrastive(HeadFacts(TaskFacts("s", 10, 1, Score(0.0, 5.0, 2.0, 1.5)), 2, 1))
