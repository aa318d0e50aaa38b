"""Small solvers: the conditions that mark a minimum, and what happens where gradients depend on each other."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from mtlcli.gradient_regularizers.geometry import cosines, nonnegative_minimum, shortest, solve


def test_a_small_system_by_hand():
    # 4x + 2y = 8, 2x + 5y = 16: y = 3, x = 0.5
    assert solve([[4.0, 2.0], [2.0, 5.0]], [8.0, 16.0]) == pytest.approx([0.5, 3.0])


def test_a_singular_system_has_no_solution():
    assert solve([[1.0, 2.0], [2.0, 4.0]], [1.0, 2.0]) is None
    assert solve([[0.0]], [1.0]) is None
    assert solve([[math.nan]], [1.0]) is None


def test_a_zero_gradient_has_cosine_zero_with_all():
    cosine, norms = cosines(torch.tensor([[4.0, 0.0, 3.0], [0.0, 0.0, 0.0], [3.0, 0.0, 9.0]], dtype=torch.float64))
    assert cosine.tolist() == [[1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.5, 0.0, 1.0]]
    assert norms.tolist() == [2.0, 0.0, 3.0]


def test_a_coordinate_that_would_be_negative_stays_zero():
    # without the bound: x = 1, y = -2
    assert nonnegative_minimum([[1.0, 0.0], [0.0, 1.0]], [1.0, -2.0]) == [1.0, 0.0]


@pytest.mark.parametrize("k", range(2, 8))
@pytest.mark.parametrize("size", [2, 10])
def test_at_the_minimum_every_slope_is_zero_or_points_outwards(k, size):
    random = torch.Generator().manual_seed(k)
    for _ in range(30):
        rows = torch.randn(k, size, generator=random, dtype=torch.float64)  # more rows than columns: they depend
        gram, linear = rows @ rows.T, rows @ torch.randn(size, generator=random, dtype=torch.float64)
        x = torch.tensor(nonnegative_minimum(gram.tolist(), linear.tolist()), dtype=torch.float64)
        slope = gram @ x - linear
        assert bool((x >= 0).all())
        assert float(slope.min()) > -1e-8
        assert float((slope * x).abs().max()) < 1e-8


@pytest.mark.parametrize("k", [3, 6, 9, 12])
def test_the_nonnegative_minimum_of_correlated_columns_is_that_of_scipy(k):
    random = np.random.default_rng(k)
    for correlation in (0.0, 0.5, 0.9, -0.9 / k):
        for _ in range(10):
            columns = random.normal(size=(2 * k, k)) * np.sqrt(1 - abs(correlation))
            columns += np.sign(correlation) * np.sqrt(abs(correlation)) * random.normal(size=(2 * k, 1))
            right = random.normal(size=2 * k)
            expected, _ = nnls(columns, right)
            x = nonnegative_minimum((columns.T @ columns).tolist(), (columns.T @ right).tolist())
            assert x == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_more_vectors_than_dimensions_have_the_nonnegative_projection_of_scipy(seed):
    # Several coordinates then leave the active set in one step. The projection is unique, its coordinates are not.
    random = np.random.default_rng(seed)
    for _ in range(60):
        columns = random.normal(size=(int(random.integers(4, 9)), 12)) * 3
        right = columns @ random.normal(size=12)
        expected, _ = nnls(columns, right)
        x = np.array(nonnegative_minimum((columns.T @ columns).tolist(), (columns.T @ right).tolist()))
        assert (x >= 0).all()
        assert columns @ x == pytest.approx(columns @ expected, abs=1e-6)


@pytest.mark.parametrize("length", [1e-8, 1e8])
def test_the_nonnegative_minimum_does_not_depend_on_the_unit_of_a_column(length):
    rows = torch.tensor([[1.0, 0.2, 0.0], [0.3, 1.0, 0.0], [-0.2, -0.5, 1.0]], dtype=torch.float64)
    scale = torch.tensor([[1.0], [1.0], [length]], dtype=torch.float64)
    linear = torch.tensor([0.5, 0.6, 0.7], dtype=torch.float64)
    expected = nonnegative_minimum((rows @ rows.T).tolist(), linear.tolist())
    scaled = rows * scale
    x = nonnegative_minimum((scaled @ scaled.T).tolist(), (linear * scale[:, 0]).tolist())
    assert (torch.tensor(x, dtype=torch.float64) * scale[:, 0]).tolist() == pytest.approx(expected)
    assert min(expected) > 0.1


@pytest.mark.parametrize("k", range(1, 8))
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_the_shortest_combination_has_the_same_product_with_all_it_uses_and_more_with_the_others(k, spread):
    random = torch.Generator().manual_seed(k)
    for size in (2, 10):
        for _ in range(15):
            rows = torch.randn(k, size, generator=random, dtype=torch.float64)
            rows *= spread ** torch.rand(k, 1, generator=random, dtype=torch.float64)
            weights = torch.tensor(shortest((rows @ rows.T).tolist()), dtype=torch.float64)
            found = weights @ rows
            scale = float((rows @ rows.T).diagonal().max())
            assert float(weights.min()) >= 0
            assert float(weights.sum()) == pytest.approx(1)
            assert float((rows @ found).min() - found @ found) > -1e-9 * scale


def test_opposed_vectors_can_cancel():
    assert shortest([[4.0, -2.0], [-2.0, 1.0]]) == pytest.approx([1 / 3, 2 / 3])  # 2 and -1: 2/3 - 2/3 = 0


def test_several_zero_vectors_share_the_weight_equally():
    assert shortest([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]) == [0.5, 0.0, 0.5]
