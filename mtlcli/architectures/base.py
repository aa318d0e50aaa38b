"""The contract of an architecture: how the encoder's features reach the heads, and what is shared (survey 2)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from mtlcli.facts import TaskFacts


@dataclass(frozen=True)
class ArchitectureFacts:
    """What an architecture is built from: the loaded encoder and the tasks in the order of the run."""

    encoder: nn.Module
    tasks: tuple[TaskFacts, ...]


@dataclass(frozen=True)
class Inputs:
    """What goes into the encoder: tokens (n, length), or `embeddings` (n, length, dim) of the words in their place; mask and
    types (n, length) or None. `all_layers` asks for every hidden state."""

    tokens: Tensor
    mask: Tensor | None
    types: Tensor | None
    embeddings: Tensor | None = None
    all_layers: bool = False


@dataclass(frozen=True)
class HiddenStates:
    """Hidden states (n, length, dim): the last one, and, where they were asked for, all of them with the embeddings first."""

    last: Tensor
    layers: tuple[Tensor, ...] = ()


def run_encoder(encoder: nn.Module, inputs: Inputs) -> HiddenStates:
    """The hidden states that an encoder makes of tokens, or of the word embeddings in their place."""
    chosen = {"inputs_embeds": inputs.embeddings} if inputs.embeddings is not None else {"input_ids": inputs.tokens}
    if inputs.types is not None:
        chosen["token_type_ids"] = inputs.types
    found = encoder(**chosen, attention_mask=inputs.mask, output_hidden_states=inputs.all_layers)
    return HiddenStates(found.last_hidden_state, tuple(found.hidden_states or ()) if inputs.all_layers else ())


class Architecture(nn.Module, ABC):
    """Owns the encoder and whatever stands between it and the heads.

    A parameter of an architecture is shared unless `private_parameters` of some task lists it. `encoder` is what the run
    folder keeps as `encoder/`; everything else of the state goes with the heads.
    """

    encoder: nn.Module

    @abstractmethod
    def forward(self, task: int, inputs: Inputs) -> HiddenStates:
        """Features of a batch of one task. In evaluation mode they depend on each text and the weights alone: while nothing
        here learns, a run keeps them."""

    def private_parameters(self, task: int) -> list[nn.Parameter]:
        """Parameters that only this task uses."""
        return []

    def encoder_of(self, task: int) -> nn.Module:
        """The encoder that this task's texts go through."""
        return self.encoder

    def towers(self) -> list[nn.Module]:
        """Modules of the same shape, one a task, that soft sharing holds together; empty where the tasks share one."""
        return []
