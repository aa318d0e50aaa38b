"""The base class of plugins with state, and the results that its hooks receive."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from mtlcli.facts import RunFacts
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.tasks.targets import Arrays


@dataclass(frozen=True)
class SetupContext:
    """Hold what `Plugin.setup` can read once, before step 1.

    Attributes:
        model: the model with its initial weights.
        dim: width of its encodings.
        steps: planned length of the run, in optimizer updates.
        blocks: takes a granularity, `layer` or `tensor`, and returns the names of the blocks of shared parameters, in order.
        teacher_predictions: takes the folder of a finished run and a task index, and returns the run's predictions for the
            training rows of the task, in the form of `Target.soft`.
    """

    model: MultiTaskModel
    dim: int
    steps: int
    blocks: Callable[[str], tuple[str, ...]]
    teacher_predictions: Callable[[str, int], Arrays]


@dataclass(frozen=True)
class StepResult:
    """Report an optimizer update.

    Attributes:
        step: number of the update, counted from 1.
        tasks: indices (k,) of the tasks of the step.
        losses: (k,) before balancing, per unit; for classes and scores, the mean per row.
        weights: (k,) that the balancer gave to the losses.
        gram: (k, k) float64 on the CPU, inner products of the unweighted task gradients; None if the engine did not need them.
        losses_after: (k,) of the same batches after the update, with the same dropout masks; None unless the balancer needs
            them.
    """

    step: int
    tasks: Tensor
    losses: Tensor
    weights: Tensor
    gram: Tensor | None = None
    losses_after: Tensor | None = None


@dataclass(frozen=True)
class EpochResult:
    """Report the end of an epoch (counted from 0): mean training loss of each task visited in it, by task index."""

    epoch: int
    losses: Mapping[int, float]


@dataclass(frozen=True)
class EvaluationResult:
    """Report an evaluation on dev: mean loss and metrics of each task that has dev rows, by task index.

    For a task with several dev sets they are means over the sets that select checkpoints.
    """

    step: int
    losses: Mapping[int, float]
    metrics: Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class ProbeResult:
    """Report a probe, a small validation that a scheduler requested: mean dev loss of each requested task, by task index."""

    step: int
    losses: Mapping[int, float]


class Plugin(nn.Module):
    """Provide the base of the families with state.

    Learned state is a Parameter, history a buffer: `state_dict()` is the checkpoint.

    Attributes:
        generator: the plugin's random generator; its state is saved and restored with the rest.
        cost: what the method adds to a step, in a few words, for `mtl plugins list`: a literal, because listing imports
            nothing.
    """

    cost: ClassVar[str] = "none"

    def __init__(self, run: RunFacts) -> None:
        super().__init__()
        self.run = run
        # Seeded by the name of the class, so that other plugins of the run do not change its numbers.
        self.generator = run.generator(type(self).__qualname__)

    def setup(self, context: SetupContext) -> None:
        """Prepare the plugin for this model; called once before the first step.

        Create buffers here whose size depends on the model. A resumed run calls it too, and restores the state afterwards.

        Raises:
            MtlError: the method cannot work with this model.
        """

    def get_extra_state(self) -> Tensor:
        """Return the state of the random generator, a uint8 tensor."""
        # nn.Module stores this in `state_dict()` under `_extra_state`, so that every checkpoint has it.
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the random generator to a saved state."""
        # A checkpoint may have been loaded onto a GPU; the generator is on the CPU.
        self.generator.set_state(state.cpu())

    def on_step(self, result: StepResult) -> None:
        """React to an optimizer update. Not called for a step that was skipped because a value was not finite."""

    def on_epoch(self, result: EpochResult) -> None:
        """React to the end of an epoch, before its evaluation."""

    def on_evaluation(self, result: EvaluationResult) -> None:
        """React to an evaluation on dev."""
