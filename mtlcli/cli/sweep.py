"""Implement `mtl sweep`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.console import err, explain, say, table
from mtlcli.cli.options import RunOptions
from mtlcli.errors import MtlError, one_of

if TYPE_CHECKING:
    from mtlcli.config.schema import Config
    from mtlcli.sweeps.plan import SweepPlan
    from mtlcli.sweeps.results import Sweep
    from mtlcli.sweeps.run import SweepWorker

NOT_OF_A_SWEEP = ("seeds", "output", "resume", "overwrite")
"""Options that the sweep itself sets."""
# Rows of the table; `mtl report` shows all trials.
SHOWN = 20


@options.takes_run_options(*NOT_OF_A_SWEEP)
def sweep(
    run: RunOptions,
    space: Annotated[
        Path | None,
        typer.Option("--space", metavar="FILE", help="File in YAML that names the keys that vary, and their values"),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials of the sweep, of all workers together")] = 20,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the sweep [default: sweeps/TASKS-TIME]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in --output, or join its workers")
    ] = False,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="Database that keeps the trials [default: a file in --output]")
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK.METRIC",
            help="Metric on dev to improve. Repeat it for several, of which the front is searched "
            "[default: --select-by]",
        ),
    ] = None,
    sampler: Annotated[str, typer.Option(help="tpe, which learns from the trials, or random")] = "tpe",
    pruning: Annotated[
        bool, typer.Option("--pruning/--no-pruning", help="Stop trials that fall behind after an evaluation")
    ] = True,
    confirm_seeds: Annotated[
        int,
        typer.Option(min=0, help="Number of new seeds to train the best trials and the recipe with, for a comparison"),
    ] = 0,
    best: Annotated[int, typer.Option(min=1, help="Trials to train again with --confirm-seeds")] = 3,
    holdout: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.9,
            help="Share of the dev rows that takes no part in the choice, and on which --confirm-seeds compares",
        ),
    ] = 0.0,
    show: Annotated[
        Path | None, typer.Option("--table", metavar="SWEEP", help="Print the table of this folder without training")
    ] = None,
) -> None:
    """Search over the settings of a recipe: each trial is an ordinary run.

    Several workers, also on several machines with a common disk, run the same command with the same --output and --resume. A worker that
    ends loses nothing: its trial resumes from its last checkpoint. best.yaml in the folder is the recipe of the best trial.

    Example: mtl sweep --config recipe.yaml --space space.yaml --trials 40 -o sweeps/first
    """
    from mtlcli.sweeps.plan import SAMPLERS, plan_sweep
    from mtlcli.sweeps.results import read_sweep

    if show is not None:
        _show(read_sweep(show))
        return
    if space is None:
        raise MtlError("--space: name the file of the keys that vary, such as --space space.yaml")
    if sampler not in SAMPLERS:
        raise MtlError(f'--sampler: found "{sampler}": expected one of {one_of(SAMPLERS)}')
    if resume and output is None:
        raise MtlError("--resume: name the folder of the sweep with --output")
    from mtlcli.sweeps.run import SweepWorker
    from mtlcli.sweeps.space import read_space

    base = run.configure()
    plan = plan_sweep(
        base, read_space(space, base), trials=trials, objectives=objective or (), directions=_directions(base, objective or ()),
        sampler=sampler, prunes=pruning, storage=storage, holdout=holdout,
    )  # fmt: skip
    folder = output or Path("sweeps") / f"{'-'.join(base.tasks)}-{time.strftime('%Y%m%d-%H%M%S')}"
    # Before SweepWorker, which creates the folder and the storage.
    _check_folder(folder, resume=resume)
    worker = SweepWorker(plan, folder, resume=resume)
    if not run.quiet:
        say(
            f"{trials} trials of {one_of(d.key for d in plan.space.dimensions)} by {one_of(plan.objectives)}; in {folder}"
        )
        for note in plan.notes:
            explain(f"note: {note}")
    _run(worker, run.quiet)
    searched = worker.write()
    _show(searched)
    # One worker only, and only when no running trial can become one of the best.
    if confirm_seeds and worker.is_last():
        _confirm(searched, plan, confirm_seeds, best, run.quiet)
    elif confirm_seeds:
        say("other workers still train; the last one trains the best trials again")
    if failed := [trial for trial in searched.trials if trial.state == "failed"]:
        raise MtlError(*(f"{folder / trial.place}: {trial.error}" for trial in failed))


def _directions(base: "Config", objectives: Sequence[str]) -> list[str]:
    """Return for each objective whether more is better; a metric that no task of the recipe has is an error."""
    from mtlcli.evaluation.measure import make_metrics, metrics_of
    from mtlcli.facts import TaskFacts

    directions, errors = [], []
    for name in objectives:
        task, _, metric = name.partition(".")
        if task not in base.tasks or not metric:
            errors.append(f"--objective {name}: expected TASK.METRIC with a task of {one_of(base.tasks)}")
            continue
        section = base.tasks[task]
        made = section.make(task)
        # No rows are read yet; the direction of a metric does not depend on them.
        facts = TaskFacts(task, 0, 0, made.target)
        metrics = make_metrics(metrics_of(section, made, made.target), facts, f"tasks.{task}.metrics", "fp32")
        if metric not in metrics:
            errors.append(f"--objective {name}: {task} has the metrics {one_of(metrics)}")
            continue
        directions.append("maximize" if metrics[metric].higher_is_better else "minimize")
    if errors:
        raise MtlError(*errors)
    return directions


def _check_folder(folder: Path, *, resume: bool) -> None:
    from mtlcli.runs.folder import is_free
    from mtlcli.sweeps.results import SWEEP

    if folder.exists() and not folder.is_dir():
        raise MtlError(f"--output: {folder} is a file; expected a folder")
    if (folder / SWEEP).is_file():
        if not resume:
            raise MtlError(f"--output: {folder} holds a sweep: add --resume to go on with it or to join its workers")
    elif not is_free(folder):
        raise MtlError(f"--output: {folder} is not the folder of a sweep; choose another folder")


def _run(worker: "SweepWorker", quiet: bool) -> None:
    """Run the trials of this worker. Exit with 128 + signal if interrupted."""
    from mtlcli.cli.session import command_line, make_interrupts
    from mtlcli.cli.sweep_view import SweepView

    with make_interrupts() as interrupts:
        with SweepView(worker, quiet) as view:
            for event in worker.run(command=command_line(), stop=interrupts.requested):
                view.show(event)
        if view.stopped is not None:
            say(
                f"stopped with {view.stopped.ended} of {view.stopped.total} trials ended; go on with the same command, --resume and "
                f"--output {worker.folder}"
            )
        if interrupts.signal is not None:
            # With the trials that have ended so far.
            worker.write()
            raise typer.Exit(128 + interrupts.signal)


def _show(searched: "Sweep") -> None:
    """Print the best trials, and what is known of the keys."""
    from mtlcli.sweeps.results import BEST, cells

    columns, rows = cells(searched, SHOWN)
    table("", columns, rows)
    if len(searched.trials) > SHOWN:
        explain(f"{len(searched.trials) - SHOWN} more trials: mtl report {searched.folder}")
    if searched.importance:
        explain("importance: " + ", ".join(f"{key} {share:.2f}" for key, share in searched.importance.items()))
    if len(searched.objectives) > 1:
        say(f"front: {one_of(trial.place for trial in searched.front())}")
    if searched.done:
        best = searched.done[0]
        say(
            f"best: {best.place}, {searched.objectives[0]} {best.scores[0]:.4f}; its recipe is {searched.folder / BEST}"
        )
        explain(
            "these dev rows have chosen the best of several trials, so its score on them is too high; --confirm-seeds trains it again on "
            "other seeds and compares it with the recipe"
        )


def _confirm(searched: "Sweep", plan: "SweepPlan", seeds: int, best: int, quiet: bool) -> None:
    from mtlcli.cli.compare import show_comparison
    from mtlcli.cli.session import command_line, make_interrupts
    from mtlcli.evaluation.compare import compare
    from mtlcli.sweeps.confirm import Confirmed, confirm
    from mtlcli.sweeps.holdout import CONFIRMING
    from mtlcli.training.events import Finished, Started

    places: Confirmed | None = None
    with make_interrupts() as interrupts:
        for event in confirm(
            searched, plan.base, plan.space, seeds=seeds, best=best, command=command_line(), stop=interrupts.requested
        ):
            if isinstance(event, Confirmed):
                places = event
            elif isinstance(event, Started) and not quiet:
                say(f"{event.folder}: starts", err)
            elif isinstance(event, Finished) and not quiet and event.score is not None:
                say(f"{event.folder}: {event.score:.4f}", err)
        if interrupts.signal is not None:
            raise typer.Exit(128 + interrupts.signal)
    if places is None or not places.trials:
        say("the best trial is the recipe itself: there is nothing to compare")
        return
    # As in `mtl compare`.
    resamples = 2000
    # With --holdout, `base` is a copy of the recipe whose dev rows are divided.
    is_held_out = plan.base is not plan.recipe
    comparison = compare(
        [places.recipe, *places.trials], split=CONFIRMING if is_held_out else "dev", resamples=resamples
    )
    for note in comparison.notes:
        explain(f"note: {note}")
    show_comparison(comparison, resamples)
    if is_held_out:
        explain("the rows took no part in the choice of the trials")
    else:
        explain("the rows are those that chose the trials, so that an advantage of theirs is still a little too large")
