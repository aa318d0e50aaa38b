"""Debiased cosines: a case by hand, known gradients under noise, the jackknife, and sketches."""

import numpy as np
import pytest
import torch

from mtlcli.affinity.gradients import Sketch, cosines_of, debiased_cosine, direction, pair_reliability

A = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
B = np.array([[1.0, 0.0], [1.0, -2.0], [1.0, 2.0]])


def cosine(a, b):
    return debiased_cosine(a @ a.T, b @ b.T, a @ b.T)


def test_three_batches_by_hand():
    # |sum|^2 = 3^2 + 3^2 = 18, sum of squares 4 + 4 + 2 = 10: (18 - 10) / (3 * 2)
    assert direction(A @ A.T).squared_norm == pytest.approx(4 / 3)
    # 9 - (1 + 5 + 5) = -2: no direction
    assert direction(B @ B.T).squared_norm == pytest.approx(-1 / 3)
    assert direction(B @ B.T).reliability == 0.0
    assert cosine(A, B).value is None


def test_the_reliability_is_the_expected_cosine_of_two_means():
    # s = U / mean |g|^2 = (4/3) / (10/3) = 0.4; 3 s / (1 - s + 3 s) = 1.2 / 1.8
    found = direction(A @ A.T)
    assert found.share == pytest.approx(0.4)
    assert found.reliability == pytest.approx(2 / 3)


def test_a_known_cosine_is_found_under_noise_that_halves_the_plain_one():
    generator = np.random.default_rng(1)
    size, n = 400, 30
    first = generator.standard_normal(size)
    second = generator.standard_normal(size)
    second -= (second @ first) / (first @ first) * first
    second = 0.6 * first / np.linalg.norm(first) + 0.8 * second / np.linalg.norm(second)
    first /= np.linalg.norm(first)
    debiased, plain = [], []
    for _ in range(60):
        rows = [task + 0.35 * generator.standard_normal((n, size)) for task in (first, second)]
        debiased.append(cosine(*rows).value)
        means = [task.mean(0) for task in rows]
        plain.append(means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1]))
    assert np.mean(debiased) == pytest.approx(0.6, abs=0.02)
    # The noise of a mean has a squared norm of 400 * 0.35^2 / 30 = 1.633: the plain cosine is 0.6 / 2.633.
    assert np.mean(plain) == pytest.approx(0.6 / 2.633, abs=0.02)


def test_the_standard_error_is_that_of_leaving_each_batch_out():
    generator = np.random.default_rng(2)
    a, b = (generator.standard_normal(8) + 0.3 * generator.standard_normal((6, 8)) for _ in range(2))
    left = [cosine(np.delete(a, at, 0), np.delete(b, at, 0)).value for at in range(6)]
    expected = np.sqrt(5 / 6 * ((np.array(left) - np.mean(left)) ** 2).sum())
    assert cosine(a, b).error == pytest.approx(expected)


def test_the_interval_holds_the_truth_in_most_repetitions():
    generator = np.random.default_rng(3)
    first, second = np.eye(50)[0], np.eye(50)[:2].sum(0) / np.sqrt(2)
    inside = 0
    for _ in range(200):
        found = cosine(*(task + 0.2 * generator.standard_normal((20, 50)) for task in (first, second)))
        inside += abs(found.value - np.sqrt(0.5)) < 1.96 * found.error
    assert 180 <= inside <= 200


def test_a_task_with_fewer_batches_is_compared_by_the_first_ones_of_the_other():
    generator = np.random.default_rng(4)
    a, b = 1 + 0.1 * generator.standard_normal((9, 4)), 1 + 0.1 * generator.standard_normal((5, 4))
    assert cosine(a, b) == cosine(a[:5], b)
    found = cosines_of("all", [a, b])
    assert found.cosines[0, 1] == found.cosines[1, 0] == pytest.approx(cosine(a, b).value)
    assert np.isnan(found.cosines[0, 0])


def test_pairs_repeat_where_two_halves_have_the_same_order():
    order = np.array([[0, 3, 2, 7], [0, 0, 5, 6], [0, 0, 0, 4], [0, 0, 0, 0]], dtype=float)
    assert pair_reliability(order, order * 2) == pytest.approx(1.0)
    assert pair_reliability(order, -order) == 0.0
    assert pair_reliability(order[:3, :3], order[:3, :3]) is None  # three pairs


def test_a_sketch_keeps_small_blocks_exactly_and_inner_products_on_average():
    blocks = [("small", slice(0, 5)), ("large", slice(5, 20_005))]
    generator = torch.Generator().manual_seed(1)
    common = torch.randn(20_005, generator=generator)
    a, b = (common + torch.randn(20_005, generator=generator) for _ in range(2))
    exact = float(a[5:] @ b[5:])
    norms = float(a[5:].norm() * b[5:].norm())
    errors = []
    for seed in range(20):
        sketch = Sketch(blocks, seed, width=1009)
        folded = [sketch.fold(row) for row in (a, b)]
        assert sketch.size == len(folded[0]) == 5 + 1009
        assert folded[0][:5] == pytest.approx(a[:5].numpy())
        large = sketch.columns["large"]
        errors.append((float(folded[0][large] @ folded[1][large]) - exact) / norms)
    assert np.std(errors) == pytest.approx(1 / np.sqrt(1009), rel=0.5)
    assert abs(np.mean(errors)) < 3 / np.sqrt(20 * 1009)


def test_every_parameter_of_a_block_enters_its_sketch_once():
    sketch = Sketch([("block", slice(0, 7))], 1, width=3)
    # The signs themselves fold to how many parameters each number holds.
    assert sketch.fold(sketch._signs["block"].float()).tolist() == [3.0, 2.0, 2.0]
