"""Prefixes by hand, and on encoders of many families."""

import math

import pytest
import torch
from torch import nn

from families import FAMILIES, TRACED, build
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.architectures.prefix import PrefixTuning
from mtlcli.testing import RUN, check_architecture

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)


def made(name: str = "BertModel", **options) -> PrefixTuning:
    return PrefixTuning(ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:2], 1), **options).eval()


@pytest.mark.parametrize("name", TRACED)
def test_closed_gates_change_nothing_and_open_ones_do(name):
    architecture = made(name, length=3, per="both")
    plain, same = run_encoder(architecture.encoder, TOKENS), architecture(0, TOKENS)
    assert all(torch.equal(a, b) for a, b in zip(plain.layers, same.layers, strict=True))
    for prefix in (*architecture.shared, *architecture.tasks.of(0)):
        for parameter in prefix.parameters():
            nn.init.normal_(parameter)
    first = architecture(0, TOKENS).layers
    assert not torch.allclose(first[1], plain.layers[1], atol=1e-4)
    alone = architecture(0, Inputs(TOKENS.tokens[1:, :3], None, None)).last
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    torch.testing.assert_close(
        architecture(0, Inputs(TOKENS.tokens, mask, None)).last[1, :3], alone[0], rtol=0, atol=5e-6
    )


def context_of(architecture, task: int = 0):
    """What the first layer's attention gives to its last projection, and the queries."""
    attention, seen = architecture.encoder.encoder.layer[0].attention, {}
    handles = [
        attention.output.dense.register_forward_hook(lambda _, given, output: seen.update(context=given[0])),
        attention.self.query.register_forward_hook(lambda _, given, output: seen.update(query=output)),
    ]
    architecture(task, TOKENS)
    for handle in handles:
        handle.remove()
    return seen["context"], seen["query"]


def test_one_vector_is_added_to_every_token_times_its_gate():
    architecture = made(length=1)
    plain, _ = context_of(architecture)
    prefix = architecture.tasks.of(0)[0]
    with torch.no_grad():
        prefix.gates.copy_(torch.tensor([math.atanh(0.5), 0.0]))
    changed, _ = context_of(architecture)
    added = (changed - plain).unflatten(-1, (2, -1))
    torch.testing.assert_close(added[..., 0, :], (0.5 * prefix.values[0]).expand(2, 5, 8), rtol=0, atol=1e-6)
    assert not added[..., 1, :].any()


def test_a_query_decides_how_much_of_each_vector_it_reads():
    architecture = made(length=2)
    prefix = architecture.tasks.of(0)[0]
    plain, query = context_of(architecture)
    with torch.no_grad():
        prefix.gates.fill_(50.0)  # tanh 1
    changed, _ = context_of(architecture)
    for head in range(2):
        q = query.unflatten(-1, (2, -1))[1, 3, head]
        scores = torch.stack([q @ prefix.keys[head, 0], q @ prefix.keys[head, 1]]) / 8**0.5
        expected = scores.softmax(0) @ prefix.values[head]
        added = (changed - plain).unflatten(-1, (2, -1))[1, 3, head]
        torch.testing.assert_close(added, expected, rtol=0, atol=1e-6)


def test_a_shared_prefix_and_the_task_s_are_read_in_one_softmax():
    architecture = made(length=1, per="both")
    plain, _ = context_of(architecture)
    shared, own = architecture.shared[0], architecture.tasks.of(0)[0]
    with torch.no_grad():
        for prefix in (shared, own):
            prefix.keys.zero_()  # equal scores: a half each
            prefix.gates.fill_(50.0)
    changed, _ = context_of(architecture)
    expected = 0.5 * (shared.values[0, 0] + own.values[0, 0])
    torch.testing.assert_close((changed - plain)[0, 0, :8], expected, rtol=0, atol=1e-6)


def test_the_parameters_are_those_of_the_formula():
    # N (2 n d + heads): 2 (2 * 30 * 16 + 2); MiniLM: 6 (60 * 384 + 12) = 138,312
    assert sum(p.numel() for p in made().tasks.of(0).parameters()) == 2 * (960 + 2)
    assert 6 * (60 * 384 + 12) == 138_312


@pytest.mark.parametrize("options", [{"length": 3}, {"length": 3, "per": "both"}])
def test_identity_holds_for_every_task(options):
    check_architecture(PrefixTuning, identity=True, **options)
