"""One training run on a screen."""

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from mtlcli.cli import options
from mtlcli.cli.console import TrainingView, err, say, show_plan, show_results
from mtlcli.config.layers import Layer
from mtlcli.config.schema import Config
from mtlcli.runs.checkpoint import Checkpoint
from mtlcli.training.events import Finished
from mtlcli.training.setup import TrainingRun


def tell_changes(stored: "Layer", chosen: "Config", folder: Path, quiet: bool) -> bool:
    """Says what differs from the run that goes on in a folder, and returns whether anything does. Raises MtlError for what
    may not."""
    from mtlcli.config.changes import check_unchanged
    from mtlcli.config.shorthand import absolute_paths

    before = options.configure(None, None, False, None, None, None, {}, absolute_paths(stored, folder), stored)
    changes = check_unchanged(before, chosen)
    for line in changes:
        say(f"note: {line}", _console(quiet))
    return bool(changes)


def prepare_run(chosen: "Config", found: "Checkpoint | None", quiet: bool) -> "TrainingRun":
    """Everything that comes before step 1, of a new run or one that goes on."""
    from mtlcli.data.tokens import cache_folder
    from mtlcli.training.setup import set_up

    return set_up(
        chosen, encoder_from=found.folder / "encoder" if found is not None else None, cache=cache_folder(),
        first_step=found.step if found is not None else 0, tell=lambda line: say(line, _console(quiet)),
    )  # fmt: skip


def run(
    prepared: "TrainingRun", folder: Path, found: "Checkpoint | None", start: float, stop: Callable[[], bool], quiet: bool,
    group: Path | None = None,
) -> None:  # fmt: skip
    """Trains, and shows how. Of a run in a `group` neither plan nor results are shown, and it goes on with its group."""
    from mtlcli.training.events import Evaluated, Finished, Notice, Saved, Started, Stepped
    from mtlcli.training.loop import train as run_training

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
