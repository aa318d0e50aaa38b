"""Conditional modulation by hand, and on encoders of many families."""

import pytest
import torch
from torch import nn

from families import FAMILIES, TRACED, build
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.architectures.ca_mtl import CAMTL, BlockDiagonal, FiLM
from mtlcli.errors import MtlError
from mtlcli.testing import RUN, check_architecture

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)
OWN_ATTENTION = ("DebertaV2Model", "MPNetModel")
NAMES = TRACED


def made(name: str = "BertModel", **options) -> CAMTL:
    options = {"length": 8, "blocks": 2, **options}
    return CAMTL(ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:2], 1), **options).eval()


def test_film_by_hand():
    film = FiLM(1, 1)
    with torch.no_grad():
        film.map.weight.copy_(torch.tensor([[0.5], [1.0]]))
    assert film(torch.ones(1), torch.tensor([2.0])).tolist() == [4.0]  # 1.5 * 2 + 1


def test_the_bias_of_the_attention_has_the_rows_in_blocks():
    bias = BlockDiagonal(1, 4, 2)
    with torch.no_grad():
        bias.rows.copy_(torch.arange(1.0, 9.0).view(4, 2))
    assert bias(torch.zeros(1)).tolist() == [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 5, 6], [0, 0, 7, 8]]
    # blocks that do not divide the length: the last one is cut
    assert BlockDiagonal(1, 5, 2).size == 3 and BlockDiagonal(1, 5, 2)(torch.zeros(1)).shape == (5, 5)


@pytest.mark.parametrize("part", ["alignment", "attention", "norms", "bottleneck"])
@pytest.mark.parametrize("name", NAMES)
def test_each_part_changes_nothing_before_step_1_and_then_something(name, part):
    options = {other: other == part for other in ("alignment", "attention", "norms", "bottleneck")}
    if part == "attention" and name in (*OWN_ATTENTION, "T5EncoderModel"):
        try:
            made(name, **options)
        except MtlError as error:
            assert "set architecture.attention=false" in str(error)
            return
    architecture = made(name, **options)
    plain, same = run_encoder(architecture.encoder, TOKENS), architecture(0, TOKENS)
    for ours, theirs in zip(same.layers, plain.layers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0 if part != "attention" else 2e-6)
    torch.manual_seed(2)
    for parameter in architecture.shared[part].parameters():
        nn.init.normal_(parameter, std=0.5)
    changed = architecture(0, TOKENS)
    assert not torch.allclose(changed.last, plain.last, atol=1e-3)
    assert not torch.allclose(changed.last, architecture(1, TOKENS).last, atol=1e-3)  # another task, another vector
    assert torch.equal(run_encoder(architecture.encoder, TOKENS).last, plain.last)


@pytest.mark.parametrize("name", OWN_ATTENTION)
def test_an_encoder_with_an_attention_of_its_own_is_refused_in_one_sentence(name):
    with pytest.raises(MtlError, match=f"architecture.attention: {name} computes its attention by itself") as caught:
        made(name)
    assert len(caught.value.lines) == 1
    made(name, attention=False)


def test_a_bias_is_added_to_the_scores_of_every_layer_and_padding_stays_masked():
    architecture = made(alignment=False, norms=False, bottleneck=False, blocks=1)
    with torch.no_grad():
        for layer in architecture.shared["attention"]:
            layer.rows[:, 0] = 50.0  # every token reads the first one alone
    attention, seen = architecture.encoder.encoder.layer[0].attention, {}
    handles = [
        attention.self.value.register_forward_hook(lambda _, given, output: seen.update(value=output)),
        attention.output.dense.register_forward_hook(lambda _, given, output: seen.update(context=given[0])),
    ]
    architecture(0, TOKENS)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(seen["context"], seen["value"][:, :1].expand(2, 5, 16), rtol=0, atol=1e-5)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    padded = architecture(0, Inputs(TOKENS.tokens, mask, None)).last[1, :3]
    alone = architecture(0, Inputs(TOKENS.tokens[1:, :3], None, None)).last[0]
    torch.testing.assert_close(padded, alone, rtol=0, atol=2e-6)


def test_a_norm_has_the_modulated_weight_and_its_own_bias():
    architecture = made(alignment=False, attention=False, bottleneck=False)
    films = architecture.shared["norms"][0]  # of the second of two layers
    with torch.no_grad():
        films[1].map.bias[:16] = 1.0  # twice the weight
        films[1].map.bias[16:] = 0.5
    norm, seen = architecture.encoder.encoder.layer[1].output.LayerNorm, []
    handle = norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    last = architecture(0, TOKENS).last
    handle.remove()
    expected = nn.functional.layer_norm(seen[0], (16,), 2 * norm.weight + 0.5, norm.bias, norm.eps)
    torch.testing.assert_close(last, expected)
    assert len(architecture.shared["norms"]) == 1


def test_a_text_that_the_bias_does_not_cover_is_one_sentence():
    with pytest.raises(MtlError, match=r"architecture\.length: a text has 5 tokens; expected at most 4"):
        made(length=4)(0, TOKENS)


def test_the_parameters_are_those_of_the_formula():
    # d = 16, L = 8, 2 blocks of 4: W 272; alignment 544; 2 layers of 32 + 8 * 17; norms 2 * 544; bottleneck 544 + 2 * 5 * 16 + 5 + 16
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in made().shared.items()}
    assert sizes == {"vector": 272, "alignment": 544, "attention": 2 * 168, "norms": 1088, "bottleneck": 725}
    assert sum(p.numel() for p in made().tasks.of(0).parameters()) == 16


@pytest.mark.parametrize("options", [{"attention": False}])
def test_identity_holds_for_every_task(options):
    check_architecture(CAMTL, identity=True, **options)
