"""plan.json: what a run was going to do before its first step."""

from dataclasses import asdict, dataclass
from pathlib import Path

from mtlcli.files import read_sealed_as, write_sealed
from mtlcli.runs.names import PLAN, resume_command

FORMAT = 2


@dataclass(frozen=True)
class TaskPlan:
    """One task of the plan.

    `batches_per_step` are its micro-batches in one step, averaged over the run; `share` is its part of all micro-batches,
    `passes` the number of times its rows are seen, and `truncated` the number of texts longer than max_length. An `auxiliary`
    task is trained and not evaluated.
    """

    name: str
    rows: int
    dev_rows: int
    batch_size: int
    batches_per_step: float
    share: float
    passes: float
    truncated: int
    texts: int
    encoding: str
    head: str
    parameters: int
    auxiliary: bool = False


@dataclass(frozen=True)
class Plan:
    """The run before step 1.

    `epoch_ends` are the steps after which each epoch ends. `rows_buffer_bytes` is the size of the gradient rows, 0 if they are
    not needed. `forward_passes` and `backward_passes` are those that regularizers add to each batch. `batches_per_step` is the
    mean number of micro-batches over all tasks, None if the scheduler chooses rows. `notes` inform; `warnings` name what is
    probably a mistake.
    """

    tasks: tuple[TaskPlan, ...]
    steps: int
    steps_per_epoch: int
    epoch_ends: tuple[int, ...]
    scheduler: str
    balancer: str
    encoder: str
    encoder_parameters: int
    device: str
    precision: str
    rows_buffer_bytes: int
    forward_passes: float
    backward_passes: float
    first_step: int
    batches_per_step: float | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def write_plan(folder: Path, plan: Plan) -> None:
    """Write plan.json. Raise MtlError where it cannot be written."""
    write_sealed(folder / PLAN, asdict(plan), FORMAT)


def read_plan(folder: Path) -> Plan:
    """Return the plan of a run. Raise MtlError, one line, where it is missing or damaged."""
    path = folder / PLAN
    return read_sealed_as(Plan, path, FORMAT, f"write it again: {resume_command(folder)}")
