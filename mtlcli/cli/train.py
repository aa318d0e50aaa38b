"""`mtl train`."""

import os
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mtlcli.cli import options
from mtlcli.cli.console import TrainingView, err, say, show_plan, show_results

if TYPE_CHECKING:
    from mtlcli.config import Config
    from mtlcli.events import Finished


def train(
    task: options.Tasks = None,
    config: options.ConfigFile = None,
    data: options.Data = None,
    sample: options.Sample = False,
    encoder: options.Encoder = None,
    pooling: options.Pooling = None,
    max_length: options.MaxLength = None,
    scheduler: options.SchedulerName = None,
    balancer: options.BalancerName = None,
    epochs: options.Epochs = None,
    steps: options.Steps = None,
    batch_size: options.BatchSize = None,
    micro_batches: options.MicroBatches = None,
    lr: options.Lr = None,
    head_lr: options.HeadLr = None,
    seed: options.Seed = None,
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
    from mtlcli.data.encoding import cache_folder
    from mtlcli.errors import MtlError
    from mtlcli.resolution import absolute_paths
    from mtlcli.run_folder import stored_layer
    from mtlcli.training import open_folder

    if resume and output is None:
        raise MtlError("--resume: which run? name its folder with --output")
    if output is not None:
        found = open_folder(output, resume=resume, overwrite=overwrite)
    stored = stored_layer(output) if resume and output is not None else None
    base = stored if config is None else None  # a recipe given again is the whole configuration, to be compared
    chosen = options.configure(config, task, sample, balancer, on_bad_row, sets, flags, base)
    if output is None:
        output, found = _default_output(chosen), None
    if found is not None and stored is not None:
        from mtlcli.resuming import check_unchanged

        for line in check_unchanged(
            options.configure(None, None, False, None, None, None, {}, absolute_paths(stored, output)), chosen
        ):
            say(f"note: {line}", _console(quiet))
    from mtlcli.events import Evaluated, Finished, Notice, Saved, Started, Stepped
    from mtlcli.preparing import prepare
    from mtlcli.training import train as run_training

    start = time.monotonic()
    encoder_from = found.folder / "encoder" if found is not None else None
    prepared = prepare(chosen, encoder_from=encoder_from, cache=cache_folder(), first_step=found.step if found else 0)
    view: TrainingView | None = None
    command = shlex.join(["mtl", *sys.argv[1:]])
    with Interrupts() as interrupts:
        try:
            for event in run_training(prepared, output, command=command, resume_from=found, stop=interrupts.asked):
                match event:
                    case Started(plan=plan):
                        if not quiet:
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
                        _show_end(event, output, time.monotonic() - start)
        finally:
            if view:
                view.close()
        if interrupts.signal is not None:
            raise typer.Exit(128 + interrupts.signal)


def _console(quiet: bool) -> Console:
    """Standard error, or nowhere."""
    return Console(quiet=True) if quiet else err


def _default_output(chosen: "Config") -> Path:
    method = chosen.gradient_regularizer.name if chosen.gradient_regularizer else chosen.balancer.name
    return Path("runs") / f"{'-'.join(chosen.tasks)}-{method.rpartition(':')[2]}-{time.strftime('%Y%m%d-%H%M%S')}"


def _show_end(event: "Finished", output: Path, seconds: float) -> None:
    if event.why == "interrupted":
        say(f"stopped and saved after step {event.step}; go on with: mtl train --resume --output {output}")
        return
    early = " (out of patience)" if event.why == "patience" else ""
    best = f"; kept step {event.best_step}, score {event.score:.4f}" if event.best_step is not None else ""
    if event.results:
        show_results(event.results, "")
    say(f"{event.step} steps{early} in {seconds:.0f} s{best}; saved in {output}")


class Interrupts:
    """The first SIGINT or SIGTERM asks the run to stop after its step; the second one stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        print("\nfinishing this step, then saving; once more to stop at once", file=sys.stderr)

    def asked(self) -> bool:
        """Whether to stop."""
        return self.signal is not None
