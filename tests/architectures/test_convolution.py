"""The convolution between encoder and heads, by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mtlcli.architectures.base import ArchitectureFacts, Inputs
from mtlcli.architectures.convolution import Convolution
from mtlcli.errors import MtlError


class Numbers(nn.Module):
    """An encoder of width 1 whose hidden states are the tokens themselves, then ten and a hundred times as much."""

    config = SimpleNamespace(num_hidden_layers=2, hidden_size=1)

    def forward(self, input_ids, attention_mask, output_hidden_states):
        states = tuple(factor * input_ids.float().unsqueeze(-1) for factor in (1, 10, 100))
        return SimpleNamespace(last_hidden_state=states[-1], hidden_states=states if output_hidden_states else None)


def convolution(weights: list[float], bias: float = 0.0, **options) -> Convolution:
    made = Convolution(ArchitectureFacts(Numbers(), ()), kernel=len(weights), **options)
    with torch.no_grad():
        made.convolution.weight.copy_(torch.tensor([[weights]]))
        made.convolution.bias.fill_(bias)
    return made


def last(made: Convolution, tokens: list[list[int]], mask: list[list[bool]] | None = None) -> list[list[float]]:
    known = None if mask is None else torch.tensor(mask)
    return made(0, Inputs(torch.tensor(tokens), known, None)).last.squeeze(-1).tolist()


def test_three_neighbours_are_weighed_with_zeros_at_both_ends():
    # 100 * (1 * left + 2 * itself + 3 * right) of 1, 2, 3
    assert last(convolution([1.0, 2.0, 3.0]), [[1, 2, 3]]) == [[800.0, 1400.0, 800.0]]


def test_padding_counts_as_zero():
    padded = last(convolution([1.0, 2.0, 3.0]), [[1, 2, 9]], [[True, True, False]])
    assert padded[0][:2] == last(convolution([1.0, 2.0, 3.0]), [[1, 2]])[0]


def test_the_layer_below_may_be_convolved_and_negative_numbers_become_zero():
    assert last(convolution([2.0], -30.0, layer=-2), [[1, 2, 3]]) == [[0.0, 10.0, 30.0]]
    assert last(convolution([2.0], -30.0, layer=0, activation="tanh"), [[15, 16]])[0][0] == 0.0


def test_an_even_kernel_keeps_the_length():
    assert last(convolution([1.0, 1.0]), [[1, 2, 3]]) == [[100.0, 300.0, 500.0]]


def test_all_layers_are_those_of_the_encoder_and_the_convolved_one_last():
    hidden = convolution([1.0])(0, Inputs(torch.tensor([[1, 2]]), None, None, all_layers=True))
    assert [layer.squeeze(-1).tolist() for layer in hidden.layers] == [[[1.0, 2.0]], [[10.0, 20.0]], [[100.0, 200.0]]]
    assert hidden.layers[-1] is hidden.last


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(MtlError, match=r"^architecture\.layer: found -4; expected 0 \(embeddings\) to 2"):
        convolution([1.0], layer=-4)
