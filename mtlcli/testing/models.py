"""The small model on which regularizers and architectures are checked."""

import contextlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from mtlcli import registry
from mtlcli.architectures.base import Architecture, ArchitectureFacts
from mtlcli.data.batches import Batch
from mtlcli.facts import RunFacts, TaskFacts
from mtlcli.heads.base import HeadFacts
from mtlcli.heads.linear import Linear
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.regularizers.base import Regularizer
from mtlcli.testing.common import DIM, gold_of
from mtlcli.training.compatibility import architecture_with_towers
from mtlcli.training.engine import StepEngine


def tiny_encoder() -> nn.Module:
    """Return a BERT of two layers without dropout, always with the same weights."""
    # Imported here, because most contracts do not need transformers.
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=30, hidden_size=DIM, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    # The random numbers of the caller's tests stay what they would be.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return BertModel(config, add_pooling_layer=False)


def tiny_model(tasks: tuple[TaskFacts, ...], *, towers: bool = False) -> MultiTaskModel:
    """Return a model of these tasks without dropout; with `towers` each task has its own encoder."""
    name = architecture_with_towers() if towers else registry.FAMILIES["architectures"].default
    sharing: type[Architecture] = registry.load("architectures", name, "architecture")
    with torch.random.fork_rng(devices=[]):
        architecture = sharing(ArchitectureFacts(tiny_encoder(), tasks))
        heads = {task.name: Linear(HeadFacts(task, DIM, 1), dropout=0.0) for task in tasks}
    return MultiTaskModel(architecture, heads).train()


def step_engine(model: MultiTaskModel, run: RunFacts, regularizers: Sequence[Regularizer]) -> StepEngine:
    """Return the engine of a run with the default balancer."""
    balancer = registry.load("balancers", registry.FAMILIES["balancers"].default, "balancer")(run)
    return StepEngine(model, balancer, None, regularizers, max_tasks=len(run.tasks), autocast=contextlib.nullcontext())


def tiny_batch(task: int, facts: TaskFacts) -> Batch:
    """Return a batch of four rows of at most six tokens, two of them padded."""
    # From 1, because 0 is the padding token, whose embedding has no gradient.
    tokens = torch.arange(24).reshape(4, 6) + 1
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1, 4:] = mask[3, 2:] = False
    return Batch(task, 1, np.arange(4), np.arange(4), tokens, mask, torch.zeros_like(tokens), None, gold_of(facts), 4.0)
