import torch
from torch import nn

from mtlcli.heads.base import EncoderOutput, HeadFacts
from mtlcli.templates.heads import Example
from mtlcli.testing import SCORES, check_head


def test_contract() -> None:
    check_head(Example)
    check_head(Example, dropout=0.5)


def test_a_head_of_ones_adds_mean_and_maximum() -> None:
    head = Example(HeadFacts(SCORES, dim=1, sides=1), dropout=0.0)
    for parameter, value in ((head.out.weight, 1.0), (head.out.bias, 0.0)):
        nn.init.constant_(parameter, value)
    tokens, mask = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])
    assert head((EncoderOutput(tokens, mask, tokens[:, 0]),)).item() == 2.0 + 3.0
