"""Multi-level supervision, feature fusion, shared memory and task routing by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from families import FAMILIES, build
from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs, run_encoder
from mtlcli.architectures.feature_fusion import FeatureFusion, Fusion
from mtlcli.architectures.mmoe import MMoE
from mtlcli.architectures.multi_level import Level, MultiLevel
from mtlcli.architectures.ple import PLE
from mtlcli.architectures.shared_memory import SharedMemory
from mtlcli.architectures.task_routing import TaskRouting
from mtlcli.errors import MtlError
from mtlcli.testing import RUN, check_architecture

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)


class Encoder(nn.Module):
    """No encoder: hidden states are handed in."""

    config = SimpleNamespace(hidden_size=2, num_hidden_layers=1)


class Returns(nn.Module):
    """A module that returns one value whatever it reads."""

    def __init__(self, *value: float) -> None:
        super().__init__()
        self.value = torch.tensor(value)

    def forward(self, states):
        return self.value.expand(*states.shape[:-1], -1)


def made(architecture, **options):
    return architecture(ArchitectureFacts(Encoder(), RUN.tasks, 1), **options).eval()


def features(architecture, task: int, last, layers=()) -> list:
    states = HiddenStates(torch.tensor(last), tuple(torch.tensor(layer) for layer in layers))
    with torch.no_grad():
        return architecture.features(
            task, states, Inputs(torch.zeros(1, 1, dtype=torch.long), None, None)
        ).last.tolist()


# Multi-level


def test_a_mixture_weighs_all_layers():
    # w = 0, g = 1, N = 1, H^0 = (1, 0), H^1 = (0, 2): (.5, 1)
    level = Level(2, 1, 1, mixture=True, skip=False, norm=False)
    nn.init.zeros_(level.weights)
    layers = (torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 2.0]]]))
    assert level(layers).tolist() == [[[0.5, 1.0]]]


@pytest.mark.parametrize(("layers", "share"), [(6, 0.961), (12, 0.925)])
def test_a_mixture_starts_near_the_task_s_layer(layers, share):
    weights = Level(2, layers, layers, mixture=True, skip=False, norm=False).weights
    assert weights.softmax(0)[-1].item() == pytest.approx(share, abs=5e-4)


@pytest.mark.parametrize("name", ["BertModel", "GPT2Model", "AlbertModel"])
def test_every_task_reads_its_layer(name):
    encoder = build(name, **FAMILIES[name])
    depths = {"grades": 1, "scores": 0}
    architecture = MultiLevel(ArchitectureFacts(encoder, RUN.tasks, 1), depths=depths).eval()
    plain = run_encoder(encoder, TOKENS)
    for task, layer in enumerate((1, 0, 2)):
        expected = plain.layers[layer]
        if name == "GPT2Model" and layer < 2:  # whose lower layers end without a norm
            expected = nn.functional.layer_norm(expected, (16,))
        torch.testing.assert_close(architecture(task, TOKENS).last, expected)
    assert [architecture.layers_read(task) for task in range(3)] == [(1,), (0,), ()]
    assert ("levels.for_grades" in architecture.parts()) == (name == "GPT2Model")


def test_the_words_are_added_by_a_map_that_starts_at_zero():
    architecture = made(MultiLevel, skip=True)
    layers = ([[[1.0, 2.0]]], [[[3.0, 4.0]]])
    assert features(architecture, 0, [[[3.0, 4.0]]], layers) == [[[3.0, 4.0]]]
    with torch.no_grad():
        architecture.levels.of(0).skip.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert features(architecture, 0, [[[3.0, 4.0]]], layers) == [[[5.0, 5.0]]]


def test_depths_that_are_not_there_are_refused():
    with pytest.raises(MtlError, match=r"architecture\.depths: found 2 for grades; expected 0 \(embeddings\) to 1"):
        made(MultiLevel, depths={"grades": 2})
    with pytest.raises(MtlError, match='no task "grade" in this run; did you mean "grades"'):
        made(MultiLevel, depths={"grade": 1})


# Feature fusion


@pytest.mark.parametrize("combine", ["gate", "sum"])
def test_half_of_each_is_their_mean(combine):
    # S = (1, 3), P = S + (2, -2) = (3, 1): (2, 2)
    fusion = Fusion(2, 1, combine)
    fusion.private = Returns(2.0, -2.0)
    assert fusion(torch.tensor([[[1.0, 3.0]]])).tolist() == [[[2.0, 2.0]]]


def test_a_gate_weighs_each_coordinate():
    fusion = Fusion(2, 1, "gate")
    fusion.private = Returns(2.0, -2.0)
    with torch.no_grad():
        fusion.gate.bias.copy_(torch.tensor([math.log(3), -math.log(3)]))  # g = (.75, .25)
    assert fusion(torch.tensor([[[1.0, 3.0]]]))[0, 0].tolist() == pytest.approx([1.5, 1.5])


def test_attention_reads_what_fits_the_private_features():
    fusion = Fusion(1, 1, "attention")
    fusion.private = Returns(math.log(3))
    # S = 0, P = ln 3, d = 1: scores P S = 0 and P P = (ln 3)^2
    weight = math.exp(math.log(3) ** 2) / (1 + math.exp(math.log(3) ** 2))
    assert fusion(torch.tensor([[[0.0]]])).item() == pytest.approx(weight * math.log(3))


def test_a_concatenation_starts_as_the_shared_features():
    fusion = Fusion(2, 1, "concat")
    fusion.private = Returns(5.0, 5.0)
    assert fusion(torch.tensor([[[1.0, 3.0]]])).tolist() == [[[1.0, 3.0]]]


@pytest.mark.parametrize("combine", ["gate", "sum", "attention", "concat"])
def test_before_step_1_fused_states_are_the_encoder_s(combine):
    encoder = build("BertModel", **FAMILIES["BertModel"])
    architecture = FeatureFusion(ArchitectureFacts(encoder, RUN.tasks, 1), combine=combine).eval()
    torch.testing.assert_close(architecture(0, TOKENS).last, run_encoder(encoder, TOKENS).last, rtol=0, atol=1e-6)


# Shared memory


def test_a_memory_is_read_by_its_scores():
    architecture = made(SharedMemory, slots=2, width=2)
    with torch.no_grad():
        architecture.memory.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        # q = (0, x) with M q / sqrt 2 = (0, ln 3)
        architecture.query.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, math.log(3) / 2**0.5]]))
        architecture.out.weight.copy_(torch.eye(2))
        architecture.gate.weight.zero_()
        architecture.gate.bias.zero_()
    # weights (1/4, 3/4): v = (.25, 1.5), half of it is added
    assert features(architecture, 0, [[[7.0, 1.0]]])[0][0] == pytest.approx([7.125, 1.75])


def test_one_row_is_read_whole_by_every_token():
    architecture = made(SharedMemory, slots=1, width=2)
    with torch.no_grad():
        architecture.memory.copy_(torch.tensor([[3.0, 4.0]]))
        architecture.out.weight.copy_(torch.eye(2))
        architecture.gate.weight.zero_()
        architecture.gate.bias.fill_(50.0)
    for state in ([0.0, 0.0], [9.0, -9.0]):
        assert features(architecture, 1, [[state]])[0][0] == pytest.approx([state[0] + 3, state[1] + 4])


def test_a_pair_s_memory_is_read_by_its_two_tasks():
    architecture = made(SharedMemory, local=True)
    assert architecture.parts()["local.1"].tasks == (0, 2)
    nn.init.eye_(architecture.out.weight)
    before = [features(architecture, task, [[[1.0, 2.0]]]) for task in range(3)]
    with torch.no_grad():
        architecture.local[1].add_(1.0)
    changed = [features(architecture, task, [[[1.0, 2.0]]]) != old for task, old in enumerate(before)]
    assert changed == [True, False, True]


# Task routing


def test_weights_scale_what_enters_a_block_and_what_leaves_it():
    # W = 0, one shared block and the task's, both the identity: h + 2 (1/2) (1/2) h = 1.5 h
    architecture = made(TaskRouting, blocks=1)
    architecture.shared[0] = nn.Identity()
    architecture.tasks.of(0).block = nn.Identity()
    assert features(architecture, 0, [[[2.0, 4.0]]]) == [[[3.0, 6.0]]]
    architecture.scale = "output"
    assert features(architecture, 0, [[[2.0, 4.0]]]) == [[[4.0, 8.0]]]
    with torch.no_grad():
        architecture.tasks.of(0).scores.copy_(torch.tensor([1.0, 0.0]))
    architecture.tasks.of(0).block = Returns(0.0, 0.0)
    # scores (1, 0): weights .731059 and .268941
    assert features(architecture, 0, [[[1.0, 1.0]]])[0][0] == pytest.approx([1.731059] * 2, abs=1e-6)


@pytest.mark.parametrize("architecture", [MultiLevel, SharedMemory, TaskRouting])
def test_identity_holds_for_every_task(architecture):
    check_architecture(architecture, identity=True)


@pytest.mark.parametrize(
    ("architecture", "count"),
    # d = 2: with m = 1 a block has 2 d m + m + d = 7; MiniLM's numbers are those of the same formulas
    [(TaskRouting, 5 * 7 + 2 * 3 + 3 * 3), (SharedMemory, 32 + 4 + 2 + 1 + 1), (FeatureFusion, 3 * (7 + 8 + 2))],
)
def test_the_parameters_are_those_of_the_formula(architecture, count):
    assert sum(p.numel() for p in made(architecture).parameters()) == count


@pytest.mark.parametrize("architecture", [FeatureFusion, SharedMemory, TaskRouting, MMoE, PLE])
def test_new_modules_above_the_encoder_learn_at_the_rate_of_heads(architecture):
    assert {part.lr for part in made(architecture).parts().values()} == {"head"}
    assert {part.lr for part in made(architecture, lr=0.5).parts().values()} == {0.5}


def test_a_memory_starts_large_enough_to_be_learned_from():
    torch.manual_seed(0)
    architecture = SharedMemory(ArchitectureFacts(Encoder(), RUN.tasks, 1), slots=64, width=8)
    states = torch.randn(1, 20, 2)
    optimizer = torch.optim.Adam(architecture.parameters(), 1e-2)
    for _ in range(30):
        read = architecture.features(0, HiddenStates(states, ()), TOKENS).last
        loss = (read - states - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # From 1 at the start to 0.03; a memory with a deviation of 0.02 comes to 0.17.
    assert loss.item() < 0.1
