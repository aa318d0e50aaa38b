"""What a finished run predicts for the training rows of a task: the teacher of a distillation."""

from contextlib import AbstractContextManager
from pathlib import Path

import torch

from mtlcli.data.loading import LoadedTask
from mtlcli.errors import MtlError
from mtlcli.plugin import TaskFacts, Taught


def teach(
    folder: str, task: LoadedTask, facts: TaskFacts, device: torch.device, autocast: AbstractContextManager[object],
    cache: Path | None,
) -> Taught:  # fmt: skip
    """Predictions of the run in `folder` for the training rows of `task`, in their order. Raises MtlError where the run has no
    such task, or another kind of it."""
    raise MtlError(f"{folder}: not implemented")
