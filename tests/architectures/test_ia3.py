"""(IA)^3 by hand, and on encoders of many families."""

import pytest
import torch
from torch import nn

from families import BERT, FAMILIES, TRACED, build
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.architectures.ia3 import IA3
from mtlcli.errors import MtlError
from mtlcli.testing import RUN, check_architecture

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)


def made(name: str = "BertModel", **options) -> IA3:
    return IA3(ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:2], 1), **options).eval()


@pytest.mark.parametrize("name", TRACED)
def test_factors_of_1_change_nothing_and_others_can_be_merged(name):
    architecture = made(name, per="both")
    plain, same = run_encoder(architecture.encoder, TOKENS), architecture(0, TOKENS)
    assert all(torch.equal(a, b) for a, b in zip(plain.layers, same.layers, strict=True))
    torch.manual_seed(2)
    for factors in (*architecture.shared.parameters(), *architecture.tasks.parameters()):
        nn.init.uniform_(factors, -0.5, 2.0)
    features = architecture(0, TOKENS)
    assert not torch.allclose(features.layers[1], plain.layers[1], atol=1e-3)
    if name == "AlbertModel":
        with pytest.raises(MtlError, match="one block for several depths"):
            architecture.merged(0)
        return
    torch.testing.assert_close(run_encoder(architecture.merged(0), TOKENS).last, features.last, rtol=0, atol=2e-5)
    assert torch.equal(run_encoder(architecture.encoder, TOKENS).last, plain.last)


def test_without_its_hidden_state_the_feed_forward_network_gives_its_bias():
    architecture = made()
    for scales in architecture.tasks.of(0):
        nn.init.zeros_(scales.hidden)
    given = []
    handle = architecture.encoder.encoder.layer[0].output.dense.register_forward_hook(
        lambda *call: given.append(call[2])
    )
    architecture(0, TOKENS)
    handle.remove()
    bias = architecture.encoder.encoder.layer[0].output.dense.bias
    assert torch.equal(given[0], bias.expand_as(given[0]))


def test_without_values_the_attention_returns_zero_and_queries_are_left_alone():
    architecture = made()
    for scales in architecture.tasks.of(1):
        nn.init.zeros_(scales.value)
    attention, seen = architecture.encoder.encoder.layer[0].attention, {}

    def keep(name):
        return lambda _, given, output: seen.update({name: (given[0], output)})

    handles = [
        attention.output.dense.register_forward_hook(keep("out")),
        attention.self.query.register_forward_hook(keep("query")),
    ]
    architecture(1, TOKENS)
    for handle in handles:
        handle.remove()
    assert not seen["out"][0].any()
    states, query = seen["query"]
    assert torch.equal(query, nn.functional.linear(states, attention.self.query.weight, attention.self.query.bias))


def test_the_parameters_are_those_of_the_formula():
    # d_k + d_v + F = 16 + 16 + 16 for each of 2 layers; Qwen2 with one key head of two has narrower keys and values
    assert sum(p.numel() for p in made().tasks.of(0).parameters()) == 96
    narrow = build("Qwen2Model", **(FAMILIES["Qwen2Model"] | {"num_key_value_heads": 1}))
    scales = IA3(ArchitectureFacts(narrow, RUN.tasks[:1], 1)).tasks.of(0)
    assert sum(p.numel() for p in scales.parameters()) == 2 * (8 + 8 + 16)


def test_interleaved_rows_are_refused():
    options = BERT | {"hidden_act": "gelu", "bos_token_id": 2, "eos_token_id": 3}
    with pytest.raises(MtlError, match="whose rows are not in this order"):
        IA3(ArchitectureFacts(build("GPTNeoXModel", **options), RUN.tasks[:2], 1))


@pytest.mark.parametrize("options", [{}, {"per": "both"}])
def test_identity_holds_for_every_task(options):
    check_architecture(IA3, identity=True, **options)
