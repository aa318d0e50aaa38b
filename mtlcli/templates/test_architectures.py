import torch
from torch import nn

from mtlcli.architectures.base import ArchitectureFacts
from mtlcli.templates.architectures import Example
from mtlcli.testing import RUN, check_architecture


def test_contract() -> None:
    check_architecture(Example)


def test_every_task_has_a_vector_of_its_own() -> None:
    class Encoder(nn.Module):
        def get_input_embeddings(self) -> nn.Embedding:
            return nn.Embedding(10, 4)

    architecture = Example(ArchitectureFacts(Encoder(), RUN.tasks), deviation=0.0)
    assert [one.shape for task in range(3) for one in architecture.private_parameters(task)] == [torch.Size([4])] * 3
