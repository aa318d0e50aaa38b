"""The layers of encoders of many families are found by their trace, and changed for one pass."""

from copy import deepcopy

import pytest
import torch

from families import BERT, EMBEDDING, FAMILIES, build
from mtlcli.architectures.base import Inputs, run_encoder
from mtlcli.architectures.hooks import changed
from mtlcli.architectures.layers import trace_layers
from mtlcli.errors import MtlError

REFUSED = ("MobileBertModel", "XLNetModel")
TRACED = [name for name in FAMILIES if name not in REFUSED]
TOKENS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])


def inputs(**more) -> Inputs:
    return Inputs(TOKENS, None, None, all_layers=True, **more)


@torch.no_grad()
def run(encoder, layers=(), **changes):
    with changed(encoder, layers, **changes):
        return run_encoder(encoder, inputs())


@pytest.mark.parametrize("name", TRACED)
def test_every_layer_has_its_projections_and_a_change_of_zero_changes_nothing(name):
    encoder = build(name, **FAMILIES[name])
    layers = trace_layers(encoder)
    assert len(layers) == 2 and not encoder.training
    plain, calls = run(encoder), []

    def unchanged(call, output):
        calls.append(call.depth)
        return output + 0.0

    same = run(encoder, layers, outputs={"attention_out": unchanged, "ffn_out": unchanged})
    assert calls == [0, 0, 1, 1]
    assert all(torch.equal(a, b) for a, b in zip(plain.layers, same.layers, strict=True))
    # afterwards the encoder is the plain one
    assert all(torch.equal(a, b) for a, b in zip(plain.layers, run(encoder).layers, strict=True))
    assert len(calls) == 4


@pytest.mark.parametrize("name", TRACED)
def test_a_change_shows_in_the_hidden_states_from_its_layer_on(name):
    encoder = build(name, **FAMILIES[name])
    layers = trace_layers(encoder)
    plain = run(encoder)
    for place in ("attention_out", "ffn_out", "block"):
        changed_states = run(
            encoder, layers, outputs={place: lambda call, output: output + torch.rand_like(output) * (call.depth == 1)}
        )
        assert torch.equal(plain.layers[1], changed_states.layers[1])
        assert not torch.allclose(plain.layers[2], changed_states.layers[2], atol=1e-3), place


@pytest.mark.parametrize("name", TRACED)
def test_what_a_place_reads_can_be_changed(name):
    encoder = build(name, **FAMILIES[name])
    layers = trace_layers(encoder)
    zero = run(encoder, layers, inputs={"ffn_out": lambda call: torch.zeros_like(call.given)})
    none = run(encoder, layers, outputs={"ffn_in": lambda call, output: torch.full_like(output, 0.0)})
    # The activation of zero is zero, so an empty feed-forward network and its empty input are the same.
    torch.testing.assert_close(zero.last, none.last)


@pytest.mark.parametrize("name", TRACED)
def test_the_last_norm_gives_the_block_s_output(name):
    encoder = build(name, **FAMILIES[name])
    layers = trace_layers(encoder)
    pre_norm = {"ModernBertModel", "GPT2Model", "Qwen2Model", "T5EncoderModel"}
    assert (layers[0].last_norm is None) == (name in pre_norm)
    assert layers[0].norms


def test_a_block_that_is_called_at_several_depths_has_a_layer_for_each():
    encoder = build("AlbertModel", **(BERT | EMBEDDING | {"num_hidden_layers": 4, "num_hidden_groups": 2}))
    layers = trace_layers(encoder)
    assert [layer.block for layer in layers] == [
        "encoder.albert_layer_groups.0", "encoder.albert_layer_groups.0",
        "encoder.albert_layer_groups.1", "encoder.albert_layer_groups.1",
    ]  # fmt: skip
    depths = []
    run(encoder, layers, outputs={"ffn_out": lambda call, output: depths.append(call.depth) or output})
    assert depths == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("MobileBertModel", "groups of projections; expected four"), ("XLNetModel", "has no list of equal layers")],
)
def test_other_layers_are_refused_in_one_sentence(name, sentence):
    encoder = build(name, **FAMILIES[name]).train()
    with pytest.raises(MtlError, match=sentence) as caught:
        trace_layers(encoder)
    assert len(caught.value.lines) == 1 and caught.value.lines[0].startswith(name)
    assert encoder.training


def test_hooks_are_removed_where_a_pass_fails_and_a_copy_has_none():
    encoder = build("BertModel", **BERT)
    layers, plain = trace_layers(encoder), run(encoder)

    def fails(call, output):
        raise KeyError("x")

    with pytest.raises(KeyError):
        run(encoder, layers, outputs={"ffn_out": fails})
    assert torch.equal(run(encoder).last, plain.last)
    with changed(encoder, layers, outputs={"ffn_out": lambda call, output: output + 1}):
        assert not torch.equal(run_encoder(encoder, inputs()).last, plain.last)
    assert torch.equal(run(deepcopy(encoder)).last, plain.last)


def test_a_change_reads_the_weights_that_a_functional_call_puts_in_place():
    encoder = build("BertModel", **BERT)
    layers = trace_layers(encoder)
    zero = {name: torch.zeros_like(p) for name, p in encoder.named_parameters() if name.endswith("output.dense.weight")}

    def twice(call, output):
        return torch.nn.functional.linear(call.given, call.module.weight)  # without the bias

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.seen = []

        def forward(self):
            def see(call, output):
                self.seen.append(bool(twice(call, output).any()))
                return output

            with changed(self.encoder, layers, outputs={"ffn_out": see}):
                return run_encoder(self.encoder, inputs()).last

    whole = Whole()
    torch.func.functional_call(whole, {f"encoder.{name}": value for name, value in zero.items()}, ())
    assert whole.seen == [False, False]
    whole()
    assert whole.seen == [False, False, True, True]
