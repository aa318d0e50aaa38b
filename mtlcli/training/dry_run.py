"""One forward and backward pass per task on its longest batch, which needs the most memory, before the run starts."""

import time
from dataclasses import dataclass

from mtlcli.devices import is_out_of_memory, not_enough_memory, peak_memory
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import TrainingRun


@dataclass(frozen=True)
class DryRunResult:
    """Report the longest batch of a task: its texts, tokens per text, mean loss, seconds, and the peak memory so far."""

    task: str
    texts: int
    length: int
    loss: float
    seconds: float
    peak_bytes: int


def dry_run(run: TrainingRun) -> list[DryRunResult]:
    """Run the step engine on the longest batch of every task, then on all of them as one step if steps hold several tasks.

    Raises:
        MtlError: out of memory, with the task, the batch and the options to change.
    """
    run.model.train()
    results, together = [], []
    for index, batches in enumerate(run.train):
        batch = batches.longest()
        together.append(TaskLoss(index, (batch.to(run.device),)))
        start = time.monotonic()
        try:
            combined = run.engine.run(together[-1:])
            # One step with the longest batch of every task needs the most memory for the buffer of rows.
            # If no step of the scheduler holds all tasks, the buffer has fewer rows and such a step never occurs.
            if index == len(run.train) - 1 and 1 < len(together) <= run.engine.max_tasks:
                run.engine.run(together)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            texts, length = batch.tokens.shape
            raise not_enough_memory(batches.name, texts, length) from error
        texts, length = batch.tokens.shape
        loss = float(combined.losses[0])
        results.append(DryRunResult(batches.name, texts, length, loss, time.monotonic() - start, peak_memory()))
    return results
