"""What `mtl sweep` shows while its trials train: a table that changes on a terminal, and a line for each trial elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.text import Text

from mtlcli.cli.console import err, grid, say
from mtlcli.sweeps.results import RUNNING, cells
from mtlcli.sweeps.run import SweepEvent, SweepInterrupted, SweepWorker, TrialEnded, TrialStarted
from mtlcli.sweeps.space import in_words
from mtlcli.training.events import Evaluated, Notice, Started, Stepped

SECONDS = 1.0
"""Between two readings of the storage, which also has the trials of other workers."""
BELOW = 6
"""Lines of a terminal that the table leaves free."""


class SweepView:
    """Show the trials of a sweep on standard error, as a context manager.

    Attributes:
        stopped: the event of a worker that was asked to stop.
    """

    def __init__(self, worker: SweepWorker, quiet: bool) -> None:
        self.worker, self.quiet = worker, quiet
        self.stopped: SweepInterrupted | None = None
        # Standard output may go elsewhere, so it is not drawn above the table.
        self._live = Live(console=err, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
        self._is_live = err.is_terminal and not quiet
        self._place, self._step, self._steps, self._drawn = "", 0, 0, 0.0

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_live:
            self._live.stop()

    def show(self, event: SweepEvent) -> None:
        """Show what an event changes."""
        match event:
            case TrialStarted(place=place):
                self._place, self._step, self._steps = place, 0, 0
                if not self._is_live and not self.quiet:
                    say(f"{place}: {'goes on' if event.resumed else 'starts'}: {in_words(event.values)}", err)
            case TrialEnded():
                if not self._is_live and not self.quiet:
                    say(self._line(event), err)
            case Started(plan=plan):
                self._steps = plan.steps
            case Stepped(step=step):
                self._step = step
            case Notice(text=text, is_warning=True):
                say(f"warning: {text}", err)
            case SweepInterrupted():
                self.stopped = event
        if self._is_live and (
            isinstance(event, TrialStarted | TrialEnded | Evaluated) or time.monotonic() > self._drawn + SECONDS
        ):
            self._drawn = time.monotonic()
            self._live.update(self._picture(), refresh=True)

    def _line(self, event: TrialEnded) -> str:
        """Return the line of a trial that has ended, with the best score so far."""
        trial = event.trial
        last = f" at {trial.curve[-1][1]:.4f}" if trial.curve else ""
        score = f" {trial.scores[0]:.4f}" if trial.scores else last
        done = self.worker.sweep().done
        best = f"; best {done[0].scores[0]:.4f}" if done else ""
        return f"{event.ended}/{event.total} {trial.place}: {trial.state}{score}{best}"

    def _picture(self) -> Group:
        """Return the table of the trials, as far as the terminal has lines, and what this worker does now."""
        sweep = self.worker.sweep()
        ended, total = self.worker.progress()
        lines = [f"{ended}/{total} trials have ended"]
        if sweep.done:
            best = sweep.done[0]
            lines.append(f"best {best.scores[0]:.4f} of {best.place}")
        now = f"{self._place}: step {self._step} of {self._steps}" if self._steps else f"{self._place}: starts"
        columns, rows = cells(sweep)
        # Those that train come first, so that they stay in sight on a small terminal.
        rows.sort(key=lambda row: row[1] != RUNNING)
        return Group(grid(columns, rows[: max(1, err.height - BELOW)]), Text("; ".join(lines)), Text(now))
