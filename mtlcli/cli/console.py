"""What people see: plain lines where nobody watches, tables and a progress bar on a terminal."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from mtlcli.statistics.bootstrap import Estimate
    from mtlcli.training.events import Evaluated, Stepped
    from mtlcli.training.plan import Plan

out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def say(text: str, console: Console = out) -> None:
    """One line as it is, however long."""
    console.print(Text(text), soft_wrap=True)


def explain(text: str, console: Console = out) -> None:
    """Sentences: broken between words on a terminal, one line in a pipe."""
    console.print(Text(text), soft_wrap=not console.is_terminal)


def table(
    title: str, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], console: Console = out
) -> None:
    """A table; columns are (name, `left` or `right`). Fits 80 columns as long as the cells do."""
    if title:
        console.print(Text(title, style="bold"), soft_wrap=True)
    found = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name, side in columns:
        found.add_column(name, justify="right" if side == "right" else "left", overflow="fold")
    for row in rows:
        found.add_row(*(Text(cell) for cell in row))
    console.print(found)


def show_plan(plan: "Plan") -> None:
    """The mixing plan."""
    explain(
        f"{plan.encoder}: {plan.encoder_parameters / 1e6:.1f} M shared parameters, {plan.device} in {plan.precision}; "
        f"scheduler {plan.scheduler}, balancer {plan.balancer}"
    )
    table(
        "",
        [("task", ""), ("encoding/head", ""), *((name, "right") for name in ("rows", "dev", "batch", "share", "passes", "truncated"))],
        [
            (
                task.name, f"{task.encoding}/{task.head}", f"{task.rows}", f"{task.dev_rows}", f"{task.batch_size}",
                f"{100 * task.share:.1f} %", f"{task.passes:.2f}", f"{task.truncated}",
            )
            for task in plan.tasks
        ],
    )  # fmt: skip
    epochs = len(plan.epoch_ends)
    even = all(end == plan.steps_per_epoch * (1 + at) for at, end in enumerate(plan.epoch_ends[:-1]))
    length = f" of {plan.steps_per_epoch}" if even else ""
    memory = f"; gradient rows take {size(plan.rows_buffer_bytes)}" if plan.rows_buffer_bytes else ""
    cost = ""
    if plan.forward_passes or plan.backward_passes:
        cost = f"; regularizers add {plan.forward_passes:g} forward and {plan.backward_passes:g} backward passes to each batch"
    explain(f"{plan.steps} steps in {epochs} epoch{'s' if epochs > 1 else ''}{length}{memory}{cost}")
    for note in plan.notes:
        explain(f"note: {note}")


def size(count: int) -> str:
    """Bytes as people read them."""
    return (
        f"{count / 1e9:.2f} GB"
        if count >= 1e9
        else f"{count / 1e6:.0f} MB"
        if count >= 1e6
        else f"{count / 1e3:.0f} kB"
    )


def show_results(results: "Mapping[str, Mapping[str, Mapping[str, Estimate]]]", title: str) -> None:
    """Metrics with their 95 % intervals; the primary metric of each task comes first."""
    rows = []
    for task, splits in results.items():
        for split, metrics in splits.items():
            for index, (metric, found) in enumerate(metrics.items()):
                first = (task, split) if index == 0 else ("", "")
                rows.append(
                    (*first, metric, f"{found.value:.4f}", f"{found.low:.4f} to {found.high:.4f}", f"{found.n}")
                )
    columns = [("task", ""), ("split", ""), ("metric", ""), ("value", "right"), ("95 % interval", ""), ("n", "right")]
    show_warnings(results)
    table(title, columns, rows)


def show_warnings(results: "Mapping[str, Mapping[str, Mapping[str, Estimate]]]") -> None:
    """A line on standard error for every metric that means little on its rows, and why."""
    for task, splits in results.items():
        for split, metrics in splits.items():
            for metric, found in metrics.items():
                if found.degenerate:
                    say(f"warning: {task} {split}: {found.degenerate}: {metric} is {found.value:g}", err)


class TrainingView:
    """Shows the steps of a run on standard error: a bar on a terminal, else a plain line every twentieth of the run."""

    def __init__(self, total: int, first: int, quiet: bool) -> None:
        self.total, self.quiet = total, quiet
        self.every = max(1, total // 20)
        self.means: dict[str, float] = {}
        self.times: list[tuple[float, int]] = [(time.monotonic(), first)]
        self.bar: Progress | None = None
        self.bar_task: TaskID | None = None
        if not quiet and err.is_terminal:
            self.bar = Progress(
                TextColumn("{task.completed}/{task.total}"), BarColumn(None), TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(compact=True), console=err, transient=True,
            )  # fmt: skip
            self.bar.start()
            self.bar_task = self.bar.add_task("train", total=total, completed=first, text="")

    def stepped(self, event: "Stepped") -> None:
        """Moves the bar, or prints a line where it is due."""
        for name, loss in event.losses.items():
            old = self.means.get(name, loss)
            self.means[name] = old + 0.05 * (loss - old) if loss == loss else old
        self.times = [*self.times[-50:], (time.monotonic(), event.step)]
        if self.quiet:
            return
        if self.bar is not None and self.bar_task is not None:
            self.bar.update(self.bar_task, completed=event.step, text=self._text())
        elif event.step % self.every == 0:
            left = (self.total - event.step) / max(self.rate(), 1e-9)
            say(f"step {event.step}/{self.total}  {self._text()}  lr {event.lr:.2g}  {left:.0f} s left", err)
        if event.skipped:
            say(f"step {event.step}: skipped, a loss or gradient was not finite", err)

    def rate(self) -> float:
        """Steps per second over the last fifty."""
        (first_time, first), (last_time, last) = self.times[0], self.times[-1]
        return (last - first) / max(1e-9, last_time - first_time)

    def _text(self) -> str:
        losses = " ".join(f"{name} {loss:.3f}" for name, loss in self.means.items())
        from mtlcli.devices import peak_memory

        return f"{losses}  {self.rate():.1f} steps/s  {size(peak_memory())}"

    def evaluated(self, event: "Evaluated") -> None:
        """One line: the primary metric of every task."""
        if self.quiet:
            return
        self.times = [(time.monotonic(), event.step)]
        found = "  ".join(
            f"{task} {metric} {value:.4f}"
            for task, metrics in event.metrics.items()
            for metric, value in list(metrics.items())[:1]
        )
        best = "" if event.score is None else f"  score {event.score:.4f}{' (best so far)' if event.is_best else ''}"
        explain(f"epoch {event.epoch + 1}, step {event.step}: {found}{best}", err)

    def close(self) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.stop()
