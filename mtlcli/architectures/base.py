"""The contract of an architecture: how encoder features reach the heads, and which parameters tasks share."""

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from mtlcli.facts import TaskFacts


@dataclass(frozen=True)
class ArchitectureFacts:
    """What an architecture is built from: the loaded encoder, and the tasks in the order of the run."""

    encoder: nn.Module
    tasks: tuple[TaskFacts, ...]


@dataclass(frozen=True)
class Inputs:
    """One batch of encoder inputs.

    tokens (n, length) int64, or `embeddings` (n, length, dim) in place of the words' vectors; mask (n, length) bool, None if
    nothing is padded; types (n, length), None if the encoder has no segments. `all_layers` requests every hidden state.
    """

    tokens: Tensor
    mask: Tensor | None
    types: Tensor | None
    embeddings: Tensor | None = None
    all_layers: bool = False


@dataclass(frozen=True)
class HiddenStates:
    """Hidden states (n, length, dim): the last one and, if requested, all of them, starting with the embeddings."""

    last: Tensor
    layers: tuple[Tensor, ...] = ()


def _without_cache(encoder: nn.Module) -> dict[str, bool]:
    """Return the arguments that stop a decoder (`use_cache`) or XLNet (`use_mems`) from keeping keys and values."""
    parameters = inspect.signature(encoder.forward).parameters
    return {name: False for name in ("use_cache", "use_mems") if name in parameters}


def run_encoder(encoder: nn.Module, inputs: Inputs) -> HiddenStates:
    """Run a transformers model on tokens, or on word embeddings in their place."""
    # Regularizers perturb word embeddings, so a model has to accept them instead of tokens.
    arguments = {"input_ids": inputs.tokens} if inputs.embeddings is None else {"inputs_embeds": inputs.embeddings}
    if inputs.types is not None:
        arguments["token_type_ids"] = inputs.types
    # XLNet computes 1 - mask, which torch does not define for bool.
    mask = None if inputs.mask is None else inputs.mask.long()
    output = encoder(
        **arguments,
        attention_mask=mask,
        output_hidden_states=inputs.all_layers,
        **_without_cache(encoder),
    )
    return HiddenStates(output.last_hidden_state, tuple(output.hidden_states or ()) if inputs.all_layers else ())


class Architecture(nn.Module, ABC):
    """Holds the encoder and all modules between it and the heads.

    A parameter of an architecture is shared unless `private_parameters` of some task lists it. A run folder stores `encoder`
    as `encoder/`, and the rest of the state with the heads.

    Attributes:
        task_independent: True if `forward` returns the same for every task, so that one pass can serve all tasks that read the
            same texts.
    """

    task_independent: ClassVar[bool] = False
    encoder: nn.Module

    @abstractmethod
    def forward(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the features of a batch of one task.

        In evaluation mode they may depend on each text and the weights alone, because a run caches them while nothing in the
        architecture is trainable.
        """

    def private_parameters(self, task: int) -> list[nn.Parameter]:
        """Return the parameters that only this task uses."""
        return []

    def encoder_of(self, task: int) -> nn.Module:
        """Return the encoder of this task's texts."""
        return self.encoder

    def towers(self) -> list[nn.Module]:
        """Return one module per task, all of one shape, for soft sharing; empty if the tasks share one encoder."""
        return []
