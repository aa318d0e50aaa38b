"""Output: plain lines in a pipe or file, tables and a progress bar on a terminal."""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from mtlcli.runs.seeds import Group
    from mtlcli.statistics.bootstrap import Estimate
    from mtlcli.training.events import Evaluated, Stepped
    from mtlcli.training.plan import Plan

# Texts are printed as they are: names of tasks and files may contain brackets or `:smile:`.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def say(text: str, console: Console = out) -> None:
    """Print one line unwrapped."""
    # Without soft wrapping, rich would break lines at 80 columns in a pipe.
    console.print(Text(text), soft_wrap=True)


def explain(text: str, console: Console = out) -> None:
    """Print sentences: wrapped between words on a terminal, one line in a pipe."""
    console.print(Text(text), soft_wrap=not console.is_terminal)


def table(
    title: str, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], console: Console = out, gap: int = 2
) -> None:
    """Print a table. Columns are (name, `left` or `right`), with `gap` spaces between them."""
    if title:
        console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(grid(columns, rows, gap))


def grid(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], gap: int = 2) -> Table:
    """Return a table without lines. Columns are (name, `left` or `right`), with `gap` spaces between them."""
    made = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for name, side in columns:
        # Folded over several lines; by default rich cuts long cells, such as paths.
        made.add_column(name, justify="right" if side == "right" else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


PLAN_COLUMNS = {
    "batch size": "rows per batch (tasks.NAME.batch_size, training.batch_size)",
    "batches per step": "batches of the task in one optimizer update, averaged over the run",
    "share": "the task's part of all batches of the run",
    "passes over the data": "how often each training row is seen",
    "truncated texts": "training texts longer than encoder.max_length tokens",
}
"""The columns of the mixing plan that need an explanation, in the order in which they are explained."""


def show_plan(plan: "Plan", *, warnings: bool = True, remember: bool = True) -> None:
    """Print the mixing plan with its notes and warnings.

    What its columns mean is explained to each user once; without `remember`, which writes a marker file, every time.
    """
    explain(
        f"{plan.encoder}: {plan.encoder_parameters / 1e6:.1f} M shared parameters, {plan.device} in {plan.precision}; "
        f"scheduler {plan.scheduler}, balancer {plan.balancer}"
    )
    # Broken headers keep the table within 80 columns.
    headers = (
        "rows",
        "dev\nrows",
        "batch\nsize",
        "batches\nper step",
        "share",
        "passes\nover the\ndata",
        "truncated\ntexts",
    )
    table(
        "",
        [("task", ""), ("encoding, head", ""), *((header, "right") for header in headers)],
        [
            (
                task.name, f"{task.encoding}, {task.head}" + (",\nauxiliary" if task.auxiliary else ""), f"{task.rows}",
                "-" if task.auxiliary else f"{task.dev_rows}", f"{task.batch_size}",
                f"{task.batches_per_step:.2f}", f"{100 * task.share:.1f} %", f"{task.passes:.2f}", f"{task.truncated}",
            )
            for task in plan.tasks
        ],
        gap=1,
    )  # fmt: skip
    if not remember or _is_first_time("plan-columns"):
        for column, meaning in PLAN_COLUMNS.items():
            explain(f"  {column}: {meaning}")
    epochs = len(plan.epoch_ends)
    # The last epoch does not count, because --steps can cut it short.
    even = all(end == plan.steps_per_epoch * (1 + index) for index, end in enumerate(plan.epoch_ends[:-1]))
    length = f" of {plan.steps_per_epoch}" if even else ""
    memory = f"; the gradients of each task take {size(plan.rows_buffer_bytes)}" if plan.rows_buffer_bytes else ""
    cost = ""
    if plan.forward_passes or plan.backward_passes:
        cost = f"; regularizers add {plan.forward_passes:g} forward and {plan.backward_passes:g} backward passes to each batch"
    explain(f"{plan.steps} steps in {epochs} epoch{'s' if epochs > 1 else ''}{length}{memory}{cost}")
    for note in plan.notes:
        explain(f"note: {note}")
    for warning in plan.warnings if warnings else ():
        explain(f"warning: {warning}", err)


def _is_first_time(topic: str) -> bool:
    """Return whether `topic` has not been explained to this user before, and remember that it has been.

    An empty file in the cache folder is the memory. Without a cache folder every time is the first.
    """
    from mtlcli.data.tokens import cache_folder

    folder = cache_folder()
    if folder is None:
        return True
    marker = folder / f"explained-{topic}"
    if marker.exists():
        return False
    with suppress(OSError):  # an unwritable cache costs a repeated explanation, not the run
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    return True


def size(count: int) -> str:
    """Format bytes as kB, MB or GB."""
    return (
        f"{count / 1e9:.2f} GB"
        if count >= 1e9
        else f"{count / 1e6:.0f} MB"
        if count >= 1e6
        else f"{count / 1e3:.0f} kB"
    )


def show_results(results: "Mapping[str, Mapping[str, Mapping[str, Estimate]]]", title: str) -> None:
    """Print metrics with their 95 % intervals, the primary metric of each task first.

    The number of groups has a column if rows are grouped anywhere.
    """
    from mtlcli.config.evaluation_sets import in_words

    rows: list[Sequence[str]] = []
    for task, splits in results.items():
        for split, metrics in splits.items():
            if any(len(estimate.sets) == 1 for estimate in metrics.values()):
                continue  # it repeats the set that selects checkpoints
            for index, (metric, estimate) in enumerate(metrics.items()):
                words = f"{split} mean" if estimate.sets else in_words(split)
                first = (task, words) if index == 0 else ("", "")
                interval = f"{estimate.low:.4f} to {estimate.high:.4f}"
                groups = "" if estimate.groups is None else f"{estimate.groups}"
                rows.append((*first, metric, f"{estimate.value:.4f}", interval, f"{estimate.n}", groups))
    columns = [
        ("task", ""), ("split", ""), ("metric", ""), ("value", "right"), ("95 % interval", ""), ("n", "right"), ("groups", "right"),
    ]  # fmt: skip
    show_warnings(results)
    # The column of groups is left out if no row has any.
    width = 7 if any(row[-1] for row in rows) else 6
    table(title, columns[:width], [row[:width] for row in rows])


def show_warnings(results: "Mapping[str, Mapping[str, Mapping[str, Estimate]]]") -> None:
    """Print a line on standard error for every metric that means little on its rows, with the reason."""
    from mtlcli.config.evaluation_sets import in_words

    for task, splits in results.items():
        for split, metrics in splits.items():
            for metric, estimate in metrics.items():
                if estimate.degenerate and not estimate.sets:
                    say(
                        f"warning: {task} {in_words(split)}: {estimate.degenerate}: {metric} is {estimate.value:g}", err
                    )


def show_spreads(group: "Group") -> None:
    """Print mean, deviation and range of every metric over the runs of a group."""
    from mtlcli.config.evaluation_sets import in_words
    from mtlcli.runs.results import read_results
    from mtlcli.runs.seeds import spreads

    rows: list[Sequence[str]] = []
    results = read_results(group.runs[0]).tasks
    for task, splits in spreads(group.runs).items():
        for split, metrics in splits.items():
            # A spread has no sets; those of the first run are the same for all seeds.
            sets = next(iter(results[task][split].values())).sets
            if len(sets) == 1:
                continue  # it repeats the set that selects checkpoints
            for index, (metric, spread) in enumerate(metrics.items()):
                first = (task, f"{split} mean" if sets else in_words(split)) if index == 0 else ("", "")
                span = f"{min(spread.values):.4f} to {max(spread.values):.4f}"
                rows.append((*first, metric, f"{spread.mean:.4f}", f"{spread.deviation:.4f}", span))
    names = ", ".join(map(str, group.seeds))
    columns = [("task", ""), ("split", ""), ("metric", ""), ("mean", "right"), ("deviation", "right"), ("range", "")]
    if rows:
        table(f"{group.folder}: {len(group.seeds)} seeds ({names})", columns, rows)
    say(f"saved in {group.folder}; compare it with: mtl compare OTHER {group.folder}")


class TrainingView:
    """Show the steps of a run on standard error: a bar on a terminal, otherwise a line every twentieth of the run."""

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
        """Move the bar, or print a line at every twentieth of the run."""
        for name, loss in event.losses.items():
            # An exponential mean over about 20 steps, without losses that are NaN (the only number unequal to itself).
            old = self.means.get(name, loss)
            self.means[name] = old + 0.05 * (loss - old) if loss == loss else old
        self.times = [*self.times[-50:], (time.monotonic(), event.step)]
        if self.quiet:
            return
        if self.bar is not None and self.bar_task is not None:
            self.bar.update(self.bar_task, completed=event.step, text=self._text())
        elif event.step % self.every == 0:
            seconds = (self.total - event.step) / max(self.rate(), 1e-9)
            say(f"step {event.step}/{self.total}  {self._text()}  lr {event.lr:.2g}  {seconds:.0f} s left", err)
        if event.skipped:
            say(f"step {event.step}: skipped: a loss or gradient is not finite", err)

    def rate(self) -> float:
        """Return the steps per second over the last fifty steps."""
        (first_time, first), (last_time, last) = self.times[0], self.times[-1]
        return (last - first) / max(1e-9, last_time - first_time)

    def _text(self) -> str:
        losses = " ".join(f"{name} {loss:.3f}" for name, loss in self.means.items())
        # Imported here, because torch would slow down `mtl --help`.
        from mtlcli.devices import peak_memory

        return f"{losses}  {self.rate():.1f} steps/s  {size(peak_memory())}"

    def evaluated(self, event: "Evaluated") -> None:
        """Print the primary metric of every task on one line, of a task with several dev sets their mean and each of them."""
        if self.quiet:
            return
        # The rate of steps does not include the time of the evaluation.
        self.times = [(time.monotonic(), event.step)]
        scores = "  ".join(
            f"{task} {metric} {value:.4f}{_of_sets(event.sets.get(task, {}), metric)}"
            for task, metrics in event.metrics.items()
            for metric, value in list(metrics.items())[:1]
        )
        best = "" if event.score is None else f"  score {event.score:.4f}{' (best so far)' if event.is_best else ''}"
        explain(f"epoch {event.epoch + 1}, step {event.step}: {scores}{best}", err)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()


def _of_sets(sets: Mapping[str, Mapping[str, float]], metric: str) -> str:
    """Return a metric on each of several dev sets in parentheses: ` (matched 0.8312, mismatched 0.8290)`."""
    return f" ({', '.join(f'{name} {values[metric]:.4f}' for name, values in sets.items())})" if sets else ""


class RowsView:
    """A bar on standard error with the rows predicted and their rate; nothing where that is no terminal."""

    def __init__(self, total: int | None, *, quiet: bool) -> None:
        self._bar: Progress | None = None
        if not quiet and err.is_terminal:
            count = "{task.completed:.0f}" + ("/{task.total:.0f}" if total is not None else "") + " rows"
            self._bar = Progress(
                TextColumn(count), BarColumn(None), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(compact=True),
                console=err, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("predict", total=total, rate="")
        self._start = time.monotonic()
        self._done = 0.0

    def __enter__(self) -> "RowsView":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, rows: float) -> None:
        """Move the bar on by this number of rows."""
        self._done += rows
        if self._bar is not None:
            rate = self._done / max(1e-9, time.monotonic() - self._start)
            self._bar.update(self._task, completed=self._done, rate=f"{rate:.0f} rows/s")
