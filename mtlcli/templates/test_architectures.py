from types import SimpleNamespace

import torch
from torch import nn

from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs
from mtlcli.templates.architectures import Example
from mtlcli.testing import RUN, check_architecture


def test_contract() -> None:
    check_architecture(Example)


def test_the_task_s_vector_is_added() -> None:
    class Encoder(nn.Module):
        config = SimpleNamespace(hidden_size=2)

    architecture = Example(ArchitectureFacts(Encoder(), RUN.tasks), deviation=0.0)
    with torch.no_grad():
        architecture.shifts.of(1).vector.copy_(torch.tensor([1.0, -1.0]))
    states = HiddenStates(torch.tensor([[[2.0, 3.0]]]))
    tokens = Inputs(torch.tensor([[5]]), None, None)
    assert architecture.features(1, states, tokens).last.tolist() == [[[3.0, 2.0]]]
    assert architecture.features(0, states, tokens).last.tolist() == [[[2.0, 3.0]]]
