"""`mtl train`."""

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mtlcli.cli import options
from mtlcli.cli.console import TrainingView, err, say, show_plan, show_results
from mtlcli.cli.interrupts import Interrupts

if TYPE_CHECKING:
    from mtlcli.checkpoint import Checkpoint
    from mtlcli.config import Config
    from mtlcli.events import Finished
    from mtlcli.preparing import Prepared
    from mtlcli.recipes import Layer


def train(
    task: options.Tasks = None,
    config: options.ConfigFile = None,
    data: options.Data = None,
    sample: options.Sample = False,
    init: options.Init = None,
    encoder: options.Encoder = None,
    pooling: options.Pooling = None,
    max_length: options.MaxLength = None,
    scheduler: options.SchedulerName = None,
    balancer: options.BalancerName = None,
    regularizer: options.Regularizers = None,
    epochs: options.Epochs = None,
    steps: options.Steps = None,
    batch_size: options.BatchSize = None,
    micro_batches: options.MicroBatches = None,
    lr: options.Lr = None,
    head_lr: options.HeadLr = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    select_by: options.SelectBy = None,
    patience: options.Patience = None,
    precision: options.Precision = None,
    device: options.Device = None,
    on_bad_row: options.OnBadRow = None,
    sets: options.Set = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run folder. [default: runs/TASKS-METHOD-TIME]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output; start it if there is none.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --output.")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train one encoder on several tasks.

    Example: mtl train --task sst --task quora --task sts --balancer pcgrad --sample --output runs/demo
    """
    flags = {name: value for name, value in locals().items() if name in options.FLAGS}

    def configure(base: "Layer | None", resumed: "Layer | None") -> "Config":
        return options.configure(config, task, sample, balancer, on_bad_row, sets, flags, base, resumed)

    from mtlcli.cli.seeds import is_group, train_seeds
    from mtlcli.errors import MtlError
    from mtlcli.run_folder import stored_layer
    from mtlcli.training import open_folder

    if seeds is not None or (resume and output is not None and is_group(output)):
        if seed is not None or any(text.partition("=")[0].strip() == "training.seed" for text in sets or ()):
            raise MtlError("--seeds runs once for each seed: leave --seed and training.seed out")
        again = config is None  # a recipe given again is the whole configuration, to be compared
        train_seeds(seeds, output, configure, resume=resume, overwrite=overwrite, again=again, quiet=quiet)
        return
    if resume and output is None:
        raise MtlError("--resume: which run? name its folder with --output")
    if output is not None:
        found = open_folder(output, resume=resume, overwrite=overwrite)
    stored = stored_layer(output) if resume and output is not None else None
    base = stored if config is None else None  # a recipe given again is the whole configuration, to be compared
    resumed = stored if output is not None and found is not None else None
    chosen = configure(base, resumed)
    if output is None:
        output, found = default_output(chosen), None
    if found is not None and stored is not None:
        tell_changes(stored, chosen, output, quiet)
    start = time.monotonic()
    prepared = prepare_run(chosen, found, quiet)
    with Interrupts() as interrupts:
        run(prepared, output, found, start, interrupts.asked, quiet)
        if interrupts.signal is not None:
            raise typer.Exit(128 + interrupts.signal)


def tell_changes(stored: "Layer", chosen: "Config", folder: Path, quiet: bool) -> bool:
    """Says what differs from the run that goes on in a folder, and returns whether anything does. Raises MtlError for what
    may not."""
    from mtlcli.resuming import check_unchanged
    from mtlcli.shorthands import absolute_paths

    before = options.configure(None, None, False, None, None, None, {}, absolute_paths(stored, folder), stored)
    changes = check_unchanged(before, chosen)
    for line in changes:
        say(f"note: {line}", _console(quiet))
    return bool(changes)


def prepare_run(chosen: "Config", found: "Checkpoint | None", quiet: bool) -> "Prepared":
    """Everything that comes before step 1, of a new run or one that goes on."""
    from mtlcli.data.encoding import cache_folder
    from mtlcli.preparing import prepare

    return prepare(
        chosen, encoder_from=found.folder / "encoder" if found is not None else None, cache=cache_folder(),
        first_step=found.step if found is not None else 0, tell=lambda line: say(line, _console(quiet)),
    )  # fmt: skip


def run(
    prepared: "Prepared", folder: Path, found: "Checkpoint | None", start: float, stop: Callable[[], bool], quiet: bool,
    group: Path | None = None,
) -> None:  # fmt: skip
    """Trains, and shows how. Of a run in a `group` neither plan nor results are shown, and it goes on with its group."""
    from mtlcli.events import Evaluated, Finished, Notice, Saved, Started, Stepped
    from mtlcli.training import train as run_training

    view: TrainingView | None = None
    command = shlex.join(["mtl", *sys.argv[1:]])
    try:
        for event in run_training(prepared, folder, command=command, resume_from=found, stop=stop):
            match event:
                case Started(plan=plan):
                    if not quiet and group is None:
                        show_plan(plan)
                    view = TrainingView(plan.steps, plan.first_step, quiet)
                case Stepped() if view:
                    view.stepped(event)
                case Evaluated() if view:
                    view.evaluated(event)
                case Notice(text=text):
                    say(text, _console(quiet))
                case Saved():
                    pass
                case Finished():
                    if view:
                        view.close()
                    _show_end(event, folder, time.monotonic() - start, group)
    finally:
        if view:
            view.close()


def _console(quiet: bool) -> Console:
    """Standard error, or nowhere."""
    return Console(quiet=True) if quiet else err


def default_output(chosen: "Config") -> Path:
    """A folder that says what and when."""
    method = chosen.gradient_regularizer.name if chosen.gradient_regularizer else chosen.balancer.name
    return Path("runs") / f"{'-'.join(chosen.tasks)}-{method.rpartition(':')[2]}-{time.strftime('%Y%m%d-%H%M%S')}"


def _show_end(event: "Finished", output: Path, seconds: float, group: Path | None) -> None:
    if event.why == "interrupted":
        say(f"stopped and saved after step {event.step}; go on with: mtl train --resume --output {group or output}")
        return
    early = " (out of patience)" if event.why == "patience" else ""
    best = f"; kept step {event.best_step}, score {event.score:.4f}" if event.best_step is not None else ""
    if event.results and group is None:
        show_results(event.results, "")
    say(f"{event.step} steps{early} in {seconds:.0f} s{best}; saved in {output}")
