"""What `mtl affinity` will cost, from the time of a few updates of each task: runs, updates, minutes and disk space."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mtlcli.affinity.logme import MOST_ROWS
from mtlcli.affinity.lookahead import LOSS_ROWS, STEP_BATCHES, lookahead_steps
from mtlcli.affinity.rows import make_batch, mean_loss, measured_batches
from mtlcli.model.predict import evaluating
from mtlcli.training.setup import TrainingRun

TIMED = 3
# A backward pass costs about as much as two forward passes.
FORWARD = 1 / 3
"""Share of the forward pass in a step."""
CHECKPOINTS = 3
"""Times at which the gradients of the joint run are measured."""
ROWS_PER_SECOND = 5000
"""Rows whose words are counted in a second, with the permutations of their labels; a guess."""


@dataclass(frozen=True)
class CostLine:
    """Hold the cost of one part: number of runs, updates over all of them, and seconds."""

    what: str
    runs: int
    updates: int
    seconds: float


@dataclass(frozen=True)
class Cost:
    """Hold the whole cost. `disk` is in bytes, `step_seconds` is the time of an update of one batch, by task."""

    lines: tuple[CostLine, ...]
    disk: int
    step_seconds: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """Return the seconds of all parts."""
        return sum(line.seconds for line in self.lines)


def step_times(run: TrainingRun) -> dict[str, float]:
    """Return the seconds that forward and backward pass of a batch take, by task: the median of `TIMED` after a first one.

    The optimizer's update is not in it. No gradient or random state changes.
    """
    times = {}
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    with evaluating(run.model):
        for task, name in enumerate(run.model.names):
            batches = measured_batches(run, task, "timing", TIMED + 1).batches
            taken = []
            for number in range(TIMED + 1):
                # The task has not enough rows for one full batch.
                if not batches:
                    taken.append(0.0)
                    continue
                batch = make_batch(run, task, batches[number % len(batches)])
                start = time.perf_counter()
                # Unlike `backward`, it leaves `.grad` as it is.
                torch.autograd.grad(mean_loss(run.model, batch), parameters, allow_unused=True)
                if run.device.type == "cuda":
                    # Kernels run asynchronously, so the time would otherwise be that of launching them.
                    torch.cuda.synchronize()
                taken.append(time.perf_counter() - start)
            # Without the first pass, which also pays for allocations and kernels that are loaded.
            times[name] = sorted(taken[1:])[TIMED // 2]
    return times


@dataclass(frozen=True)
class Lengths:
    """Hold the lengths that decide the cost: updates of the joint run, most batches of a gradient, updates of runs of one task and of
    two, evaluations of each, and the seconds that setting up a run of all tasks took."""

    joint: int
    batches: int
    alone: int
    together: int
    evaluations: int
    set_up: float = 0.0


def estimate_cost(
    run: TrainingRun,
    measures: Sequence[str],
    seeds: int,
    lengths: Lengths,
    times: Mapping[str, float],
    *,
    keep_models: bool,
    confirm: int = 0,
) -> Cost:
    """Return the cost of measures. Gradients are counted with the most batches that their precision can ask for.

    Args:
        confirm: number of groups to train again; 0 for none.
    """
    k, total = len(times), sum(times.values())
    lines = []
    if "data" in measures:
        rows = sum(len(split) for task in run.tasks for split in task.splits.values())
        lines.append(CostLine("data", 0, 0, k * rows / ROWS_PER_SECOND / 2))
    if {"gradients", "lookahead"} & {*measures}:
        lines.append(CostLine("joint run", 1, lengths.joint, lengths.joint * total))
    if "gradients" in measures:
        possible = [min(lengths.batches, run.facts[task].rows // run.train[task].batch_size) for task in range(k)]
        seconds = CHECKPOINTS * sum(count * time for count, time in zip(possible, times.values(), strict=True))
        lines.append(CostLine("gradients (at most)", 0, CHECKPOINTS * sum(possible), seconds))
    if "lookahead" in measures:
        count = len(lookahead_steps(lengths.joint))
        forward = sum(
            FORWARD * time * -(-LOSS_ROWS // run.train[task].batch_size) for task, time in enumerate(times.values())
        )
        # The losses of all tasks are computed once before any step, and once after the step of each of the k tasks.
        lines.append(CostLine("lookahead", 0, count, count * (STEP_BATCHES * total + (k + 1) * forward)))
    evaluation = {
        name: FORWARD * time / run.train[task].batch_size * sum(map(len, run.dev.get(name, {}).values()))
        for task, (name, time) in enumerate(times.items())
    }
    # Of each task in a run: its updates, evaluations with the one at the end, and its part of setting up.
    every_task = (lengths.evaluations + 1) * sum(evaluation.values()) + lengths.set_up
    alone, together = (length * total + every_task for length in (lengths.alone, lengths.together))
    needs_alone = bool({"gain", "transfer", "logme"} & {*measures})
    if needs_alone:
        lines.append(CostLine("each task alone", seeds * k, seeds * k * lengths.alone, seeds * alone))
    if "gain" in measures:
        count = seeds * k * (k - 1) // 2
        # Each task is in k - 1 pairs.
        lines.append(CostLine("pairs", count, count * lengths.together, seeds * (k - 1) * together))
    if confirm:
        # Alone, in one model of all, and in the group that serves the task.
        count = seeds * (k + confirm + 1)
        lines.append(CostLine("confirm (about)", count, count * lengths.together, seeds * 3 * together))
    if "transfer" in measures:
        count = seeds * k * (k - 1)
        lines.append(CostLine("transfer", count, count * lengths.alone, seeds * (k - 1) * alone))
    if "logme" in measures:
        forward = sum(
            FORWARD * time / run.train[task].batch_size * min(MOST_ROWS, run.facts[task].rows)
            for task, time in enumerate(times.values())
        )
        lines.append(CostLine("logme", 0, 0, k * (forward + lengths.set_up)))
    # Four bytes for each float32 weight.
    model = 4 * sum(parameter.numel() for parameter in run.model.parameters())
    kept = seeds * k if needs_alone else 0
    if keep_models:
        # The joint run removes its checkpoints when all is measured.
        kept = sum(line.runs for line in lines if line.what != "joint run")
    # A checkpoint has the weights and both moments of AdamW.
    joint = 3 * model if {"gradients", "lookahead"} & {*measures} else 0
    return Cost(tuple(lines), kept * model + joint, dict(times))
