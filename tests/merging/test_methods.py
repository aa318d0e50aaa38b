"""The formulas of merging, by values worked out by hand."""

import pytest
import torch
from torch import Tensor

from mtlcli.merging import methods
from mtlcli.merging.merger import Coefficients, Merger, Method, Options
from mtlcli.merging.tensors import TensorFile, write_tensors

ALL: tuple[Method, ...] = ("average", "task-arithmetic", "ties", "dare", "fisher")
VECTORS = [[0.5, -0.1, 0.25, 0.0], [-0.2, 0.4, 0.25, 0.1], [0.1, -0.25, -0.5, 0.05]]


def file(folder, name: str, **tensors: Tensor) -> TensorFile:
    return write_tensors(tensors, folder / f"{name}.safetensors")


def merged(merger: Merger, *weights: float, scaling: float = 1.0) -> dict[str, Tensor]:
    return dict(merger.merge(Coefficients(weights, scaling)))


def random_weights(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "matrix": torch.randn(6, 5, generator=generator) * 10.0 ** torch.arange(-6, -1),
        "bias": torch.randn(7, generator=generator),
        "positions": torch.arange(4),
    }


def test_average_by_weights():
    value = methods.average([torch.tensor([1.0, 2.0]), torch.tensor([5.0, 2.0])], [3, 1])
    assert value.tolist() == [2.0, 2.0]


def test_task_arithmetic_adds_scaled_vectors_and_a_negative_weight_subtracts():
    start, vectors = torch.tensor([1.0, 1.0]), [torch.tensor([2.0, 0.0]), torch.tensor([4.0, 1.0])]
    assert methods.task_arithmetic(start, vectors, [1, 1], 0.5).tolist() == [4.0, 1.5]
    assert methods.task_arithmetic(start, vectors, [1, -0.5], 1.0).tolist() == [1.0, 0.5]


def test_trim_keeps_the_largest_values_whatever_their_sign():
    kept = [
        methods.trim(torch.tensor(vector), methods.trim_threshold(torch.tensor(vector).abs(), 0.5)).tolist()
        for vector in VECTORS
    ]
    expected = [[0.5, 0, 0.25, 0], [0, 0.4, 0.25, 0], [0, -0.25, -0.5, 0]]
    assert kept == [pytest.approx(row) for row in expected]


def test_ties_of_three_vectors_takes_the_mean_of_those_with_the_elected_sign(tmp_path):
    start = file(tmp_path, "start", a=torch.tensor([1.0, 1.0]), b=torch.tensor([1.0, 1.0]))
    runs = [
        file(tmp_path, f"{index}", a=1 + torch.tensor(row[:2]), b=1 + torch.tensor(row[2:]))
        for index, row in enumerate(VECTORS)
    ]
    merger = Merger("ties", start, runs, Options(density=0.5))
    # 0.4 is not averaged with the -0.25 of the other sign. The third sum is 0: + is the sign of the majority.
    assert merged(merger, 1, 1, 1)["a"].tolist() == pytest.approx([1.5, 1.4])
    assert merged(merger, 1, 1, 1)["b"].tolist() == pytest.approx([1.25, 1.0])
    assert merged(merger, 1, 1, 1, scaling=2)["a"].tolist() == pytest.approx([2.0, 1.8])
    # With a weight of 2, the third run outvotes the others in the second and third value.
    assert merged(merger, 1, 1, 2)["a"].tolist() == pytest.approx([1.5, 0.75])
    assert merged(merger, 1, 1, 2)["b"].tolist() == pytest.approx([0.5, 1.0])


def test_ties_trims_over_all_tensors_together(tmp_path):
    start = file(tmp_path, "start", large=torch.zeros(2), small=torch.zeros(2))
    run = file(tmp_path, "run", large=torch.tensor([4.0, 3.0]), small=torch.tensor([0.2, 0.1]))
    values = merged(Merger("ties", start, [run], Options(density=0.5)), 1)
    assert values["large"].tolist() == [4.0, 3.0]
    assert values["small"].tolist() == [0.0, 0.0]


def test_a_sum_of_exactly_zero_has_the_sign_of_the_majority():
    vectors = [torch.tensor([1.0]), torch.tensor([-1.0])]
    assert methods.ties(torch.zeros(1), vectors, [1, 1], 1.0, majority=1.0).tolist() == [1.0]
    assert methods.ties(torch.zeros(1), vectors, [1, 1], 1.0, majority=-1.0).tolist() == [-1.0]


def test_dare_drops_a_share_and_keeps_the_mean():
    vector = torch.full((10_000,), 0.5, dtype=torch.float64)
    dropped = methods.drop(vector, 0.9, torch.Generator().manual_seed(1))
    assert sorted(set(dropped.tolist())) == pytest.approx([0.0, 5.0])
    # A value is 5 with probability 0.1: a deviation of 1.5, and 0.015 of the mean.
    assert float(dropped.mean()) == pytest.approx(0.5, abs=3 * 0.015)


def test_dare_depends_on_its_seed_alone(tmp_path):
    start, run = file(tmp_path, "start", **random_weights(0)), file(tmp_path, "run", **random_weights(1))

    def values(seed: int) -> list[float]:
        return merged(Merger("dare", start, [run], Options(drop_rate=0.5, seed=seed)), 1)["matrix"].flatten().tolist()

    assert values(1) == values(1)
    assert values(1) != values(2)


def test_fisher_weights_each_parameter_by_its_information():
    thetas = [torch.tensor([1.0, 1.0]), torch.tensor([5.0, 5.0])]
    information = [torch.tensor([3.0, 0.0]), torch.tensor([1.0, 0.0])]
    assert methods.fisher(thetas, information, [1, 1]).tolist() == pytest.approx([2.0, 3.0])
    assert methods.fisher(thetas, information, [1, 3]).tolist() == pytest.approx([3.0, 4.0])


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("copies", [1, 2])
def test_a_run_merged_with_itself_is_that_run_bit_by_bit(tmp_path, method, copies):
    start, weights = file(tmp_path, "start", **random_weights(0)), random_weights(1)
    information = file(tmp_path, "information", matrix=torch.rand(6, 5), bias=torch.rand(7))
    runs = [file(tmp_path, f"{index}", **weights) for index in range(copies)]
    merger = Merger(method, start, runs, Options(density=1.0, drop_rate=0.0), [information] * copies)
    sums = method in ("task-arithmetic", "dare")
    values = merged(merger, *[1 / copies if sums else 1.0] * copies)
    assert values.keys() == weights.keys()
    for name, value in values.items():
        assert value.dtype == weights[name].dtype
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize("method", ["task-arithmetic", "ties", "dare"])
def test_scaling_0_is_the_start(tmp_path, method):
    weights = random_weights(0)
    start, run = file(tmp_path, "start", **weights), file(tmp_path, "run", **random_weights(1))
    for name, value in merged(Merger(method, start, [run]), 1, scaling=0).items():
        assert torch.equal(value, weights[name])


@pytest.mark.parametrize("method", ALL)
def test_the_order_of_runs_is_irrelevant(tmp_path, method):
    start = file(tmp_path, "start", **random_weights(0))
    runs = [file(tmp_path, f"{index}", **random_weights(index + 1)) for index in range(2)]
    information = [file(tmp_path, f"f{index}", matrix=torch.rand(6, 5)) for index in range(2)]
    options = Options(density=0.5, drop_rate=0.0)
    one = merged(Merger(method, start, runs, options, information), 0.3, 0.7)
    other = merged(Merger(method, start, runs[::-1], options, information[::-1]), 0.7, 0.3)
    for name in one:
        torch.testing.assert_close(one[name], other[name])


def test_equal_weights_in_other_files_have_one_digest(tmp_path):
    first, same = file(tmp_path, "a", **random_weights(0)), file(tmp_path, "b", **random_weights(0))
    assert first.digest() == same.digest() != file(tmp_path, "c", **random_weights(1)).digest()
