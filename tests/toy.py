"""A model small enough to work out by hand: word vectors, averaged, and one linear head per task."""

import numpy as np
import torch
from torch import Tensor, nn

import labels
from mtlcli.architectures.base import Architecture, HiddenStates, Inputs
from mtlcli.balancers.base import Balancer
from mtlcli.balancers.equal import Equal
from mtlcli.data.batches import Batch
from mtlcli.facts import RunFacts, TaskFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.heads.base import HeadFacts
from mtlcli.heads.linear import Linear
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.tasks.targets import Classes, Score
from mtlcli.training.engine import StepEngine
from mtlcli.training.passes import TaskLoss

DIM, WORDS = 6, 20


class Words(Architecture):
    """Word vectors and one tanh layer: everything shared."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Embedding(WORDS, DIM), nn.Linear(DIM, DIM), nn.Tanh())

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Vectors (n, length, dim)."""
        return HiddenStates(self.encoder(inputs.tokens))


def facts(tasks: int = 2, rows: tuple[int, ...] = (100, 300, 50, 10)) -> RunFacts:
    """Tasks a, b, c, ...: the second one predicts a score, the others one of three classes."""
    return RunFacts(
        tuple(
            TaskFacts(name, rows[index], rows[index] // 10, Score(0.0, 5.0, 2.0, 1.5))
            if index == 1
            else TaskFacts(name, rows[index], rows[index] // 10, Classes.named("x", "y", "z"))
            for index, name in enumerate("abcd"[:tasks])
        ),
        seed=1,
    )


def model(tasks: int = 2, seed: int = 18) -> MultiTaskModel:
    """The toy model, without dropout; with this seed the gradients of any two of three tasks conflict."""
    torch.manual_seed(seed)
    heads = {task.name: Linear(HeadFacts(task, DIM, 1), dropout=0.0) for task in facts(tasks).tasks}
    return MultiTaskModel(Words(), heads)


def batch(task: int, rows: int, seed: int = 0) -> Batch:
    """Random words and labels."""
    random = torch.Generator().manual_seed(1000 * task + seed)
    targets = (
        torch.rand(rows, generator=random).double() * 5 if task == 1 else torch.randint(3, (rows,), generator=random)
    )
    tokens = torch.randint(WORDS, (rows, 4), generator=random)
    return Batch(task, 1, np.arange(rows), np.arange(rows), tokens, None, None, None, labels.rows(targets), float(rows))


def part(whole: Batch, start: int, end: int) -> Batch:
    """Some rows of a batch."""
    gold = None if whole.gold is None else whole.gold.take(slice(start, end))
    rows = whole.rows[start:end]
    return Batch(whole.task, 1, rows, rows, whole.tokens[start:end], None, None, None, gold, float(len(rows)))


def engine(
    made: MultiTaskModel,
    balancer: Balancer | None = None,
    regularizer: GradientRegularizer | None = None,
    **more: object,
) -> StepEngine:
    """A step engine on the CPU in float32."""
    from contextlib import nullcontext

    chosen = balancer or Equal(facts(len(made.names)))
    regularizers = more.get("regularizers", ())
    return StepEngine(made, chosen, regularizer, regularizers, max_tasks=len(made.names), autocast=nullcontext())  # type: ignore[arg-type]


def one_each(tasks: int, rows: int = 8) -> list[TaskLoss]:
    """A step with one batch of every task."""
    return [TaskLoss(task, (batch(task, rows),)) for task in range(tasks)]


def gradients(made: MultiTaskModel) -> dict[str, Tensor | None]:
    """Copies of all gradients by parameter name."""
    return {name: None if p.grad is None else p.grad.clone() for name, p in made.named_parameters()}


def row_of(made: MultiTaskModel, one: TaskLoss) -> Tensor:
    """The flat gradient of a task's mean loss on the shared parameters, by plain autograd."""
    whole = one.batches[0]
    loss = made.losses(one.task, made(one.task, whole), whole).mean()
    found = torch.autograd.grad(loss, made.shared_parameters(), allow_unused=True)
    pairs = zip(found, made.shared_parameters(), strict=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in pairs])
