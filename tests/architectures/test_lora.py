"""LoRA and DoRA by hand, and on encoders of many families."""

import pytest
import torch
from torch import nn

from families import BERT, EMBEDDING, FAMILIES, TRACED, build
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.architectures.lora import LoRA, LowRank
from mtlcli.errors import MtlError
from mtlcli.testing import RUN, check_architecture

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)


def made(name: str = "BertModel", **options) -> LoRA:
    return LoRA(ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:2], 1), **options).eval()


def move(module: nn.Module) -> None:
    torch.manual_seed(2)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)


def test_the_change_is_that_of_the_formula():
    # W = I, s B A x = 2 (1, 0)' (1, 1) (1, 2)' = (6, 0): y = (7, 2)
    low = LowRank(torch.eye(2), 1, scale=2.0, dropout=0.0, magnitude=False)
    with torch.no_grad():
        low.a.copy_(torch.tensor([[1.0, 1.0]]))
        low.b.copy_(torch.tensor([[1.0], [0.0]]))
    x = torch.tensor([1.0, 2.0])
    assert (x + low(x, x, torch.eye(2), None)).tolist() == [7.0, 2.0]
    assert low.change_of_weight(torch.eye(2)).tolist() == [[2.0, 2.0], [0.0, 0.0]]


def test_dora_rescales_the_rows_and_leaves_the_bias():
    # W + s B A = ((4, 3), (0, 1)), rows 5 and 1 long; m = (1, 1): W' = ((.8, .6), (0, 1)), W' x = (2, 2) for x = (1, 2)
    low = LowRank(torch.eye(2), 1, scale=3.0, dropout=0.0, magnitude=True)
    with torch.no_grad():
        low.a.copy_(torch.tensor([[1.0, 1.0]]))
        low.b.copy_(torch.tensor([[1.0], [0.0]]))
    x, bias = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    output = x + bias
    torch.testing.assert_close(output + low(x, output, torch.eye(2), bias), torch.tensor([12.0, 22.0]))
    torch.testing.assert_close(
        torch.eye(2) + low.change_of_weight(torch.eye(2)), torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    )


@pytest.mark.parametrize("name", TRACED)
def test_the_merged_encoder_has_the_features_of_the_task(name):
    architecture = made(name, on=["all"], per="both")
    plain = run_encoder(architecture.encoder, TOKENS)
    assert all(torch.equal(a, b) for a, b in zip(plain.layers, architecture(0, TOKENS).layers, strict=True))
    move(architecture.shared)
    move(architecture.tasks)
    features = architecture(0, TOKENS)
    assert not torch.allclose(features.layers[1], plain.layers[1], atol=1e-3)
    if name == "AlbertModel":
        with pytest.raises(MtlError, match="one block for several depths"):
            architecture.merged(0)
        return
    merged = run_encoder(architecture.merged(0), TOKENS)
    torch.testing.assert_close(merged.last, features.last, rtol=0, atol=2e-5)
    assert torch.equal(run_encoder(architecture.encoder, TOKENS).last, plain.last)
    with pytest.raises(MtlError, match="has modules for each task; export one task"):
        architecture.merged(None)


@pytest.mark.parametrize("name", ["ModernBertModel", "GPT2Model", "BertModel", "Qwen2Model"])
@pytest.mark.parametrize("dora", [False, True])
def test_query_and_value_alone_are_changed_also_in_one_module_for_three(name, dora):
    architecture = made(name, dora=dora)
    move(architecture.tasks)
    merged = run_encoder(architecture.merged(0), TOKENS)
    torch.testing.assert_close(merged.last, architecture(0, TOKENS).last, rtol=0, atol=5e-5)
    fused = architecture.layers[0].attention_in[0]
    if len(architecture.layers[0].attention_in) == 1:
        weights = [one.get_submodule(fused).weight for one in (architecture.encoder, architecture.merged(0))]
        change = (weights[1] - weights[0]) if name != "GPT2Model" else (weights[1] - weights[0]).T
        assert [bool(third.any()) for third in change.chunk(3)] == [True, False, True]


def test_interleaved_rows_of_query_key_and_value_are_refused_unless_all_are_changed():
    options = BERT | {"hidden_act": "gelu", "bos_token_id": 2, "eos_token_id": 3}
    facts = ArchitectureFacts(build("GPTNeoXModel", **options), RUN.tasks[:2], 1)
    with pytest.raises(MtlError, match="one projection for query, key and value, whose rows are not in this order"):
        LoRA(facts)
    architecture = LoRA(facts, on=["query", "key", "value"])
    assert list(architecture.tasks.of(0)) == ["attention-in"]


@pytest.mark.parametrize(
    ("options", "per_layer"),
    # d = 16, F = 16: each projection has r (in + out) = 32 r
    [({}, 2 * 32 * 8), ({"rank": 2, "on": ["all"]}, 6 * 32 * 2), ({"rank": 1, "dora": True}, 2 * (32 + 16))],
)
def test_the_parameters_are_those_of_the_formula(options, per_layer):
    architecture = made(**options)
    assert sum(p.numel() for p in architecture.tasks.of(0).parameters()) == 2 * per_layer


def test_the_change_is_scaled_by_alpha_and_rank():
    assert made(rank=4, alpha=2).tasks.of(0)["query"][0].scale == 0.5
    assert made(rank=4, alpha=2, rank_stabilized=True).tasks.of(0)["query"][0].scale == 1.0


def test_dora_needs_one_set_of_lengths():
    with pytest.raises(MtlError, match="so `both` is not possible"):
        made(dora=True, per="both")


def test_a_block_of_several_depths_has_a_change_for_each():
    albert = BERT | EMBEDDING | {"num_hidden_layers": 3}
    architecture = LoRA(ArchitectureFacts(build("AlbertModel", **albert), RUN.tasks[:1], 1))
    assert len(architecture.tasks.of(0)["value"]) == 3


@pytest.mark.parametrize("options", [{}, {"on": ["all"], "per": "both"}])
def test_identity_holds_for_every_task(options):
    check_architecture(LoRA, identity=True, **options)


def test_dora_is_the_encoder_before_step_1_up_to_rounding():
    architecture = made(dora=True)
    torch.testing.assert_close(
        architecture(0, TOKENS).last, run_encoder(architecture.encoder, TOKENS).last, rtol=0, atol=1e-6
    )
