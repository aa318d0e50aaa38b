"""What a regularizer adds to one batch: of a small BERT with dropout, and of a model so plain that it is worked by hand."""

import numpy as np
import torch
from torch import Tensor, nn

import labels
from mtlcli.architectures.base import Architecture, HiddenStates, Inputs
from mtlcli.architectures.hard_sharing import HardSharing
from mtlcli.data.batches import Batch
from mtlcli.facts import RunFacts, TaskFacts
from mtlcli.heads.base import HeadFacts
from mtlcli.heads.linear import Linear
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.regularizers.base import Regularizer
from mtlcli.tasks.targets import Classes, Score
from mtlcli.training.forward import regularization
from mtlcli.training.rng import random_states

RUN = RunFacts(
    (TaskFacts("score", 100, 10, Score(0.0, 5.0, 2.5, 1.5)), TaskFacts("class", 100, 10, Classes.named("no", "yes")))
)


def bert(dropout: float = 0.1) -> MultiTaskModel:
    """Two layers, 8 wide, in training mode."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, initializer_range=0.5,
    )  # fmt: skip
    encoder = BertModel(config, add_pooling_layer=False)
    return _model(HardSharing(_facts(encoder)), 8, dropout)


class Words(Architecture):
    """Nothing but word vectors."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.words = nn.Embedding.from_pretrained(vectors, freeze=False)
        self.encoder.get_input_embeddings = lambda: self.encoder.words

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        return HiddenStates(self.encoder.words(inputs.tokens) if inputs.embeddings is None else inputs.embeddings)


def plain(vectors: list[list[float]], weights: list[float]) -> MultiTaskModel:
    """Word vectors, mean pooling; the score is their product with `weights`, the logits are 0 and that product."""
    model = _model(Words(torch.tensor(vectors)), len(weights), 0.0)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
        for head in model.heads:
            head.out.weight[-1] = torch.tensor(weights)
    return model


def _facts(encoder: nn.Module):
    from mtlcli.architectures.base import ArchitectureFacts

    return ArchitectureFacts(encoder, RUN.tasks)


def _model(architecture: Architecture, dim: int, dropout: float) -> MultiTaskModel:
    heads = {task.name: Linear(HeadFacts(task, dim, 1), dropout=dropout) for task in RUN.tasks}
    return MultiTaskModel(architecture, heads).train()


def batch(task: int, tokens: list[list[int]], lengths: list[int] | None = None) -> Batch:
    """Rows of tokens; those from a row's length on are padding."""
    mask = None
    if lengths is not None:
        mask = torch.arange(len(tokens[0])) < torch.tensor(lengths).unsqueeze(1)
    targets = torch.ones(len(tokens), dtype=torch.long if task else torch.float64)
    gold, units = labels.rows(targets), float(len(tokens))
    return Batch(
        task, 1, np.arange(len(tokens)), np.arange(len(tokens)), torch.tensor(tokens), mask, None, None, gold, units
    )


def term(model: MultiTaskModel, plugin: Regularizer, one: Batch) -> Tensor | float:
    """What the plugin adds to the loss of a batch, with its graph."""
    states = random_states(torch.device("cpu"))
    hidden = model.hidden(one.task, model.inputs(one.task, one))
    output = model.output(one.task, one, hidden)
    return regularization(model, one.task, one, hidden, output, states, [plugin])


def added(model: MultiTaskModel, plugin: Regularizer, one: Batch) -> float:
    """The same as a number."""
    found = term(model, plugin, one)
    return found.item() if isinstance(found, Tensor) else found
