"""Projected attention layers by hand, and on encoders of many families."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from families import FAMILIES, TRACED, build
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.architectures.layers import is_causal
from mtlcli.architectures.pals import PALs, ProjectedAttention
from mtlcli.errors import MtlError
from mtlcli.testing import RUN, check_architecture

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)


def made(name: str = "BertModel", **options) -> PALs:
    return PALs(ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:2], 1), **options).eval()


def move(module: nn.Module) -> None:
    torch.manual_seed(2)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)


def test_one_token_attends_to_itself():
    # attention over one token returns its value: gelu(V_d (W_v (V_e h + b) + v) + c)
    layer = made().tasks.of(0)
    move(layer)
    h, attention = torch.randn(1, 1, 16), layer.attentions[1]
    expected = nn.functional.gelu(layer.decode(attention.value(layer.encode(h))))
    torch.testing.assert_close(layer(1, h, None), expected)


def test_the_change_by_hand():
    layer = ProjectedAttention(1, 1, [nn.Module()])

    class Mean(nn.Module):
        def forward(self, states, mask):
            return states.mean(1, keepdim=True).expand_as(states)

    layer.attentions[0] = Mean()
    with torch.no_grad():
        layer.encode.weight.fill_(2.0)
        layer.encode.bias.fill_(1.0)
        layer.decode.weight.fill_(1.0)
        layer.decode.bias.fill_(-4.0)
    # V_e h + b = 3 and 7, their mean 5, minus 4: gelu(1) = .841345
    change = layer(0, torch.tensor([[[1.0], [3.0]]]), None)
    torch.testing.assert_close(change, torch.full((1, 2, 1), 0.841345))


@pytest.mark.parametrize("form", ["pals", "low-rank"])
@pytest.mark.parametrize("name", TRACED)
def test_before_step_1_every_hidden_state_is_the_encoder_s_and_then_of_the_task_alone(name, form):
    architecture = made(name, form=form)
    plain, same = run_encoder(architecture.encoder, TOKENS), architecture(0, TOKENS)
    assert all(torch.equal(a, b) for a, b in zip(plain.layers, same.layers, strict=True))
    move(architecture.tasks.of(0))
    assert not torch.allclose(architecture(0, TOKENS).layers[1], plain.layers[1], atol=1e-3)
    assert torch.equal(architecture(1, TOKENS).last, plain.last)


def test_the_change_joins_the_residual_sum_before_the_last_norm():
    architecture = made()
    move(architecture.tasks.of(0))
    layer, seen = architecture.encoder.encoder.layer[0], []
    handle = layer.output.LayerNorm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    states = architecture(0, TOKENS).layers
    run_encoder(architecture.encoder, TOKENS)
    handle.remove()
    # The first layer reads the same embeddings, so the sums before its norm differ by the change alone.
    change = architecture.tasks.of(0)(0, states[0], None)
    torch.testing.assert_close(seen[0] - seen[1], change, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["GPT2Model", "Qwen2Model", "BertModel", "T5EncoderModel"])
def test_a_decoder_s_states_ignore_later_tokens_with_the_change_as_without(name):
    architecture = made(name)
    assert architecture.causal == is_causal(architecture.encoder) == (name in ("GPT2Model", "Qwen2Model"))
    move(architecture.tasks)
    cut = replace(TOKENS, tokens=TOKENS.tokens[:, :3])
    first, whole = architecture(0, cut).last, architecture(0, TOKENS).last[:, :3]
    assert torch.allclose(first, whole, atol=1e-5) == architecture.causal


def test_padding_is_not_read():
    architecture = made("GPT2Model")
    move(architecture.tasks)
    for name in ("GPT2Model", "BertModel"):
        architecture = made(name)
        move(architecture.tasks)
        mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
        padded = architecture(0, replace(TOKENS, mask=mask)).last[1, :3]
        alone = architecture(0, replace(TOKENS, tokens=TOKENS.tokens[1:, :3])).last[0]
        torch.testing.assert_close(padded, alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("options", "count"),
    # d = 16, N = 2: 2 d m + m + d + 3 N (m^2 + m); by default m = 6 round(16 * 204 / 768 / 6) = 6
    [
        ({}, 192 + 6 + 16 + 6 * 42),
        ({"width": 4, "heads": 2}, 128 + 4 + 16 + 6 * 20),
        ({"form": "low-rank"}, 2 * (64 + 2 + 16)),
    ],
)
def test_the_parameters_are_those_of_the_formula(options, count):
    assert sum(p.numel() for p in made(**options).tasks.of(0).parameters()) == count


def test_base_has_the_paper_s_size():
    # 204 of 768, 12 layers: 1.82 M parameters a task, 6 heads of 34
    d, m, layers = 768, 204, 12
    assert 2 * d * m + m + d + 3 * layers * (m * m + m) == 1_819_836
    assert 6 * max(1, round(768 * 204 / 768 / 6)) == 204 and 6 * max(1, round(384 * 204 / 768 / 6)) == 102


def test_heads_divide_the_width():
    with pytest.raises(MtlError, match=r"architecture\.width: found 8; expected a multiple of the 6 heads"):
        made(width=8)


@pytest.mark.parametrize("options", [{}, {"form": "low-rank", "per": "both"}])
def test_identity_holds_for_every_task(options):
    check_architecture(PALs, identity=True, **options)
