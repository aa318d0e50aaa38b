"""Every method that combines gradients: one value worked by hand, and what its paper promises."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import toy
from mtlcli.gradient_regularizers import graddrop
from mtlcli.gradient_regularizers.aligned_mtl import AlignedMTL
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.gradient_regularizers.cagrad import CAGrad
from mtlcli.gradient_regularizers.graddrop import GradDrop
from mtlcli.gradient_regularizers.gradvac import GradVac
from mtlcli.gradient_regularizers.imtl_g import IMTLG
from mtlcli.gradient_regularizers.mgda import MGDA
from mtlcli.gradient_regularizers.nash_mtl import NashMTL
from mtlcli.gradient_regularizers.pcgrad import PCGrad
from mtlcli.gradient_regularizers.upgrad import UPGrad
from mtlcli.testing.common import start_of

RIGHT_ANGLE = [[2.0, 0.0], [0.0, 1.0]]


def weights(method: GradientRegularizer, rows: list[list[float]] | torch.Tensor) -> list[float]:
    matrix = torch.as_tensor(rows, dtype=torch.float64)
    return method.weights(matrix @ matrix.T, torch.arange(len(matrix))).tolist()


def combined(method: GradientRegularizer, rows: list[list[float]] | torch.Tensor) -> list[float]:
    matrix = torch.as_tensor(rows, dtype=torch.float64)
    return (torch.tensor(weights(method, rows), dtype=torch.float64) @ matrix).tolist()


def some_rows(count: int, tasks: int = 3, size: int = 6):
    """Random gradients of very different lengths, half of them in conflict."""
    random = torch.Generator().manual_seed(7)
    for _ in range(count):
        rows = torch.randn(tasks, size, generator=random, dtype=torch.float64)
        yield rows * torch.exp(torch.randn(tasks, 1, generator=random, dtype=torch.float64))


# MGDA


def test_mgda_two_gradients_at_a_right_angle_by_hand():
    # w_1 = g_2 . (g_2 - g_1) / |g_1 - g_2|^2 = 1 / 5
    assert weights(MGDA(toy.facts()), RIGHT_ANGLE) == pytest.approx([0.2, 0.8])


def test_mgda_takes_the_shorter_gradient_where_the_other_adds_only_length():
    assert weights(MGDA(toy.facts()), [[1.0, 0.0], [3.0, 1.0]]) == [1.0, 0.0]


def test_mgda_no_task_gains_less_than_the_length_of_the_update():
    for rows in some_rows(50):
        found = torch.tensor(combined(MGDA(toy.facts(3)), rows), dtype=torch.float64)
        assert float((rows @ found).min()) == pytest.approx(float(found @ found))


def test_mgda_stops_where_a_task_has_nothing_to_learn():
    assert combined(MGDA(toy.facts()), [[0.0, 0.0], [1.0, 1.0]]) == [0.0, 0.0]


def test_mgda_with_norms_of_one_weighs_the_gradients_as_they_are():
    assert combined(MGDA(toy.facts(), normalize="l2"), RIGHT_ANGLE) == pytest.approx([1.0, 0.5])


# CAGrad


def test_cagrad_two_opposed_gradients_by_hand():
    # 2 and -1: g_0 = 0.5, c |g_0| = 0.25; 0.5 g_w + 0.25 |g_w| is least at g_w = -1, so d = 0.5 - 0.25
    assert weights(CAGrad(toy.facts(), c=0.5), [[2.0], [-1.0]]) == pytest.approx([0.5, 0.75])


def test_cagrad_without_room_is_the_mean():
    assert combined(CAGrad(toy.facts(), c=0.0), RIGHT_ANGLE) == [1.0, 0.5]


def test_cagrad_with_room_to_cancel_goes_against_nobody():
    assert combined(CAGrad(toy.facts(), c=1.0), [[2.0], [-1.0]]) == pytest.approx([0.0])


@pytest.mark.parametrize("c", [0.2, 0.5, 2.0])
def test_cagrad_maximizes_the_least_gain_on_its_ball(c):
    for rows in some_rows(50):
        found = torch.tensor(combined(CAGrad(toy.facts(3), c=c), rows), dtype=torch.float64)
        mean = rows.mean(0)
        assert float((found - mean).norm()) == pytest.approx(c * float(mean.norm()))
        w = torch.tensor(weights(CAGrad(toy.facts(3), c=c), rows), dtype=torch.float64) - 1 / 3
        along = (w / w.sum()) @ rows
        bound = along @ mean + c * mean.norm() * along.norm()  # no d on the ball gains more for all: Lagrange duality
        assert float((rows @ found).min()) == pytest.approx(float(bound))


@pytest.mark.parametrize("length", [1e-12, 1e12])
def test_cagrad_weights_do_not_depend_on_the_unit_of_the_loss(length):
    for rows in some_rows(10):
        assert weights(CAGrad(toy.facts(3)), rows * length) == pytest.approx(weights(CAGrad(toy.facts(3)), rows))


def test_cagrad_without_any_gradient_is_the_mean():
    assert weights(CAGrad(toy.facts()), [[0.0, 0.0], [0.0, 0.0]]) == [0.5, 0.5]
    assert weights(CAGrad(toy.facts(1)), [[0.0, 0.0]]) == [1.0]


def test_cagrad_scales_are_constants():
    method = CAGrad(toy.facts(), c=0.5, scale="mean")
    assert method.scaling(3, torch.tensor([9.0, 9.0, 9.0])) == pytest.approx(1 / 1.5)
    assert CAGrad(toy.facts(), c=0.5, scale="sum").scaling(3) == pytest.approx(2.0)


# IMTL-G


def test_imtl_g_two_gradients_at_a_right_angle_by_hand():
    # v = (1/2, 1/1), w = v / 1.5: the update is (2/3, 2/3)
    assert weights(IMTLG(toy.facts()), RIGHT_ANGLE) == pytest.approx([1 / 3, 2 / 3])


def test_imtl_g_projections_on_all_gradients_are_equal():
    for rows in some_rows(50):
        found = torch.tensor(combined(IMTLG(toy.facts(3)), rows), dtype=torch.float64)
        projections = (rows @ found) / rows.norm(dim=1)
        assert projections.tolist() == pytest.approx([float(projections[0])] * 3)
        assert float(projections[0]) > 0


def test_imtl_g_never_turns_against_all_tasks():
    # unit gradients with cosines 0, 0.6, 0.6: C^-1 1 = (10, 10, -5) / 7; with norms 10, 10, 1 v = (1, 1, -5) / 7, whose
    # sum is -3/7: divided by it, every loss would rise. Instead 0.1 sum |v| = 0.1 is divided by
    rows = [[10.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.6, 0.6, math.sqrt(0.28)]]
    assert weights(IMTLG(toy.facts(3)), rows) == pytest.approx([10 / 7, 10 / 7, -50 / 7])


def test_imtl_g_opposed_gradients_have_no_common_direction():
    assert weights(IMTLG(toy.facts()), [[2.0], [-1.0]]) == [0.0, 0.0]


# Nash-MTL


def test_nash_mtl_two_gradients_at_a_right_angle_by_hand():
    # alpha_t |g_t|^2 alpha_t = 1: alpha = 1 / |g_t|, and the update (1, 1) is cut to length 1
    assert weights(NashMTL(toy.facts(), max_norm=None), RIGHT_ANGLE) == pytest.approx([0.5, 1.0], rel=1e-4)
    assert combined(NashMTL(toy.facts()), RIGHT_ANGLE) == pytest.approx([math.sqrt(0.5)] * 2)


def test_nash_mtl_every_weight_is_one_over_the_gain_of_its_task():
    for rows in some_rows(50):
        alpha = torch.tensor(weights(NashMTL(toy.facts(3), max_norm=None), rows), dtype=torch.float64)
        assert (alpha * (rows @ rows.T @ alpha)).tolist() == pytest.approx([1.0] * 3, abs=2e-3)


def test_nash_mtl_does_not_see_how_long_a_gradient_is():
    for rows in some_rows(10):
        other = rows * torch.tensor([[1e-6], [1.0], [1e6]])
        method = NashMTL(toy.facts(3))
        assert combined(method, other) == pytest.approx(combined(method, rows))


def test_nash_mtl_opposed_gradients_cancel():
    assert combined(NashMTL(toy.facts()), [[2.0], [-1.0]]) == pytest.approx([0.0], abs=1e-9)


def test_nash_mtl_weights_of_opposed_gradients_are_bounded_by_the_ridge():
    # beta (beta (1 + ridge) - beta) = 1 with a ridge of 1e-5: beta = 316.2, divided by the lengths 2 and 1
    found = weights(NashMTL(toy.facts(), max_norm=None), [[2.0], [-1.0]])
    assert found == pytest.approx([math.sqrt(1e5) / 2, math.sqrt(1e5)], rel=1e-6)


def test_nash_mtl_ignores_a_zero_gradient():
    method = NashMTL(toy.facts(3), max_norm=None)
    assert weights(method, [[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]]) == pytest.approx([0.5, 0.0, 1.0], rel=1e-4)


# Aligned-MTL


def test_aligned_mtl_two_gradients_at_a_right_angle_by_hand():
    # eigenvalues 1 and 4: both gradients get the length of the shorter, or sqrt(2.5)
    assert combined(AlignedMTL(toy.facts()), RIGHT_ANGLE) == pytest.approx([1.0, 1.0])
    assert combined(AlignedMTL(toy.facts(), scale_mode="rmse"), RIGHT_ANGLE) == pytest.approx([math.sqrt(2.5)] * 2)


def test_aligned_mtl_adds_orthogonal_gradients_of_one_length():
    for rows in some_rows(50):  # so |d|^2 = 3 times their squared length
        found = torch.tensor(combined(AlignedMTL(toy.facts(3)), rows), dtype=torch.float64)
        assert float(found @ found) == pytest.approx(3 * float(torch.linalg.eigvalsh(rows @ rows.T)[0]))


def test_aligned_mtl_leaves_out_directions_that_are_rounding():
    assert combined(AlignedMTL(toy.facts()), [[1.0, 0.0], [1.0, 1e-5]]) == pytest.approx([2.0, 1e-5])


# UPGrad


def test_upgrad_two_conflicting_gradients_by_hand():
    # products 18, -22, 38: v = (1, 22/38) and (22/18, 1), of which the mean is taken
    rows = [[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]
    assert weights(UPGrad(toy.facts()), rows) == pytest.approx([(1 + 22 / 18) / 2, (1 + 22 / 38) / 2], rel=1e-4)


def test_upgrad_is_the_mean_without_conflict():
    assert weights(UPGrad(toy.facts(3)), [[1.0, 0.0], [1.0, 2.0], [0.0, 3.0]]) == pytest.approx([1 / 3] * 3)


def test_upgrad_opposes_no_task():
    for rows in some_rows(100, tasks=4, size=4):
        found = torch.tensor(combined(UPGrad(toy.facts(4)), rows), dtype=torch.float64)
        gains = (rows @ found) / (rows.norm(dim=1) * found.norm())
        assert float(gains.min()) > -1e-2


def test_upgrad_sees_a_conflict_with_a_gradient_that_is_a_million_times_shorter():
    large, small = [1.0, 0.0], [-1e-6, 1e-6]  # the large one without its part along (-1, 1) is (0.5, 0.5)
    assert combined(UPGrad(toy.facts()), [large, small]) == pytest.approx([0.25, 0.25], rel=1e-4)


# GradDrop


def dropped(rows: torch.Tensor, **options: object) -> torch.Tensor:
    method = GradDrop(toy.facts(len(rows)), **options)  # type: ignore[arg-type]
    return method.combine(rows.clone(), torch.zeros(len(rows), len(rows)), torch.arange(len(rows)))


def test_graddrop_keeps_three_against_minus_one_three_times_in_four():
    rows = torch.tensor([[3.0], [-1.0]]).repeat(1, 10_000)
    found = dropped(rows)
    assert set(found.tolist()) == {3.0, -1.0}
    assert float((found == 3).float().mean()) == pytest.approx(0.75, abs=0.02)  # 4.6 standard deviations
    assert float(found.mean()) == pytest.approx(2.0, abs=0.08)  # what plain addition gives


def test_graddrop_adds_where_signs_agree_and_leaves_zero_alone():
    rows = torch.tensor([[1.0, -2.0, 0.0], [4.0, -0.5, 0.0]])
    assert dropped(rows).tolist() == [5.0, -2.5, 0.0]


def test_graddrop_with_all_let_through_is_addition():
    rows = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(dropped(rows, leak=1.0), rows.sum(0))


def test_graddrop_works_in_place_and_in_pieces(monkeypatch):
    monkeypatch.setattr(graddrop, "CHUNK", 7)
    rows = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    positive, negative = rows.clamp(min=0).sum(0), rows.clamp(max=0).sum(0)
    given = rows.clone()
    found = GradDrop(toy.facts(3)).combine(given, torch.zeros(3, 3), torch.arange(3))
    assert found.data_ptr() == given.data_ptr()
    either = torch.minimum((found - positive).abs(), (found - negative).abs())
    assert float(either.max()) < 1e-6


# GradVac


def test_gradvac_two_gradients_at_a_right_angle_by_hand():
    # phi = 0, T = 0.5: g_2 is added 0.5 / sqrt(0.75) = 0.577 times, after which the cosine is 0.577 / sqrt(1.333) = 0.5
    method = GradVac(toy.facts(), target=0.5)
    added = 0.5 / math.sqrt(0.75)
    assert weights(method, [[1.0, 0.0], [0.0, 1.0]]) == pytest.approx([1 + added, 1 + added])
    assert added / math.hypot(1, added) == pytest.approx(0.5)
    assert weights(method, RIGHT_ANGLE) == pytest.approx([1 + added / 2, 1 + 2 * added])


def test_gradvac_with_a_fixed_target_of_zero_is_pcgrad():
    vaccine, surgery = GradVac(toy.facts(3), target=0.0), PCGrad(toy.facts(3))
    vaccine.generator.manual_seed(3)
    surgery.generator.manual_seed(3)
    for rows in some_rows(30):
        assert weights(vaccine, rows) == pytest.approx(weights(surgery, rows))


def test_gradvac_targets_follow_the_cosines_after_use():
    method = GradVac(toy.facts(), beta=0.01)
    rows = [[1.0, 0.0], [0.6, 0.8]]
    for expected in (0.006, 0.99 * 0.006 + 0.006):  # the cosine is 0.6, above both targets, so nothing is added
        assert weights(method, rows) == [1.0, 1.0]
        assert method.targets[0].tolist() == [[0.0, pytest.approx(expected)], [pytest.approx(expected), 0.0]]


def test_gradvac_lifts_a_pair_to_its_usual_cosine():
    method = GradVac(toy.facts(), beta=1.0)
    weights(method, [[1.0, 0.0], [0.6, 0.8]])  # with beta = 1 the target is the last cosine
    found = weights(method, [[1.0, 0.0], [0.0, 1.0]])
    assert found == pytest.approx([1.75, 1.75])  # 0.6 / sqrt(1 - 0.36)


def test_gradvac_keeps_one_target_for_each_block_and_leaves_absent_tasks_alone():
    method = GradVac(toy.facts(3), beta=1.0, granularity="tensor")
    start = start_of(toy.model(3), toy.facts(3).tasks)
    method.setup(replace(start, blocks=lambda granularity: ("below", "above")))
    opposed, aligned = [[1.0, -0.5], [-0.5, 1.0]], [[1.0, 0.5], [0.5, 1.0]]
    grams = torch.tensor([opposed, aligned], dtype=torch.float64)
    found = method.block_weights(grams, torch.tensor([0, 2]))
    assert found.tolist() == [[pytest.approx(1.5)] * 2, [1.0, 1.0]]  # a conflict in the first block only
    assert method.targets[:, 0, 2].tolist() == pytest.approx([-0.5, 0.5])
    assert method.targets[:, 0, 1].tolist() == [0.0, 0.0]


def test_gradvac_a_zero_gradient_changes_neither_weights_nor_targets():
    method = GradVac(toy.facts(), target=None, beta=0.5)
    assert weights(method, [[0.0, 0.0], [1.0, 1.0]]) == [1.0, 1.0]
    assert method.targets.count_nonzero() == 0


# In the engine


def test_a_step_by_layers_gives_each_block_its_own_weights():
    made = toy.model(3)
    method = GradVac(toy.facts(3), target=0.9, granularity="tensor")
    engine = toy.engine(made, regularizer=method)
    method.setup(start_of(made, toy.facts(3).tasks))
    rows = torch.stack([toy.row_of(made, one) for one in toy.one_each(3)]).double()
    state = {key: value.clone() for key, value in method.state_dict().items()}
    engine.run(toy.one_each(3))
    method.load_state_dict(state)
    grams = torch.stack([rows[:, columns] @ rows[:, columns].T for _, columns in engine.blocks])
    each = method.block_weights(grams, torch.arange(3))
    expected = torch.cat([found @ rows[:, at] for found, (_, at) in zip(each, engine.blocks, strict=True)])
    found = torch.cat([parameter.grad.flatten() for parameter in made.shared_parameters()]).double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert all(not torch.allclose(first, second) for first, second in pairwise(each))


@pytest.mark.parametrize("plugin", [GradVac, IMTLG, AlignedMTL, NashMTL, CAGrad, GradDrop, MGDA, UPGrad])
def test_a_gradient_that_is_not_finite_reaches_no_method(plugin):
    made = toy.model(3)
    method = plugin(toy.facts(3))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    with torch.no_grad():
        next(made.head(1).parameters()).fill_(math.nan)
    toy.engine(made, regularizer=method).run(toy.one_each(3))
    assert not all(bool(torch.isfinite(parameter.grad).all()) for parameter in made.shared_parameters())
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


# Values


@pytest.mark.parametrize(("mode", "squared_length"), [("min", 1.0), ("median", 4.0), ("rmse", 28.5)])
def test_aligned_gradients_have_the_length_that_the_mode_selects(mode, squared_length):
    # Orthogonal gradients of lengths 1, 2, 3, 10: eigenvalues 1, 4, 9, 100, whose lower median is 4 and whose mean is 28.5.
    lengths = [3.0, 1.0, 10.0, 2.0]
    rows = [[length * (i == j) for j in range(4)] for i, length in enumerate(lengths)]
    expected = [math.sqrt(squared_length) / length for length in lengths]
    assert weights(AlignedMTL(toy.facts(4), scale_mode=mode), rows) == pytest.approx(expected)


def test_imtl_g_projections_on_dependent_gradients_differ_and_can_be_negative():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -2.0]], dtype=torch.float64)
    update = torch.tensor(combined(IMTLG(toy.facts(3)), rows), dtype=torch.float64)
    assert ((rows @ update) / rows.norm(dim=1)).tolist() == pytest.approx([1.72, -0.17, -0.62], abs=0.005)


def test_gradvac_lifts_opposed_gradients_to_a_target_by_hand():
    method = GradVac(toy.facts(), beta=0.5)
    weights(method, [[1.0, 0.0], [0.6, 0.8]])  # cosine .6, so the target becomes .3
    # Cosine -.6: each adds (.3 * .8 + .6 * sqrt(.91)) / sqrt(.91) = .851588 of the other.
    assert weights(method, [[1.0, 0.0], [-0.6, 0.8]]) == pytest.approx([1.851588, 1.851588], abs=1e-6)


@pytest.mark.parametrize(("scale", "factor"), [("native", 1.0), ("mean", 1 / 1.5), ("sum", 2 / 1.5)])
def test_cagrad_scales_by_its_constant(scale, factor):
    assert CAGrad(toy.facts(), c=0.5, scale=scale).scaling(2) == pytest.approx(factor)


class OfScale(GradientRegularizer):
    """A method of a given native scale."""

    def __init__(self, native: str, scale: str) -> None:
        super().__init__(toy.facts())
        self.native_scale, self.scale = native, scale  # type: ignore[misc, assignment]


@pytest.mark.parametrize(
    ("native", "scale", "factor"),
    [
        ("sum", "native", 1.0),
        ("sum", "sum", 1.0),
        ("sum", "mean", 1 / 3),
        ("mean", "native", 1.0),
        ("mean", "mean", 1.0),
        ("mean", "sum", 3.0),
        ("own", "native", 1.0),
        ("own", "mean", 1 / 4),  # the weights sum to 4
        ("own", "sum", 3 / 4),
    ],
)
def test_three_tasks_are_brought_from_one_scale_to_another(native, scale, factor):
    method = OfScale(native, scale)
    assert method.scaling(3, torch.tensor([1.0, 2.0, 1.0])) == pytest.approx(factor)


def test_weights_that_cancel_are_not_rescaled():
    assert OfScale("own", "sum").scaling(2, torch.tensor([1.0, -1.0])) == 1.0


def test_a_method_that_gives_no_weights_keeps_its_own_scale():
    assert OfScale("own", "sum").scaling(3) == 1.0
