"""Starting from a finished run: what its encoder and heads give to a new one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from mtlcli.config.schema import Config
from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.files import load_tensors
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.runs.names import HEADS
from mtlcli.runs.record import must_be_as_written, read_record, stored_config, stored_facts


@dataclass(frozen=True)
class Origin:
    """A finished run to start from; `tensors` are those of heads.safetensors."""

    folder: Path
    config: Config
    facts: tuple[TaskFacts, ...]
    tensors: Mapping[str, Tensor]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix.`, without it."""
        start = f"{prefix}."
        return {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}


def open_origin(folder: Path) -> Origin:
    """The run in a folder. Raises MtlError where it has not finished, or is not as it was written."""
    try:
        record = read_record(folder)
        must_be_as_written(folder, record)
        tensors = load_tensors(folder / HEADS)
    except MtlError as error:
        raise MtlError(*(f"init: {line}" for line in error.lines)) from error
    return Origin(folder, stored_config(record), stored_facts(record), tensors)


def warm_start(origin: Origin, model: MultiTaskModel, config: Config, facts: tuple[TaskFacts, ...]) -> tuple[str, ...]:
    """Puts the run's weights into what the model has of the same make, beside the encoder, which is already there. Returns
    sentences about what was taken and what starts anew."""
    notes, taken = [], []
    for index, task in enumerate(facts):
        why = _mismatch(origin, task, config, model.head(index))
        if why is None:
            model.head(index).load_state_dict(origin.below(task.name))
            taken.append(task.name)
        else:
            notes.append(f"{task.name}: its head starts anew: {why}")
    own = {key: value for key, value in model.architecture.state_dict().items() if not key.startswith("encoder.")}
    stored = origin.below("architecture")
    if (
        own
        and config.architecture == origin.config.architecture
        and _of_one_shape(own, stored)
        and (
            not any(model.architecture.private_parameters(index) for index in range(len(facts)))
            or [task.name for task in facts] == [task.name for task in origin.facts]
        )
    ):
        model.architecture.load_state_dict(stored, strict=False)
    elif own:
        notes.append("the architecture starts anew but for the encoder: it is not as in the run before")
    heads = f"the encoder and the heads of {', '.join(taken)}" if taken else "the encoder"
    return (f"starts from {origin.folder}: {heads}", *notes)


def _mismatch(origin: Origin, task: TaskFacts, config: Config, head: nn.Module) -> str | None:
    """Why a head cannot go on from the run, None where it can."""
    before = next((one for one in origin.facts if one.name == task.name), None)
    if before is None:
        return "the run has no task of this name"
    was, now = origin.config.tasks[task.name].head, config.tasks[task.name].head
    if was is None or now is None or was.name != now.name:
        return f'it was "{was.name if was else ""}" and is "{now.name if now else ""}"'
    if (before.target.kind, before.target.labels) != (task.target.kind, task.target.labels):
        return "its classes are not those of the run"
    if not _of_one_shape(head.state_dict(), origin.below(task.name)):
        return "it was of another shape"
    return None


def _of_one_shape(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return {key: value.shape for key, value in some.items()} == {key: value.shape for key, value in others.items()}
