"""What every plugin is built from: the facts of the run, and a base that keeps state where a checkpoint finds it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mtlcli.model import MultiTaskModel


@dataclass(frozen=True)
class TaskFacts:
    """What a plugin may know of one task before step 1.

    `dev_rows` is 0 for a task without dev rows, None where it is not known. `labels` are the class names in index order; None
    for a task that predicts a score. `score_range`, `score_mean` and `score_std` are in the units of the data file and
    describe the training rows; None for a task that predicts classes.
    """

    name: str
    rows: int
    batches: int
    labels: tuple[str, ...] | None = None
    score_range: tuple[float, float] | None = None
    score_mean: float | None = None
    score_std: float | None = None
    dev_rows: int | None = None

    @property
    def is_regression(self) -> bool:
        """Whether the task predicts a score instead of a class."""
        return self.labels is None


@dataclass(frozen=True)
class RunFacts:
    """What a scheduler, balancer, gradient regularizer or regularizer may know of the run: first argument of each.

    `tasks` are in the order of the run; an index into them is what `tasks (k,)` tensors hold everywhere.
    `micro_batches` is the number of micro-batches that `training.micro_batches` asks of one step.
    """

    tasks: tuple[TaskFacts, ...]
    seed: int = 42
    micro_batches: int = 1

    def generator(self, purpose: str) -> torch.Generator:
        """A random generator on the CPU that depends on the run's seed and `purpose` alone."""
        return torch.Generator().manual_seed(seed_for(self.seed, purpose))


def seed_for(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from the run's seed and what it is for: adding a task or a plugin changes nobody else's numbers."""
    text = "\0".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Taught:
    """What a finished run predicts for the training rows of a task: values (n,) class indices or scores in the units of the
    data, probabilities (n, classes) or None for scores."""

    values: np.ndarray
    probabilities: np.ndarray | None


@dataclass(frozen=True)
class Start:
    """What a plugin may look at once, when data and model are there and before step 1.

    `model` is the MultiTaskModel with its first weights; `dim` the width of its encodings, `steps` the planned length of the
    run. `blocks(granularity)` names the
    blocks of shared parameters at a granularity of `layer` or `tensor`, in their order. `teach(run, task)` lets a finished
    run, by its folder, predict the training rows of a task.
    """

    model: "MultiTaskModel"
    dim: int
    steps: int
    blocks: Callable[[str], tuple[str, ...]]
    teach: Callable[[str, int], Taught]


class Plugin(nn.Module):
    """Base of the families with state. Learned state is a Parameter, history a buffer: `state_dict()` is the checkpoint.

    `generator` is the plugin's own source of randomness; its state is saved and restored with the rest. `cost` says in a few
    words what the method adds to a step, for `mtl plugins list`: a literal, because listing imports nothing.
    """

    cost: ClassVar[str] = "none"

    def __init__(self, run: RunFacts) -> None:
        super().__init__()
        self.run = run
        self.generator = run.generator(type(self).__qualname__)

    def begin(self, start: Start) -> None:
        """Called once before step 1, also of a resumed run, whose state is put back afterwards: buffers whose size depends
        on the model are made here. Raises MtlError where the method cannot work with this model."""

    def get_extra_state(self) -> Tensor:
        """State of the random generator, a uint8 tensor."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Puts the random generator where it was when the state was saved."""
        self.generator.set_state(state.cpu())
