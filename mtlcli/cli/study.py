"""`mtl study`."""

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.console import TrainingView, err, explain, say, table
from mtlcli.cli.interrupts import Interrupts
from mtlcli.errors import MtlError

if TYPE_CHECKING:
    from mtlcli.studies.plan import StudyPlan
    from mtlcli.studies.results import Record, Study

FORMATS = ("text", "markdown")


def study(
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHODS",
            help="Balancers, gradient regularizers, schedulers, regularizers and architectures by name, joined by +, with "
            "FAMILY: before a name where it is needed; or recipe files that say what a method changes.",
        ),
    ] = None,
    task: options.Tasks = None,
    config: options.ConfigFile = None,
    data: options.Data = None,
    sample: options.Sample = False,
    encoder: options.Encoder = None,
    init: options.Init = None,
    pooling: options.Pooling = None,
    max_length: options.MaxLength = None,
    scheduler: options.SchedulerName = None,
    epochs: options.Epochs = None,
    steps: options.Steps = None,
    batch_size: options.BatchSize = None,
    micro_batches: options.MicroBatches = None,
    lr: options.Lr = None,
    head_lr: options.HeadLr = None,
    select_by: options.SelectBy = None,
    precision: options.Precision = None,
    device: options.Device = None,
    on_bad_row: options.OnBadRow = None,
    sets: options.Set = None,
    seeds: Annotated[str, typer.Option(metavar="N,N,...", help="Seeds of the runs.")] = "1,2,3",
    single_task: Annotated[
        bool, typer.Option("--single-task/--no-single-task", help="Also train every task alone.")
    ] = True,
    tuned: Annotated[bool, typer.Option("--tuned/--no-tuned", help="Also tune static weights.")] = True,
    trials: Annotated[int, typer.Option(min=1, help="Choices of static weights to try.")] = 4,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder of the study. [default: studies/TASKS-TIME]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the study in --output.")] = False,
    show: Annotated[
        Path | None, typer.Option("--table", metavar="STUDY", help="Train nothing: print the table of this study.json.")
    ] = None,
    table_format: Annotated[str, typer.Option("--format", help="text or markdown: how the table is printed.")] = "text",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Compare methods: one recipe over several of them and several seeds, under equal steps.

    Every run makes the same number of optimizer updates and evaluations. Beside the methods it trains each task alone and tuned
    static weights. Prints the mean of each task's metric with its spread over the seeds, the mean gain over single-task training
    and the time of a step. Started again with the same --output it goes on, and may be given more methods and seeds.

    Example: mtl study equal pcgrad -t sst -t quora --sample --steps 300 --seeds 1,2 -o studies/first
    """
    flags = {name: value for name, value in locals().items() if name in options.FLAGS}
    if table_format not in FORMATS:
        raise MtlError(f'--format: found "{table_format}"; expected {" or ".join(FORMATS)}')
    from mtlcli.studies.results import read_study

    if show is not None:
        _show_table(read_study(show), table_format)
        return
    if not methods:
        raise MtlError("METHODS: which methods? such as: mtl study equal pcgrad uncertainty+gradvac scheduler:annealed")
    from mtlcli.data.tokens import cache_folder
    from mtlcli.runs.seeds import parse_seeds
    from mtlcli.studies.methods import find_methods
    from mtlcli.studies.plan import plan_study
    from mtlcli.studies.run import open_study

    chosen = options.configure(config, task, sample, None, on_bad_row, sets, flags)
    folder = output or Path("studies") / f"{'-'.join(chosen.tasks)}-{time.strftime('%Y%m%d-%H%M%S')}"
    plan = plan_study(
        chosen, find_methods(methods), parse_seeds(seeds), single_task=single_task, trials=trials if tuned else 0,
        cache=cache_folder(),
    )  # fmt: skip
    open_study(plan, folder, overwrite=overwrite)
    if not quiet:
        _show_plan(plan, folder)
    _run(plan, folder, quiet)
    _show_table(plan.study, table_format)
    if failed := [one for one in plan.study.records if one.error]:
        raise MtlError(*(f"{one.place}: {one.error}" for one in failed))


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
    """Runs the study with a line for each run. Exits where it is interrupted."""
    from mtlcli.data.tokens import cache_folder
    from mtlcli.studies.run import Interrupted, RunEnded, RunStarted, run_study
    from mtlcli.training.events import Started, Stepped

    view: TrainingView | None = None
    command = shlex.join(["mtl", *sys.argv[1:]])
    with Interrupts() as interrupts:
        try:
            for event in run_study(plan, folder, command=command, cache=cache_folder(), stop=interrupts.asked):
                match event:
                    case RunStarted():
                        if not quiet and err.is_terminal:
                            say(f"{event.number}/{event.total} {event.job.place}", err)
                    case Started(plan=found):
                        view = TrainingView(found.steps, found.first_step, quiet or not err.is_terminal)
                    case Stepped() if view:
                        view.stepped(event)
                    case RunEnded():
                        if view:
                            view.close()
                        if not quiet and not event.reused:
                            say(f"{event.number}/{event.total} {_line(event.record, plan.study)}", err)
                    case Interrupted():
                        say(
                            f"stopped with {event.done} of {event.total} runs done; the same command with --output {folder} goes on"
                        )
        finally:
            if view:
                view.close()
        if interrupts.signal is not None:
            raise typer.Exit(128 + interrupts.signal)


def _line(record: "Record", study: "Study") -> str:
    """One finished run."""
    if record.error:
        return f"{record.place}: failed: {record.error}"
    found = [
        f"{task} {metrics[study.tasks[task].metric]:.4f}"
        for task, metrics in record.metrics.items()
        if task in study.tasks
    ]
    seconds = [] if record.step_seconds is None else [f"{1e3 * record.step_seconds:.3g} ms a step"]
    return f"{record.place}: {'  '.join([*found, *seconds])}"


def _show_table(study: "Study", table_format: str) -> None:
    from mtlcli.studies.results import cells, legend, markdown

    if table_format == "markdown":
        print(markdown(study))
        return
    columns, rows = cells(study)
    table("", columns, rows)
    for line in legend(study):
        explain(line)
