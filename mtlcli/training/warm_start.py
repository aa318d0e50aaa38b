"""Start a run from a finished one: load the weights of its encoder and heads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from mtlcli.architectures.base import part_of
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.files import load_tensors
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.runs.names import HEADS
from mtlcli.runs.record import must_be_as_written, read_record, stored_config, stored_facts


@dataclass(frozen=True)
class Origin:
    """Hold a finished run to start from; `tensors` are those of heads.safetensors."""

    folder: Path
    config: Config
    facts: tuple[TaskFacts, ...]
    tensors: Mapping[str, Tensor]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with `prefix.`, with the prefix removed."""
        start = f"{prefix}."
        return {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}


def architecture_tensors(folder: str) -> dict[str, Tensor]:
    """Return what the architecture of a run adds to its encoder, by name. Raise MtlError if the run is unfinished or damaged."""
    return open_origin(Path(folder), "architecture").below("architecture")


def open_origin(folder: Path, option: str = "init") -> Origin:
    """Open the run in a folder that an option names. Raise MtlError if it is unfinished or damaged."""
    try:
        record = read_record(folder)
        must_be_as_written(folder, record)
        tensors = load_tensors(folder / HEADS)
    except MtlError as error:
        raise MtlError(*(f"{option}: {line}" for line in error.lines)) from error
    return Origin(folder, stored_config(record), stored_facts(record), tensors)


def warm_start(origin: Origin, model: MultiTaskModel, config: Config, facts: tuple[TaskFacts, ...]) -> tuple[str, ...]:
    """Load the run's weights into the matching parts of the model, besides the encoder, which is loaded already.

    Returns:
        Notes about the parts that were loaded and those that start from random weights.
    """
    notes, loaded = [], []
    for index, task in enumerate(facts):
        mismatch = _mismatch(origin, task, config, model.head(index))
        if mismatch is None:
            model.head(index).load_state_dict(origin.below(task.name))
            loaded.append(task.name)
        else:
            notes.append(f"{task.name}: its head starts from random weights: {mismatch}")
    notes += _load_architecture(origin, model, config, facts)
    heads = f"the encoder and the heads of {', '.join(loaded)}" if loaded else "the encoder"
    return (f"starts from {origin.folder}: {heads}", *notes)


def _load_architecture(
    origin: Origin, model: MultiTaskModel, config: Config, facts: tuple[TaskFacts, ...]
) -> list[str]:
    """Load what the architecture adds to the encoder, and return notes about what starts from random weights.

    The modules of a task are found by its name, so they are loaded for every task that both runs have.
    """
    # `load_encoder` has loaded the encoder of the run.
    added = {key: value for key, value in model.architecture.state_dict().items() if not key.startswith("encoder.")}
    if not added:
        return []
    stored, parts = origin.below("architecture"), model.architecture.parts()
    if origin.config.architecture.name not in (config.architecture.name, *model.architecture.loads_from):
        return [
            "the architecture differs from that run's: its parameters outside the encoder start from random weights"
        ]
    # Numbered modules of tasks fit only if the runs have the same tasks in the same order.
    same_tasks = [task.name for task in facts] == [task.name for task in origin.facts]
    fitting = {
        key: stored[key]
        for key, value in added.items()
        if key in stored
        and stored[key].shape == value.shape
        and (same_tasks or ".for_" in key or part_of(key, parts).tasks is None)
    }
    model.architecture.load_state_dict(fitting, strict=False)
    new = dict.fromkeys(_module_of(key) for key in added if key not in fitting)
    return [f"the architecture's {', '.join(new)} start from random weights: that run has none that fit"] if new else []


def _module_of(key: str) -> str:
    """Return the module that a parameter belongs to, as `freeze` and messages name it: `adapters of sst`, or `convolution`."""
    module, _, rest = key.partition(".")
    task = rest.partition(".")[0]
    return f"{module} of {task.removeprefix('for_')}" if task.startswith("for_") else module


def _mismatch(origin: Origin, task: TaskFacts, config: Config, head: nn.Module) -> str | None:
    """Return why a head cannot load the weights of the run; None if it can."""
    before = next((facts for facts in origin.facts if facts.name == task.name), None)
    if before is None:
        return "the run has no task of this name"
    old, new = origin.config.tasks[task.name].head, config.tasks[task.name].head
    if old is None or new is None or old.name != new.name:
        return f'it was "{old.name if old else ""}" and is "{new.name if new else ""}"'
    # With other classes, or in another order, the same weights would predict something else.
    if (before.target.kind, before.target.labels) != (task.target.kind, task.target.labels):
        return "its classes differ from those of the run"
    if not _same_shapes(head.state_dict(), origin.below(task.name)):
        return "its shape differs"
    return None


def _same_shapes(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return {key: value.shape for key, value in first.items()} == {key: value.shape for key, value in second.items()}
