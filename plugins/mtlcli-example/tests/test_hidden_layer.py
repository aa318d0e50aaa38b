import torch
from mtlcli_example.hidden_layer import HiddenLayer
from torch import nn

from mtlcli.heads.base import EncoderOutput, HeadFacts
from mtlcli.testing import PAIRS, SCORES, check_head


def test_contract() -> None:
    check_head(HiddenLayer)
    check_head(HiddenLayer, hidden=1, dropout=0.5)


def test_parameters_of_both_layers_are_counted_by_hand() -> None:
    head = HiddenLayer(HeadFacts(PAIRS, dim=10, sides=2), hidden=3)
    assert sum(parameter.numel() for parameter in head.parameters()) == (20 * 3 + 3) + (3 * 2 + 2)


def test_a_large_sum_passes_gelu_unchanged() -> None:
    head = HiddenLayer(HeadFacts(SCORES, dim=2, sides=1), hidden=1).eval()
    for key, parameter in head.named_parameters():
        nn.init.constant_(parameter, 1.0 if key.endswith("weight") else 0.0)
    tokens = torch.tensor([[[20.0, 30.0]]])
    encoding = EncoderOutput(tokens, torch.tensor([[True]]), tokens[:, 0])
    assert head((encoding,)).item() == 50.0
