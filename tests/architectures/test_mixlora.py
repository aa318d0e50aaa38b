"""Experts of low rank by hand, and on encoders of many families."""

import pytest
import torch
from torch import nn

from families import FAMILIES, TRACED, build
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.architectures.mixlora import MixLoRA
from mtlcli.errors import MtlError
from mtlcli.testing import RUN

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)
FORMS = {"ModernBertModel": "halves", "Qwen2Model": "gated"}
NAMES = TRACED


def made(name: str = "BertModel", **options) -> MixLoRA:
    return MixLoRA(
        ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:2], 1), **{"experts": 3, **options}
    ).eval()


def move(module: nn.Module) -> None:
    torch.manual_seed(2)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("name", NAMES)
def test_changes_of_zero_leave_the_encoder_and_others_do_not(name):
    architecture = made(name)
    assert architecture.form == FORMS.get(name, "plain")
    plain = run_encoder(architecture.encoder, TOKENS)
    for ours, theirs in zip(architecture(0, TOKENS).layers, plain.layers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    move(architecture.experts)
    assert not torch.allclose(architecture(0, TOKENS).layers[1], plain.layers[1], atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_one_expert_is_the_feed_forward_network_with_merged_changes(name):
    architecture = made(name, experts=1, top=1)
    move(architecture.experts)
    # For a single expert the weight is softmax over one: 1.
    features = architecture(0, TOKENS).layers
    if name == "AlbertModel":  # one block for two depths: merged for the first layer alone
        features = features[:2]
    encoder = architecture.encoder
    with torch.no_grad():
        for layer, (expert,) in list(zip(architecture.layers, architecture.experts, strict=True))[: len(features) - 1]:
            for module, low_rank in [*zip(layer.ffn_in, expert.inner, strict=True), (layer.ffn_out, expert.outer)]:
                weight = encoder.get_submodule(module).weight
                change = low_rank.change_of_weight(weight)
                weight += change.T if name == "GPT2Model" else change
    for ours, merged in zip(features, run_encoder(encoder, TOKENS).layers[: len(features)], strict=True):
        torch.testing.assert_close(ours, merged, rtol=0, atol=5e-5)


def test_a_token_s_output_is_the_weighed_sum_of_its_experts():
    architecture = made(top=2)
    move(architecture.experts)
    move(architecture.routers)
    layer, seen = architecture.encoder.encoder.layer[0], []
    handle = layer.intermediate.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    states = architecture(0, TOKENS).layers[1]
    handle.remove()
    h = seen[0][0, 2]
    p = architecture.routers[0](h).softmax(-1)
    values, chosen = p.topk(2)
    total = torch.zeros(16)
    for weight, number in zip(values / values.sum(), chosen.tolist(), strict=True):
        expert = architecture.experts[0][number]
        inner = layer.intermediate.dense(h) + expert.inner[0].scale * expert.inner[0].b @ (expert.inner[0].a @ h)
        g = nn.functional.gelu(inner)
        total += weight * (layer.output.dense(g) + expert.outer.scale * expert.outer.b @ (expert.outer.a @ g))
    torch.testing.assert_close(states[0, 2], layer.output.LayerNorm(total + h), rtol=0, atol=1e-5)


def test_a_router_of_tokens_serves_all_tasks_in_one_pass_and_one_of_tasks_does_not():
    assert made().pass_of(0) == made().pass_of(1)
    architecture = made(router="token+task", top=1)
    assert architecture.pass_of(0) != architecture.pass_of(1)
    move(architecture.experts)
    move(architecture.routers)
    assert not torch.allclose(architecture(0, TOKENS).last, architecture(1, TOKENS).last, atol=1e-4)


def test_the_balance_is_an_extra_loss_of_training_over_real_tokens():
    architecture = made(balance=1.0, top=1)
    assert architecture(0, TOKENS).extra is None
    architecture.train()
    with torch.no_grad():
        for router in architecture.routers:
            router.weight.zero_()
    # equal probabilities: all tokens choose the first of three, f = (1, 0, 0), P = 1/3: 3 * 1/3 = 1
    assert architecture(0, TOKENS).extra.tolist() == pytest.approx([1.0, 1.0])


def test_the_parameters_are_those_of_the_formula():
    # d = F = 16, r = 8, E = 3: 2 (d + F) r E and d E for the router in each of 2 layers; attention 4 * 2 d r
    architecture = made()
    assert sum(p.numel() for p in architecture.experts.parameters()) == 2 * 3 * 2 * 32 * 8
    assert sum(p.numel() for p in architecture.routers.parameters()) == 2 * 3 * 16
    assert sum(p.numel() for p in architecture.shared.parameters()) == 2 * 4 * 32 * 8
    # MiniLM, E = 8: 1,492,992 and 147,456
    assert 6 * 8 * 2 * (384 + 1536) * 8 + 6 * 8 * 384 == 1_492_992 and 6 * 4 * 2 * 384 * 8 == 147_456


def test_nothing_can_be_merged():
    with pytest.raises(MtlError, match="no plain encoder can do"):
        made().merged(None)
    with pytest.raises(MtlError, match="peft cannot hold"):
        made().to_peft(None)
    with pytest.raises(MtlError, match=r"architecture\.top: found 4; expected at most the 3 experts"):
        made(top=4)
