"""PCGrad: Algorithm 1 by hand, and where other codes differ."""

import pytest
import torch

import toy
from mtlcli.gradient_regularizers.pcgrad import PCGrad


def combined(rows: list[list[float]], **options) -> torch.Tensor:
    matrix = torch.tensor(rows, dtype=torch.float64)
    tasks = torch.arange(len(rows))
    return PCGrad(toy.facts(3), **options).weights(matrix @ matrix.T, tasks) @ matrix


def test_two_opposed_gradients_cancel():
    assert combined([[1.0, 0.0], [-1.0, 0.0]]).tolist() == [0.0, 0.0]


def test_two_conflicting_gradients_by_hand():
    # a = (1, 0), b = (-1, 1), a.b = -1: a' = a + b/2 = (.5, .5), b' = b + a = (0, 1)
    assert combined([[1.0, 0.0], [-1.0, 1.0]]).tolist() == pytest.approx([0.5, 1.5])


def test_gradients_without_conflict_are_added():
    assert combined([[1.0, 0.0], [1.0, 2.0], [0.0, 3.0]]).tolist() == [2.0, 5.0]


def test_identical_gradients_are_left_alone():
    assert combined([[1.0, 2.0]] * 3).tolist() == [3.0, 6.0]
    mean = PCGrad(toy.facts(3), scale="mean")
    assert mean.scaling(3) == pytest.approx(1 / 3)


def test_a_zero_gradient_projects_nothing():
    assert combined([[0.0, 0.0], [1.0, 1.0]]).tolist() == [1.0, 1.0]


def test_each_projection_is_on_the_original_gradient_and_of_the_running_one():
    rows = torch.tensor([[1.0, 0.0, 0.2], [-1.0, 0.6, 0.0], [-0.5, -1.0, 0.3]], dtype=torch.float64)
    gram = rows @ rows.T
    order = PCGrad(toy.facts(3)).generator
    expected = torch.zeros(3, dtype=torch.float64)
    for i in range(3):
        gradient = rows[i].clone()
        for j in torch.randperm(3, generator=order).tolist():
            if j != i and gradient @ rows[j] < 0:
                gradient = gradient - (gradient @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        expected += gradient
    weights = PCGrad(toy.facts(3)).weights(gram, torch.arange(3))
    torch.testing.assert_close(weights @ rows, expected)


def test_a_task_is_never_projected_on_itself():
    # the running gradient of the first task turns against its own original one: codes that include j = i differ here
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1]], dtype=torch.float64)
    for seed in range(20):
        regularizer = PCGrad(toy.facts(3))
        regularizer.generator.manual_seed(seed)
        order = torch.Generator().manual_seed(seed)
        first = rows[0].clone()
        for j in torch.randperm(3, generator=order).tolist():
            if j != 0 and first @ rows[j] < 0:
                first = first - (first @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        other = [torch.randperm(3, generator=order).tolist() for _ in range(2)]
        rest = torch.zeros(2, dtype=torch.float64)
        for i, sequence in zip((1, 2), other, strict=True):
            gradient = rows[i].clone()
            for j in sequence:
                if j != i and gradient @ rows[j] < 0:
                    gradient = gradient - (gradient @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
            rest += gradient
        torch.testing.assert_close(regularizer.weights(rows @ rows.T, torch.arange(3)) @ rows, first + rest)


def test_the_order_is_random_and_resumes():
    rows = torch.tensor([[1.0, 0.0, 0.2], [-1.0, 0.6, 0.0], [-0.5, -1.0, 0.3]], dtype=torch.float64)
    gram, tasks = rows @ rows.T, torch.arange(3)
    first = PCGrad(toy.facts(3))
    drawn = [tuple(first.weights(gram, tasks).tolist()) for _ in range(20)]
    assert len(set(drawn)) > 1
    state = first.state_dict()
    following = [first.weights(gram, tasks).tolist() for _ in range(5)]
    second = PCGrad(toy.facts(3))
    second.load_state_dict(state)
    assert [second.weights(gram, tasks).tolist() for _ in range(5)] == following
