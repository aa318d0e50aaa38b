"""Save the state of a run, its progress and all tensors, in a checkpoint, and restore it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtlcli import __version__
from mtlcli.distributed.sharding import divide_like, load_whole, whole
from mtlcli.errors import MtlError
from mtlcli.runs import checkpoint
from mtlcli.runs.checkpoint import Checkpoint
from mtlcli.runs.names import CHECKPOINTS, ENCODER
from mtlcli.runs.saved_model import save_tokenizer_and_config
from mtlcli.training.optimizer import Plateau
from mtlcli.training.rng import random_state, restore_random_state
from mtlcli.training.setup import TrainingRun


@dataclass
class Progress:
    """Hold the values of a checkpoint besides tensors: the step, and the evaluations so far."""

    step: int = 0
    cursors: list[int] = field(default_factory=list)
    epoch_sums: dict[str, float] = field(default_factory=dict)
    epoch_counts: dict[str, int] = field(default_factory=dict)
    best_step: int | None = None
    best_score: float | None = None
    evaluations_without_better: int = 0
    skipped_in_a_row: int = 0
    skipped: int = 0
    seconds: float = 0.0
    plateau: Plateau = field(default_factory=Plateau)


def best_checkpoint(folder: Path, step: int) -> Checkpoint:
    """Return the best checkpoint of the run. Raise MtlError if it is damaged."""
    place = folder / CHECKPOINTS / f"step-{step}"
    problem = checkpoint.damage(place)
    if problem is not None:
        raise MtlError(f"{place}: the best checkpoint is damaged: {problem}")
    return Checkpoint(place, step)


def load_best(run: TrainingRun, folder: Path, step: int) -> None:
    """Load the weights of the best checkpoint. Raise MtlError if it is damaged."""
    load_whole(run.model, run.world.same_tensors(lambda: best_checkpoint(folder, step).weights()))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as flat tensors `index.name`, whole ones where they are divided over processes.

    Parameter groups are not included, because they follow from the configuration.
    """
    return {
        f"{index}.{name}": whole(value) if isinstance(value, Tensor) else torch.tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that `optimizer_tensors` returned."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        # The step count of each parameter is a scalar, which is never divided.
        is_scalar = value.dim() == 0
        state.setdefault(int(index), {})[name] = value if is_scalar else divide_like(value, parameter)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def tensors_of(run: TrainingRun) -> dict[str, Mapping[str, Tensor]]:
    """Return all tensors of a run by the part of a checkpoint that holds them. Every process calls it, since parts are gathered."""
    return {
        **_weights_of(run),
        "optimizer": optimizer_tensors(run.optimizer),
        "random": random_state(),
        "plugins": {
            f"{name}/{key}": value
            for name, plugin in run.plugins().items()
            for key, value in plugin.state_dict().items()
        },
    }


def _weights_of(run: TrainingRun) -> dict[str, Mapping[str, Tensor]]:
    """Return the weights of a run, apart those that are never trained, such as an encoder below adapters."""
    frozen = run.model.frozen_names()
    tensors = {name: whole(value) for name, value in run.model.state_dict().items()}
    parts: dict[str, Mapping[str, Tensor]] = {
        checkpoint.MODEL: {name: value for name, value in tensors.items() if name not in frozen}
    }
    return parts | ({checkpoint.FROZEN: {name: tensors[name] for name in frozen}} if frozen else {})


def save(
    run: TrainingRun, folder: Path, progress: Progress, parts: Mapping[str, Mapping[str, Tensor]] | None = None,
    digests: dict[str, str] | None = None,
) -> Path:  # fmt: skip
    """Write a checkpoint from which the run can be resumed, remove those no longer needed, and return its folder.

    Args:
        parts: what `tensors_of` returned; None: call it.
        digests: see `checkpoint.save`.

    Raises:
        MtlError: the checkpoint cannot be written.
    """
    parts = tensors_of(run) if parts is None else parts
    state = {
        "mtlcli": __version__, "progress": asdict(progress), "content": run.content(), "config": run.config.without_trackers().plain(),
    }  # fmt: skip
    place = checkpoint.save(
        folder / CHECKPOINTS, progress.step, parts, state,
        lambda scratch: save_tokenizer_and_config(run.encoder, scratch / ENCODER), digests,
    )  # fmt: skip
    # Only after the new checkpoint is complete, so that a crash never leaves the run without one.
    prune(run, folder, progress)
    return place


def prune(run: TrainingRun, folder: Path, progress: Progress) -> None:
    """Remove all checkpoints but the newest ones, the best one, and the best one recorded by each that is kept."""
    place, keep_last = folder / CHECKPOINTS, run.config.training.keep_last
    keep = {progress.best_step} if progress.best_step is not None else set()
    for step in (
        [step for step in checkpoint.steps(place) if step < progress.step][1 - keep_last :] if keep_last > 1 else ()
    ):
        # If the newest is damaged, an older one is resumed, and its run may end with the best checkpoint recorded there.
        best = best_step_of(Checkpoint(place / f"step-{step}", step))
        keep |= {best} if best is not None else set()
    checkpoint.prune(place, progress.step, keep_last, keep)


def best_step_of(saved: Checkpoint) -> int | None:
    """Return the step of the best checkpoint as recorded by a saved one; None if it records none or cannot be read."""
    try:
        best = saved.state()["progress"]["best_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return best if isinstance(best, int) else None


def restore(run: TrainingRun, saved: Checkpoint) -> Progress:
    """Restore a run to the state of a checkpoint.

    Raises:
        MtlError: the run has other rows than the checkpoint, or another version wrote it.
    """
    state = run.world.same(saved.state)
    try:
        _must_be_same_rows(run, saved, state["content"])
        return _restore(run, saved, state["progress"])
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        # Written by this version, so this is a bug and keeps its traceback.
        if state.get("mtlcli") == __version__:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise saved.unreadable(reason) from error


def _must_be_same_rows(run: TrainingRun, saved: Checkpoint, content: Mapping[str, str]) -> None:
    rows = run.content()
    changed = sorted(name for name in {*rows, *content} if rows.get(name) != content.get(name))
    if changed:
        raise MtlError(
            f"{saved.folder}: the rows of {', '.join(changed)} have changed since this run was trained; restore the old files, "
            "or start over with --overwrite"
        )


def _restore(run: TrainingRun, saved: Checkpoint, values: Mapping[str, Any]) -> Progress:
    def part(name: str) -> Mapping[str, Tensor]:
        return run.world.same_tensors(lambda: saved.tensors(name))

    load_whole(run.model, run.world.same_tensors(saved.weights))
    restore_optimizer(run.optimizer, part("optimizer"))
    tensors = part("plugins")
    for name, plugin in run.plugins().items():
        plugin.load_state_dict(
            {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        )
    progress = Progress(**{**values, "plateau": Plateau(**values["plateau"])})
    for batches, cursor in zip(run.train, progress.cursors, strict=True):
        # The order of the rows is a function of the seed and this position.
        batches.cursor = cursor
    # Last, because building and loading modules may draw random numbers.
    restore_random_state(part("random"))
    return progress
