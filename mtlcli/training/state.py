"""Where a run is: what a checkpoint holds besides tensors, and the best one so far."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mtlcli import __version__
from mtlcli.errors import MtlError
from mtlcli.runs import checkpoint
from mtlcli.runs.checkpoint import Checkpoint
from mtlcli.runs.saved_model import save_tokenizer_and_config
from mtlcli.training.optimizer import Plateau
from mtlcli.training.rng import random_state, restore_random_state
from mtlcli.training.setup import TrainingRun


@dataclass
class Progress:
    """What a checkpoint holds besides tensors: where the run is and what it has seen."""

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
    """The best checkpoint of the run. Raises MtlError where it is damaged."""
    place = folder / "checkpoints" / f"step-{step}"
    problem = checkpoint.damage(place)
    if problem is not None:
        raise MtlError(f"{place}: the best checkpoint is damaged: {problem}")
    return Checkpoint(place, step)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers, as flat tensors `index.name`; its groups are made anew from the configuration."""
    return {
        f"{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save(run: TrainingRun, folder: Path, progress: Progress) -> Path:
    parts: dict[str, Mapping[str, torch.Tensor]] = {
        "model": run.model.state_dict(),
        "optimizer": optimizer_tensors(run.optimizer),
        "random": random_state(),
        "plugins": {
            f"{name}/{key}": value for name, one in run.plugins().items() for key, value in one.state_dict().items()
        },
    }
    state = {"mtlcli": __version__, "progress": asdict(progress), "content": run.content()}
    place = checkpoint.save(
        folder / "checkpoints", progress.step, parts, state,
        lambda scratch: save_tokenizer_and_config(run.encoder, scratch / "encoder"),
    )  # fmt: skip
    checkpoint.prune(folder / "checkpoints", run.config.training.keep_last, progress.best_step)
    return place


def restore(run: TrainingRun, found: Checkpoint) -> Progress:
    """Puts everything where it was. Raises MtlError when the rows are not those the checkpoint was trained on."""
    state = found.state()
    now = run.content()
    changed = [name for name, content in state["content"].items() if now.get(name) != content]
    if changed or set(now) != set(state["content"]):
        names = ", ".join(sorted(set(changed) | (set(now) ^ set(state["content"]))))
        raise MtlError(
            f"{found.folder}: the rows of {names} are not those this run was trained on; give the old files or --overwrite"
        )
    run.model.load_state_dict(found.tensors("model"))
    restore_optimizer(run.optimizer, found.tensors("optimizer"))
    plugins = found.tensors("plugins")
    for name, plugin in run.plugins().items():
        plugin.load_state_dict(
            {key.removeprefix(f"{name}/"): value for key, value in plugins.items() if key.startswith(f"{name}/")}
        )
    values = state["progress"]
    progress = Progress(**values | {"plateau": Plateau(**values.get("plateau", {}))})
    for batches, cursor in zip(run.train, progress.cursors, strict=True):
        batches.cursor = cursor
    restore_random_state(found.tensors("random"))
    return progress
