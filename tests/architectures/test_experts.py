"""MMoE and PLE by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs
from mtlcli.architectures.experts import Expert, Gate, mixture
from mtlcli.architectures.mmoe import MMoE
from mtlcli.architectures.ple import PLE
from mtlcli.testing import RUN


class Encoder(nn.Module):
    """No encoder: hidden states are handed in."""

    config = SimpleNamespace(hidden_size=2)


class Times(nn.Module):
    """An expert that multiplies by a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, states):
        return self.factor * states


def made(architecture, **options):
    return architecture(ArchitectureFacts(Encoder(), RUN.tasks, 1), **options).eval()


def features(architecture, task: int, last: torch.Tensor, mask=None) -> torch.Tensor:
    tokens = torch.zeros(last.shape[:2], dtype=torch.long)
    with torch.no_grad():
        return architecture.features(task, HiddenStates(last), Inputs(tokens, mask, None)).last


def test_a_mixture_weighs_its_experts():
    # scores (0, ln 3): weights 1/4, 3/4 of (1, 0) and (0, 4)
    weights = torch.tensor([0.0, math.log(3)]).softmax(-1).view(1, 1, 2)
    outputs = [torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 4.0]]])]
    torch.testing.assert_close(mixture(outputs, weights), torch.tensor([[[0.25, 3.0]]]))


def test_a_gate_reads_the_mean_over_the_tokens_of_a_text():
    gate = Gate(2, 2, on="text")
    with torch.no_grad():
        gate.scores.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 0.0]]])
    # the mean of the first two tokens is (2, 3): softmax (1 / (1 + e), e / (1 + e))
    weights = gate(states, torch.tensor([[True, True, False]]))
    assert weights[0, 0].tolist() == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])


@pytest.mark.parametrize("gate", ["text", "token"])
def test_mmoe_weighs_experts_by_the_gate_of_the_task(gate):
    architecture = made(MMoE, experts=2, gate=gate)
    architecture.experts = nn.ModuleList([Times(1.0), Times(5.0)])
    states = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]])
    assert features(architecture, 0, states).tolist() == [[[3.0, 0.0], [9.0, 0.0]]]  # equal weights: 3 times
    with torch.no_grad():
        architecture.gates.of(1).scores.weight.copy_(torch.tensor([[0.0, 0.0], [math.log(3) / 2, 0.0]]))
    # text: the mean is 2, scores (0, ln 3), weights 1/4 and 3/4: 4 times. token: for state 1, weights 1 / (1 + sqrt 3) ...
    first, second = features(architecture, 1, states)[0, :, 0].tolist()
    if gate == "text":
        assert (first, second) == pytest.approx((4.0, 12.0))
    else:
        heavy = [3 ** (x / 2) / (1 + 3 ** (x / 2)) for x in (1.0, 3.0)]
        assert (first, second) == pytest.approx((1 + 4 * heavy[0], 3 * (1 + 4 * heavy[1])))
    assert features(architecture, 0, states).tolist() == [[[3.0, 0.0], [9.0, 0.0]]]  # the other task's gate is its own


def test_one_expert_with_a_change_of_zero_is_hard_sharing():
    architecture = made(MMoE, experts=1)
    nn.init.zeros_(architecture.experts[0].change.up.weight)
    states = torch.randn(2, 3, 2)
    assert torch.equal(features(architecture, 0, states), states)


def test_experts_differ_before_step_1_and_gates_do_not():
    architecture = made(MMoE)
    downs = [expert.change.down.weight for expert in architecture.experts]
    assert not any(torch.equal(downs[0], other) for other in downs[1:])
    assert not any(p.any() for p in architecture.gates.parameters())


def test_dropped_gates_still_sum_to_1():
    torch.manual_seed(1)
    gate = Gate(2, 4, on="token", dropout=0.5).train()
    weights = gate(torch.randn(1, 50, 2), torch.ones(1, 50, dtype=torch.bool))
    assert (weights == 0).any()
    kept = weights.sum(-1)
    assert torch.allclose(kept[kept > 0], torch.ones(int((kept > 0).sum())))


def test_cgc_weighs_the_task_s_expert_and_the_shared_one():
    # one level, equal gates: (2 + 4) / 2 = 3
    architecture = made(PLE, levels=1)
    level = architecture.levels[0]
    level.own["for_grades"] = nn.ModuleList([Times(2.0)])
    level.shared = nn.ModuleList([Times(4.0)])
    assert features(architecture, 0, torch.ones(1, 1, 2)).tolist() == [[[3.0, 3.0]]]


def test_the_shared_stream_of_two_levels_reads_the_experts_of_all_tasks():
    architecture = made(PLE, levels=2)
    for level, own, shared in zip(architecture.levels, ((2.0, 6.0, 10.0), (1.0, 1.0, 1.0)), (4.0, 3.0), strict=True):
        for task, factor in zip(("grades", "scores", "pairs"), own, strict=True):
            level.own[f"for_{task}"] = nn.ModuleList([Times(factor)])
        level.shared = nn.ModuleList([Times(shared)])
    # level 1: x_1 = (2 + 4) / 2 = 3, x_2 = (6 + 4) / 2 = 5, x_0 = (2 + 6 + 10 + 4) / 4 = 5.5
    # level 2: task 0: (1 * 3 + 3 * 5.5) / 2 = 9.75; task 1: (1 * 5 + 3 * 5.5) / 2 = 10.75
    assert features(architecture, 0, torch.ones(1, 1, 2))[0, 0].tolist() == [9.75, 9.75]
    assert features(architecture, 1, torch.ones(1, 1, 2))[0, 0].tolist() == [10.75, 10.75]


def test_a_level_without_experts_of_tasks_is_a_mixture_for_each_task():
    one, other = made(PLE, levels=1, own_experts=0, shared_experts=3), made(MMoE, experts=3)
    other.experts = one.levels[0].shared
    for task in range(3):
        gate = torch.randn(3, 2)
        with torch.no_grad():
            one.levels[0].gates.of(task).scores.weight.copy_(gate)
            other.gates.of(task).scores.weight.copy_(gate)
        states = torch.randn(2, 3, 2)
        torch.testing.assert_close(features(one, task, states), features(other, task, states))


def test_parts_say_whose_experts_they_are():
    tasks = {name: part.tasks for name, part in made(PLE, levels=3).parts().items()}
    assert "levels.0.own.for_grades" not in tasks  # the shared stream reads them
    assert tasks["levels.2.own.for_grades"] == (0,) and tasks["levels.1.gates.for_scores"] == (1,)
    assert "levels.0.gates.for_grades" not in tasks  # the second shared stream reads what they weigh


@pytest.mark.parametrize(("options", "count"), [({"experts": 4}, 4 * 7), ({"experts": 2, "width": 3}, 2 * 17)])
def test_the_parameters_are_those_of_the_formula(options, count):
    # d = 2: an expert has 2 d m + m + d: m = 3 gives 17; by default m = max(1, 2 / 4) = 1 gives 7
    architecture = made(MMoE, **options)
    assert sum(p.numel() for p in architecture.experts.parameters()) == count
    assert sum(p.numel() for p in architecture.gates.parameters()) == 3 * 2 * options["experts"]


def test_an_expert_keeps_the_state_and_adds_its_change():
    expert = Expert(2, 1)
    with torch.no_grad():
        expert.change.down.weight.copy_(torch.tensor([[1.0, 1.0]]))
        expert.change.up.weight.copy_(torch.tensor([[2.0], [-1.0]]))
    # gelu(3) = 2.995950: (1 + 5.991900, 2 - 2.995950)
    assert expert(torch.tensor([1.0, 2.0])).tolist() == pytest.approx([6.9919, -0.99595], abs=1e-5)
