"""What every plugin is built from: the facts of the run, and a base that keeps state where a checkpoint finds it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from mtlcli.facts import RunFacts
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.tasks.targets import Arrays


@dataclass(frozen=True)
class SetupContext:
    """What a plugin may look at once, when data and model are there and before step 1.

    `model` is the MultiTaskModel with its first weights; `dim` the width of its encodings, `steps` the planned length of the
    run. `blocks(granularity)` names the
    blocks of shared parameters at a granularity of `layer` or `tensor`, in their order. `teacher_predictions(run, task)` lets a finished
    run, by its folder, predict the training rows of a task, as `Target.soft` gives them.
    """

    model: MultiTaskModel
    dim: int
    steps: int
    blocks: Callable[[str], tuple[str, ...]]
    teacher_predictions: Callable[[str, int], Arrays]


@dataclass(frozen=True)
class StepResult:
    """After an optimizer update. tasks (k,), losses (k,) before balancing: per unit, for classes and scores the mean per row;
    weights (k,) given to them.

    gram (k, k) float64 on the CPU holds the inner products of the unweighted task gradients, where the engine made them.
    losses_after (k,) are the losses of the same batches after the update, with the same dropout masks, where the balancer
    needs them.
    """

    step: int
    tasks: Tensor
    losses: Tensor
    weights: Tensor
    gram: Tensor | None = None
    losses_after: Tensor | None = None


@dataclass(frozen=True)
class EpochResult:
    """After the last step of an epoch (counted from 0): mean training loss of each task visited in it, by task index."""

    epoch: int
    losses: Mapping[int, float]


@dataclass(frozen=True)
class EvaluationResult:
    """After an evaluation on dev: mean loss and metrics of each task that has a dev split, by task index."""

    step: int
    losses: Mapping[int, float]
    metrics: Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class ProbeResult:
    """After a small validation that a scheduler asked for: mean dev loss of each task it asked of, by task index."""

    step: int
    losses: Mapping[int, float]


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

    def setup(self, context: SetupContext) -> None:
        """Called once before step 1, also of a resumed run, whose state is put back afterwards: buffers whose size depends
        on the model are made here. Raises MtlError where the method cannot work with this model."""

    def get_extra_state(self) -> Tensor:
        """State of the random generator, a uint8 tensor."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Puts the random generator where it was when the state was saved."""
        self.generator.set_state(state.cpu())

    def on_step(self, result: StepResult) -> None:
        """React to an optimizer update. Not called after a step that was skipped because a value was not finite."""

    def on_epoch(self, result: EpochResult) -> None:
        """React to the end of an epoch, before its evaluation."""

    def on_evaluation(self, result: EvaluationResult) -> None:
        """React to an evaluation on dev."""
