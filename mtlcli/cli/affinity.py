"""Implement `mtl affinity`."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.console import TrainingView, err, explain, say, size, table
from mtlcli.cli.options import RunOptions
from mtlcli.errors import MtlError, one_of

if TYPE_CHECKING:
    from mtlcli.affinity.plan import AffinityPlan
    from mtlcli.affinity.results import Affinity
    from mtlcli.affinity.run import Event

NOT_OF_AN_AFFINITY = (
    "balancer",
    "scheduler",
    "regularizer",
    "seed",
    "seeds",
    "patience",
    "select_by",
    "output",
    "resume",
    "overwrite",
)
"""Options that the measurement itself sets."""
BUDGETS = ("rows", "compute")
LONG = 60.0
"""Minutes from which the command asks before it starts."""


@options.takes_run_options(*NOT_OF_AN_AFFINITY)
def affinity(
    run: RunOptions,
    measures: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="What to measure: data, gradients, lookahead, logme, gain, transfer; all but transfer by default",
        ),
    ] = "data,gradients,lookahead,logme,gain",
    updates: Annotated[
        int, typer.Option(min=10, help="Updates of the joint run for gradients and lookahead; --steps is for gains")
    ] = 200,
    batches: Annotated[int, typer.Option(min=3, help="Most batches of each task in a gradient")] = 100,
    seeds: Annotated[str, typer.Option(metavar="N,N,...", help="Seeds of the runs that measure gains")] = "1,2,3",
    models: Annotated[int, typer.Option(min=1, help="Number of models to propose groups of tasks for")] = 2,
    budget: Annotated[
        str, typer.Option(help="Length of a run on two tasks: rows (updates as alone) or compute (batches as alone)")
    ] = "rows",
    confirm: Annotated[
        bool,
        typer.Option("--confirm", help="Train the proposed groups, one model and single tasks again, with other seeds"),
    ] = False,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Keep the weights of runs on pairs")] = False,
    cost_only: Annotated[bool, typer.Option("--cost", help="Print the cost and stop")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking, however long it takes")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder [default: affinity/TASKS-TIME]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the measurement in --output")] = False,
) -> None:
    """Measure which tasks help each other, and propose groups of tasks to train together.

    Prints the cost first. Measures words, labels and rows in common, gradient cosines by layer, lookahead affinity, and the gain of
    every pair over training alone, and says how well the cheap measures predict the gains. Writes affinity.json and
    affinity.html. The same command with the same --output goes on where it stopped; measures and seeds can be added.

    Example: mtl affinity -t sst -t quora -t sts --sample --updates 40 --steps 40 --seeds 1,2 -o affinity/first
    """
    # Before the imports, which take seconds.
    if budget not in BUDGETS:
        raise MtlError(f'--budget: found "{budget}"; expected {" or ".join(BUDGETS)}')
    from mtlcli.affinity.plan import Options, check_folder, parse_measures, plan_affinity, remove_affinity
    from mtlcli.cli.session import own_folder
    from mtlcli.data.tokens import cache_folder
    from mtlcli.runs.seeds import parse_seeds

    wanted = Options(
        parse_measures(measures),
        updates,
        batches,
        tuple(parse_seeds(seeds)),
        models,
        # Literals, because a type checker sees any text in `budget`.
        "rows" if budget == "rows" else "compute",
        keep_models,
        confirm,
    )
    config = run.configure()
    new = Path("affinity") / f"{'-'.join(config.tasks)}-{time.strftime('%Y%m%d-%H%M%S')}"
    with own_folder(output, new, check_folder) as folder:
        # Under the lock, so that no other process changes the folder between the plan and the measurement.
        plan = plan_affinity(
            config, wanted, folder, cache=cache_folder(), tell=lambda line: None if run.quiet else say(line, err)
        )
        if not run.quiet or cost_only:
            _show_cost(plan, folder)
        if cost_only:
            return
        _ask(plan, yes)
        if overwrite and (remaining := remove_affinity(folder)):
            say(f"{folder}: kept, because mtl affinity did not write it: {one_of(remaining)}", err)
        _measure(plan, folder, run.quiet)


def _show_cost(plan: "AffinityPlan", folder: Path) -> None:
    cost = plan.cost
    rows = [
        (line.what, f"{line.runs or '-'}", f"{line.updates or '-'}", f"{line.seconds / 60:.1f}") for line in cost.lines
    ]
    table("", [("cost", ""), ("runs", "right"), ("updates", "right"), ("minutes", "right")], rows)
    times = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in cost.step_seconds.items())
    explain(
        f"{cost.seconds / 60:.1f} minutes on {plan.run.device} in all, if nothing is done yet, and {size(cost.disk)} in {folder}; "
        f"forward and backward pass of a batch: {times}"
    )


def _ask(plan: "AffinityPlan", yes: bool) -> None:
    """Ask before a measurement of more than an hour, on a terminal. Raise typer.Exit for no."""
    minutes = plan.cost.seconds / 60
    if minutes > LONG and not yes and sys.stdin.isatty() and not typer.confirm("Start?", default=True, err=True):
        raise typer.Exit(0)


def _measure(plan: "AffinityPlan", folder: Path, quiet: bool) -> None:
    """Measure, write the summary, and print it. Exit with 128 + signal if interrupted."""
    from mtlcli.affinity.page import affinity_page
    from mtlcli.affinity.plan import open_units
    from mtlcli.affinity.results import PAGE, SUMMARY, write_affinity
    from mtlcli.affinity.run import confirm_groups, measure_affinity
    from mtlcli.affinity.summary import summarize
    from mtlcli.cli.session import command_line, make_interrupts
    from mtlcli.files import write_whole

    units = open_units(plan, folder)
    with make_interrupts() as interrupts:
        events = measure_affinity(plan, folder, units, command=command_line(), stop=interrupts.requested)
        failed = _follow(events, quiet)
        result = summarize(plan, folder, units)
        if plan.options.confirm and result.proposal is not None and not interrupts.requested():
            events = confirm_groups(
                plan, folder, result.proposal.groups, command=command_line(), stop=interrupts.requested
            )
            failed += _follow(events, quiet)
            # Again, to include the runs that confirm the groups.
            result = summarize(plan, folder, units)
    # Also after an interruption, so that the page shows what was measured so far.
    write_affinity(result, folder)
    write_whole(folder / PAGE, affinity_page(result))
    if interrupts.signal is not None:
        say(f"stopped; go on with the same command and --output {folder}")
        raise typer.Exit(128 + interrupts.signal)
    _show(result)
    say(f"wrote {folder / SUMMARY} and {folder / PAGE}")
    if failed:
        # After the tables, which cover the other runs; the command still exits with code 2.
        raise MtlError(*failed)


def _follow(events: Iterable["Event"], quiet: bool) -> list[str]:
    """Print what is measured; return a line for each run that failed."""
    from mtlcli.affinity.run import Doing
    from mtlcli.studies.run import RunEnded, RunStarted
    from mtlcli.training.events import Notice, Started, Stepped

    view: TrainingView | None = None
    failed = []
    try:
        for event in events:
            match event:
                case Doing(text=text) if not quiet:
                    say(text, err)
                # In a log, the line at the end of the run is enough.
                case RunStarted() if not quiet and err.is_terminal:
                    say(f"{event.number}/{event.total} {event.job.place}", err)
                case Started(plan=run_plan):
                    view = TrainingView(run_plan.steps, run_plan.first_step, quiet or not err.is_terminal)
                case Stepped() if view:
                    view.stepped(event)
                case Notice(text=text, is_warning=True):
                    say(f"warning: {text}", err)
                case RunEnded():
                    if view:
                        view.close()
                    if event.record.error:
                        failed.append(f"{event.record.place}: {event.record.error}")
                    elif not quiet and not event.reused:
                        say(f"{event.number}/{event.total} {event.record.place}", err)
    finally:
        # Also after an error, which the bar would overwrite.
        if view:
            view.close()
    return failed


def _show(result: "Affinity") -> None:
    """Print label statistics, every matrix, the groups and the predictions."""
    from mtlcli.affinity.page import digits_of, interval, number

    rows = [
        (
            name,
            f"{of_task.rows}",
            number(of_task.normalized_entropy),
            number(of_task.share_kurtosis),
            number(of_task.score_kurtosis),
        )
        for name, of_task in result.labels.items()
    ]
    head = ["labelled\nrows", "entropy /\nlog2 C", "kurtosis\nof shares", "excess kurtosis\nof scores"]
    table("", [("task", ""), *((name, "right") for name in head)], rows)
    for measure in result.measures:
        if measure.name.startswith("gradient-cosine "):
            continue  # by layer: on the page
        reliability = "" if measure.reliability is None else f"; reliability {measure.reliability:.2f}"
        digits = digits_of(measure)
        body = [
            (name, *("" if cell is None else _short(cell.value, cell.low, cell.high, digits) for cell in row))
            for name, row in zip(result.tasks, measure.cells, strict=True)
        ]
        table(
            f"{measure.name}: {measure.title}{reliability}",
            [("for:", ""), *((name, "right") for name in result.tasks)],
            body,
        )
    if result.proposal is not None:
        proposal = result.proposal
        groups = "; ".join(
            f"{' + '.join(group)}{'' if group == served else f' (for {one_of(served)})'}"
            for group, served in zip(proposal.groups, proposal.served, strict=True)
        )
        share = "" if proposal.share is None else f", the same in {100 * proposal.share:.0f} % of draws"
        explain(f"groups for {proposal.models} models by {proposal.source}: {groups}{share}")
        for name, cell in proposal.confirmed.items():
            explain(f"trained again, {name}: mean gain {interval([cell.value, cell.low, cell.high], 1)} %")
    if result.predictions:
        table(
            "Spearman's rho with the measured gains",
            [("measure", ""), ("all pairs", "right"), ("within receivers", "right"), ("ceiling", "right")],
            [(row.measure, interval(row.rho), interval(row.within), number(row.ceiling)) for row in result.predictions],
        )
    for line in (*result.leaks, *result.warnings):
        explain(f"warning: {line}", err)
    explain(result.verdict)


def _short(value: float | None, low: float | None, high: float | None, digits: int) -> str:
    """Return `+0.32 ±0.19`, or `-` without a value."""
    if value is None:
        return "-"
    reach = "" if low is None or high is None else f" ±{(high - low) / 2:.{digits}f}"
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:.{digits}f}{reach}"
