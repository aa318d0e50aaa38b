"""What several processes can train together, and one encoder folder for all of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mtlcli.config.schema import Config
from mtlcli.distributed.world import World
from mtlcli.errors import MtlError
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.registry import FAMILIES

LARGEST_COPY = 1 << 30
"""Bytes of an encoder that is sent to the other processes: those made by a plugin, and a checkpoint's tokenizer, are small."""


def check_processes(config: Config, size: int) -> None:
    """Refuse what several processes cannot share, before data is read.

    Raises:
        MtlError: the batches have fewer rows than there are processes, or a method compares rows that no process has together.
    """
    if size == 1:
        return
    # Only the largest batch counts: a smaller one leaves processes idle for a moment, with the same result.
    largest = max(section.batch_size or config.training.batch_size for section in config.tasks.values())
    errors = []
    if largest < size:
        errors.append(
            f"training.batch_size: found {largest} rows for {size} processes, {size - largest} of which would have none; raise it, or "
            "start fewer processes"
        )
    errors += [
        f"{choice.name} compares a batch with earlier ones, which processes do not have together; train in one process, or without it"
        for choice in config.regularizers
        if choice.plugin.coupling == "memory"
    ]
    errors += [
        f'tasks.{name}.head: "{config.head_of(name).name}" remembers earlier batches, which processes do not have together; train in '
        "one process, or choose another head"
        for name in config.tasks
        if config.head_of(name).plugin.coupling == "memory"
    ]
    errors += _sharding_errors(config) if config.training.sharding == "full" else []
    if errors:
        raise MtlError(*errors)


FEW_ROWS = 4
"""Rows of a process below which its part of a batch hardly pays."""


def notes_on_processes(world: World, batch_sizes: Sequence[int], travels: int) -> list[str]:
    """Return what the plan says of several processes: their rows of a batch, and the bytes that each adds up with the others."""
    if world.is_alone:
        return []
    rows = max(batch_sizes) / world.size
    few = f"; below {FEW_ROWS} rows for each, fewer processes or larger batches are faster" if rows < FEW_ROWS else ""
    return [
        f"{world.size} processes: each works on about {rows:.3g} of the {max(batch_sizes)} rows of the largest batch, and "
        f"{travels / 1e6:,.3g} MB are summed over them in a step{few}"
    ]


def _sharding_errors(config: Config) -> list[str]:
    """Return why an encoder that is divided over the processes cannot be trained with these methods."""
    where, errors = "training.sharding: full", []
    if config.architecture.name != FAMILIES["architectures"].default:
        errors.append(
            f"{where} divides the encoder alone; choose --set architecture={FAMILIES['architectures'].default}"
        )
    choice = config.gradient_regularizer
    if choice is not None and choice.plugin.reads_rows:
        errors.append(
            f"{where}: {choice.name} reads whole rows of gradients, which no process has; choose another, such as pcgrad"
        )
    errors += [
        f"{where}: {regularizer.name} reads or replaces whole weights, which no process has; train without it"
        for regularizer in config.regularizers
        if regularizer.plugin.reads_weights
    ]
    return errors


def check_couplings(model: MultiTaskModel, size: int) -> None:
    """Raise MtlError if a head, by its options, remembers earlier batches, which several processes do not have together."""
    errors = [
        f"tasks.{name}.head: remembers earlier batches with these options, which processes do not have together; train in one process, "
        "or choose other options"
        for task, name in enumerate(model.names)
        if size > 1 and model.head(task).coupling == "memory"
    ]
    if errors:
        raise MtlError(*errors)


def check_layers_read(model: MultiTaskModel) -> None:
    """Raise MtlError if a head of an encoder that is to be divided reads anything but its last layer, or shares layers."""
    for task, name in enumerate(model.names):
        # transformers records hidden states by the classes of modules, which FSDP replaces.
        if model.wants_all_layers([task]):
            raise MtlError(
                f"training.sharding: full: {name} reads other layers than the last, which a divided encoder does not return; set "
                "encoder.layer to -1 and choose a head of the last layer"
            )
    encoder = {id(parameter) for parameter in model.architecture.encoder.parameters()}
    if any(id(parameter) not in encoder for parameter in model.shared_parameters()):
        raise MtlError("training.sharding: full: heads share layers, which are not divided; give each head its own")


def same_folder(world: World, make: Callable[[], Path], scratch: Path) -> Path:
    """Return the folder of an encoder for every process: made, downloaded or found by the first one.

    A machine that does not have the folder downloads it, or receives a copy of the files if the first process has made them.

    Raises:
        MtlError: the first process has no such folder, or this machine has none and cannot get it.
    """
    if world.is_alone:
        return make()

    def find() -> tuple[Path, dict[str, bytes] | None]:
        folder = make()
        small = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < LARGEST_COPY
        # Made for this run, or the folder in a checkpoint, which has no weights: other machines cannot download either.
        is_ours = scratch in folder.parents or not any(folder.glob("*.safetensors"))
        if not (is_ours and small):
            return folder, None
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return folder, files

    folder, files = world.same(find)
    if files is None:
        return folder if folder.is_dir() else make()
    if world.is_main:
        return folder
    copy = scratch / "encoder-of-first"
    for name, content in files.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    return copy
