"""Implement `mtl study`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.console import TrainingView, err, explain, say, table
from mtlcli.cli.options import RunOptions
from mtlcli.errors import MtlError, one_of

if TYPE_CHECKING:
    from mtlcli.studies.plan import StudyPlan
    from mtlcli.studies.results import Record, Study

FORMATS = ("text", "markdown")
NOT_OF_A_STUDY = ("balancer", "regularizer", "seed", "seeds", "patience", "output", "resume", "overwrite")
"""Options that the methods and the study itself set."""


@options.takes_run_options(*NOT_OF_A_STUDY)
def study(
    run: RunOptions,
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHODS",
            help="Names of balancers, gradient regularizers, schedulers, regularizers and architectures, joined by +; FAMILY:NAME "
            "if several families have the name; or recipe files with a method's changes",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="N,N,...", help="Seeds of the runs")] = "1,2,3",
    single_task: Annotated[
        bool, typer.Option("--single-task/--no-single-task", help="Also train every task alone")
    ] = True,
    tuned: Annotated[bool, typer.Option("--tuned/--no-tuned", help="Also tune static weights")] = True,
    trials: Annotated[int, typer.Option(min=1, help="Number of static weightings to try")] = 4,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the study [default: studies/TASKS-TIME]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the study in --output")] = False,
    show: Annotated[
        Path | None,
        typer.Option("--table", metavar="STUDY", help="Print the table of this study.json without training"),
    ] = None,
    table_format: Annotated[str, typer.Option("--format", help="Format of the table: text or markdown")] = "text",
) -> None:
    """Compare methods: one recipe with several methods and seeds, under equal steps.

    Every run makes the same number of optimizer updates and evaluations. The baselines are single-task training of each task,
    and tuned static weights. Prints the mean and spread of each task's metric over the seeds, the mean gain over single-task
    training and the time of a step. The same command with the same --output resumes the study; methods and seeds can be added.

    Example: mtl study equal pcgrad -t sst -t quora --sample --steps 300 --seeds 1,2 -o studies/first
    """
    if table_format not in FORMATS:
        raise MtlError(f'--format: found "{table_format}"; expected {" or ".join(FORMATS)}')
    from mtlcli.studies.results import read_study

    if show is not None:
        _show_table(read_study(show), table_format)
        return
    if not methods:
        raise MtlError("METHODS: name at least one: mtl study equal pcgrad uncertainty+gradvac scheduler:annealed")
    from mtlcli.cli.session import own_folder
    from mtlcli.data.tokens import cache_folder
    from mtlcli.runs.seeds import parse_seeds
    from mtlcli.studies.methods import find_methods
    from mtlcli.studies.plan import plan_study
    from mtlcli.studies.run import check_study_folder, open_study

    config = run.configure()
    new = Path("studies") / f"{'-'.join(config.tasks)}-{time.strftime('%Y%m%d-%H%M%S')}"
    with own_folder(output, new, check_study_folder) as folder:
        plan = plan_study(
            config, find_methods(methods), parse_seeds(seeds), single_task=single_task, trials=trials if tuned else 0,
            cache=cache_folder(),
        )  # fmt: skip
        if remaining := open_study(plan, folder, overwrite=overwrite):
            say(f"{folder}: kept, because no study wrote it: {one_of(remaining)}", err)
        if not run.quiet:
            _show_plan(plan, folder)
        _run(plan, folder, run.quiet)
    _show_table(plan.study, table_format)
    # After the table, which shows the other runs; the command still exits with code 2.
    if failed := [record for record in plan.study.records if record.error]:
        raise MtlError(*(f"{record.place}: {record.error}" for record in failed))


def _show_plan(plan: "StudyPlan", folder: Path) -> None:
    done = sum(1 for job in plan.jobs if plan.study.record(job.place) is not None)
    study, count = plan.study, len(plan.jobs)
    say(
        f"{count} run{'s' if count > 1 else ''} of {study.steps} steps in epochs of {study.steps_per_epoch} on {study.device}"
        f"{f'; {done} done' if done else ''}; in {folder}"
    )
    for note in plan.notes:
        explain(f"note: {note}")


def _run(plan: "StudyPlan", folder: Path, quiet: bool) -> None:
    """Run the study and print a line for each run. Exit with 128 + signal if interrupted."""
    from mtlcli.cli.session import command_line, make_interrupts
    from mtlcli.studies.run import Interrupted, RunEnded, RunStarted, run_study
    from mtlcli.training.events import Notice, Started, Stepped

    view: TrainingView | None = None
    with make_interrupts() as interrupts:
        try:
            for event in run_study(plan, folder, command=command_line(), stop=interrupts.requested):
                match event:
                    # In a log, the line at the end of the run is enough.
                    case RunStarted():
                        if not quiet and err.is_terminal:
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
                        if not quiet and not event.reused:
                            say(f"{event.number}/{event.total} {_line(event.record, plan.study)}", err)
                    case Interrupted():
                        done = f"{event.done} of {event.total} runs done"
                        # The default folder's name has the time, so the same command alone would start a new study.
                        say(f"stopped with {done}; resume with the same command and --output {folder}")
        finally:
            if view:
                view.close()
        if interrupts.signal is not None:
            raise typer.Exit(128 + interrupts.signal)


def _line(record: "Record", study: "Study") -> str:
    """Describe a finished run in one line."""
    if record.error:
        return f"{record.place}: failed: {record.error}"
    scores = [
        f"{task} {metrics[study.tasks[task].metric]:.4f}"
        for task, metrics in record.metrics.items()
        if task in study.tasks
    ]
    seconds = [] if record.step_seconds is None else [f"{1e3 * record.step_seconds:.3g} ms per step"]
    return f"{record.place}: {'  '.join([*scores, *seconds])}"


def _show_table(study: "Study", table_format: str) -> None:
    from mtlcli.studies.results import cells, legend, markdown

    if table_format == "markdown":
        print(markdown(study))
        return
    columns, rows = cells(study)
    table("", columns, rows)
    for line in legend(study):
        explain(line)
