"""TorchJD's weightings as gradient regularizers, and mtlcli's own methods beside those of the same name."""

import subprocess
import sys

import mtlcli_torchjd
import pytest
import torch
import torchjd.aggregation as jd
from torch import Tensor
from torchjd.linalg import QuadprogProjector

from mtlcli import registry
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.testing import RUN, check_gradient_regularizer

OFFERED = sorted(
    (plugin for plugin in vars(mtlcli_torchjd).values() if isinstance(plugin, type)
     and issubclass(plugin, mtlcli_torchjd.TorchJD) and plugin is not mtlcli_torchjd.TorchJD),
    key=lambda plugin: plugin.__name__,
)  # fmt: skip


@pytest.mark.parametrize("plugin", OFFERED)
def test_contract(plugin: type[GradientRegularizer]) -> None:
    check_gradient_regularizer(plugin)


def test_no_gramian_weighting_is_missing() -> None:
    family = jd.UPGradWeighting.__mro__[1]
    there = {found for name in jd.__all__ if issubclass(found := getattr(jd, name), family)}
    assert {plugin.asks for plugin in OFFERED} == there


def test_each_has_a_name_to_call_it_by() -> None:
    names = [name for name in registry.names("gradient_regularizers") if name.startswith("torchjd-")]
    assert {registry.load("gradient_regularizers", name, "test") for name in names} == set(OFFERED)


def test_options_reach_torchjd() -> None:
    gram = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))
    made = mtlcli_torchjd.AlignedMTL(RUN, scale_mode="rmse")  # type: ignore[call-arg]
    # half of sqrt(2.5 / 4) and of sqrt(2.5 / 1)
    assert made.weights(gram, torch.arange(2)).tolist() == pytest.approx([0.395284708, 0.790569415])


def test_what_torchjd_remembers_is_of_the_task_whatever_its_place_in_the_step() -> None:
    random = torch.Generator().manual_seed(0)
    first, second = (mtlcli_torchjd.PCD(RUN) for _ in range(2))
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        rows = torch.randn(3, 5, generator=random, dtype=torch.float64)
        found = second.weights((rows @ rows.T)[order][:, order], torch.tensor(order))
        torch.testing.assert_close(found, first.weights(rows @ rows.T, torch.arange(3))[order])


# mtlcli's own methods agree


def grams() -> list[Tensor]:
    """200 Gram matrices of 2 to 6 gradients; none where gradients nearly depend on each other and definitions part."""
    random = torch.Generator().manual_seed(5)
    found: list[Tensor] = []
    while len(found) < 200:
        k = 2 + len(found) % 5
        rows = torch.randn(k, 10, generator=random, dtype=torch.float64)
        rows *= torch.exp(0.5 * torch.randn(k, 1, generator=random, dtype=torch.float64))
        unit = rows / rows.norm(dim=1, keepdim=True)
        if float(torch.linalg.eigvalsh(unit @ unit.T)[0]) > 0.05:
            found.append(rows @ rows.T)
    return found


GRAMS = grams()


def own(name: str, gram: Tensor, **options: object) -> Tensor:
    plugin = registry.load("gradient_regularizers", name, "test")
    return plugin(RUN, **options).weights(gram, torch.arange(len(gram)))


def worst(name: str, weighting: torch.nn.Module, *, by_tasks: bool = False, **options: object) -> float:
    """The largest difference of a weight, relative to the largest weight; by_tasks: theirs times the number of tasks."""
    differences = []
    for gram in GRAMS:
        theirs = weighting(gram) * (len(gram) if by_tasks else 1)
        differences.append(float((own(name, gram, **options) - theirs).abs().max() / theirs.abs().max()))
    return max(differences)


def test_most_matrices_hold_a_conflict() -> None:
    assert sum(bool((gram < 0).any()) for gram in GRAMS) > 150


def test_pcgrad_agrees_where_the_orders_are_the_same() -> None:
    for gram in GRAMS:
        ours = registry.load("gradient_regularizers", "pcgrad", "test")(RUN)
        theirs = mtlcli_torchjd.PCGrad(RUN)
        for made in (ours, theirs):
            made.generator.manual_seed(3)
        tasks = torch.arange(len(gram))
        torch.testing.assert_close(ours.weights(gram, tasks), theirs.weights(gram, tasks), rtol=1e-12, atol=1e-12)


def test_gradvac_agrees_for_two_tasks_over_many_steps() -> None:
    ours = registry.load("gradient_regularizers", "gradvac", "test")(RUN, beta=0.5)
    theirs = jd.GradVacWeighting(beta=0.5)
    for gram in (gram for gram in GRAMS if len(gram) == 2):
        torch.testing.assert_close(ours.weights(gram, torch.arange(2)), theirs(gram), rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", ["min", "median", "rmse"])
def test_aligned_mtl_agrees_but_for_sum_and_mean(mode: str) -> None:
    assert worst("aligned-mtl", jd.AlignedMTLWeighting(scale_mode=mode), by_tasks=True, scale_mode=mode) < 1e-10


def test_imtl_g_agrees_where_the_sum_of_the_weights_is_not_small() -> None:
    def is_plain(gram: Tensor) -> bool:
        weights = jd.IMTLGWeighting()(gram)
        return float(weights.abs().sum()) < 9.99 and float((gram @ weights).sum()) > 0

    plain = [gram for gram in GRAMS if is_plain(gram)]
    assert len(plain) > 190
    for gram in plain:
        torch.testing.assert_close(own("imtl-g", gram), jd.IMTLGWeighting()(gram), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
def test_cagrad_agrees_to_the_precision_of_a_general_solver(c: float) -> None:
    assert worst("cagrad", jd.CAGradWeighting(c=c), c=c) < 5e-3


def test_upgrad_agrees_but_for_what_is_added_to_the_diagonal() -> None:
    assert worst("upgrad", jd.UPGradWeighting(projector=QuadprogProjector(norm_eps=0.0, reg_eps=1e-9))) < 2e-4
    assert worst("upgrad", jd.UPGradWeighting()) < 0.1


def test_mgda_agrees_for_two_tasks_and_is_shorter_for_more() -> None:
    for gram in GRAMS:
        ours, theirs = own("mgda", gram), jd.MGDAWeighting(epsilon=1e-5, max_iters=300)(gram)
        if len(gram) == 2:
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        between, excess = ours - theirs, theirs @ gram @ theirs - ours @ gram @ ours
        assert float(excess) > -1e-12
        # the shortest vector d of a convex set has |d' - d|^2 <= |d'|^2 - |d|^2 for every other d' of it
        assert float(between @ gram @ between) <= float(excess) + 1e-10
        assert float(excess) < 0.1 * float(ours @ gram @ ours)


def test_the_command_line_knows_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mtlcli", "plugins", "show", "gradient_regularizers", "torchjd-cagrad"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torchjd-cagrad (gradient_regularizers, mtlcli-torchjd 0.1.0)\n")
    assert "\n  c  float, >= 0, default 0.5\n" in done.stdout
