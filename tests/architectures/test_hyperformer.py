"""HyperFormer by hand, and on encoders of many families."""

import pytest
import torch
from torch import nn

from families import FAMILIES, TRACED, build
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.architectures.hyperformer import HyperFormer, HyperNetwork, Writer
from mtlcli.testing import RUN, check_architecture

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)


def made(name: str = "BertModel", **options) -> HyperFormer:
    return HyperFormer(ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:2], 1), **options).eval()


def move(architecture: HyperFormer) -> None:
    torch.manual_seed(2)
    for writer in architecture.shared.writers:
        for parameter in writer.parameters():
            nn.init.normal_(parameter, std=0.3)


def test_a_written_adapter_is_that_of_the_formula():
    writer = Writer(1, 2, 1)
    values = {
        "down": [1.0, 1.0],
        "down_bias": [0.0],
        "up": [2.0, -1.0],
        "up_bias": [0.0, 1.0],
        "scale": [3.0, 5.0],
        "shift": [0.5, -0.5],
    }
    with torch.no_grad():
        for name, linear in writer.maps.items():
            linear.weight.copy_(torch.tensor(values[name]).unsqueeze(1))
    # D x = 3, U gelu(3) + c = (5.9919, -1.9960), normalized (1, -1): s * (1, -1) + t = (3.5, -5.5)
    change = writer(torch.ones(1), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(change, torch.tensor([3.5, -5.5]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("plus", [True, False])
@pytest.mark.parametrize("name", TRACED)
def test_before_step_1_every_hidden_state_is_the_encoder_s_and_then_none(name, plus):
    architecture = made(name, plus=plus)
    plain, same = run_encoder(architecture.encoder, TOKENS), architecture(0, TOKENS)
    assert all(torch.equal(a, b) for a, b in zip(plain.layers, same.layers, strict=True))
    move(architecture)
    assert not torch.allclose(architecture(0, TOKENS).layers[1], plain.layers[1], atol=1e-4)


def test_tasks_with_the_same_vector_are_the_same_task():
    architecture = made()
    move(architecture)
    first, second = (architecture(task, TOKENS).last for task in (0, 1))
    assert not torch.allclose(first, second, atol=1e-4)
    with torch.no_grad():
        architecture.tasks.of(1).vector.copy_(architecture.tasks.of(0).vector)
    assert torch.equal(architecture(1, TOKENS).last, first)


@pytest.mark.parametrize("plus", [True, False])
def test_layers_and_places_have_adapters_of_their_own(plus):
    network = made(plus=plus).shared
    torch.manual_seed(1)
    for parameter in network.writers.parameters():
        nn.init.normal_(parameter, std=0.3)
    task, states = torch.randn(64), torch.randn(3, 16)
    changes = [network(task, depth, place, states) for depth in (0, 1) for place in (0, 1)]
    assert not any(torch.allclose(a, b, atol=1e-3) for i, a in enumerate(changes) for b in changes[:i])


@pytest.mark.parametrize(("plus", "count"), [(True, 708_300), (False, 1_374_680)])
def test_minilm_has_the_paper_s_number_of_parameters(plus, count):
    network = HyperNetwork(384, 12, 6, embedding=64, hidden=128, projected=64, places_embedded=plus)
    assert sum(p.numel() for p in network.parameters()) == count


def test_a_task_adds_its_vector_alone_and_norms_are_trained():
    architecture = made()
    assert [p.shape for p in architecture.tasks.of(0).parameters()] == [(64,)]
    trained = [name for name, p in architecture.encoder.named_parameters() if p.requires_grad]
    assert trained and all("LayerNorm" in name for name in trained)
    assert not [p for p in made(norms="frozen").encoder.parameters() if p.requires_grad]


@pytest.mark.parametrize("options", [{}, {"plus": False}])
def test_identity_holds_for_every_task(options):
    check_architecture(HyperFormer, identity=True, **options)
