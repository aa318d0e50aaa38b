"""Train on a terminal: one run, or one run for each seed."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import typer
from rich.console import Console

from mtlcli.cli.console import TrainingView, err, say, show_plan, show_results, show_spreads
from mtlcli.distributed.world import world
from mtlcli.files import remove_abandoned
from mtlcli.runs.folder import lock_new, takeover
from mtlcli.runs.lock import holder_of, lock_folder
from mtlcli.training.events import Evaluated, Event, Finished, Notice, Ready, Stepped
from mtlcli.training.interrupts import Interrupts
from mtlcli.training.run import OpenedRun, run_training
from mtlcli.training.seeds import OpenedGroup, SeedsFinished, SeedSkipped, SeedsStopped, SeedStarted, train_seeds


def command_line() -> str:
    """Return the command that the user typed."""
    return shlex.join(["mtl", *sys.argv[1:]])


def make_interrupts() -> Interrupts:
    """Return the interrupts of a command: the first signal stops after the step, a further Ctrl-C at once.

    Further SIGTERM and SIGUSR1 are ignored: Slurm sends SIGTERM to a preempted job twice, once itself and once by srun.
    """

    def announce(number: int) -> None:
        # A plain print: a signal handler must not wait for the lock of the progress bar.
        if world().is_main:
            more = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
            print(f"\nfinishing this step, then saving{more}", file=sys.stderr)

    def insist(number: int) -> None:
        if number == signal.SIGINT:
            os._exit(128 + number)  # without cleanup, which could hang

    # Slurm and other schedulers announce the end of a job with SIGUSR1.
    return Interrupts((signal.SIGINT, signal.SIGTERM, signal.SIGUSR1), first=announce, again=insist)


@contextmanager
def own_folder(output: Path | None, new: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Lock the folder of a command that writes several runs, and yield it: `output`, or one of the name `new` without it.

    `check` raises MtlError for a folder that the command must not write to.
    """
    # Before locking, so that a rejected folder is not touched. A locked folder is reported by the lock.
    if output is not None and holder_of(output) is None:
        check(output)
    with lock_new(new) if output is None else lock_folder(output) as lock:
        for line in takeover(lock):
            say(f"warning: {line}", err)
        # Again under the lock, because another process may have written to the folder.
        check(lock.folder)
        remove_abandoned(lock.folder)
        yield lock.folder


class RunScreen:
    """Show the events of runs. For a run in a `group`, plan and results are not shown, and resuming refers to the group."""

    def __init__(self, quiet: bool, group: Path | None = None) -> None:
        self.speaks = world().is_main
        self.quiet, self.group = quiet or not self.speaks, group
        self.console = Console(quiet=True) if self.quiet else err
        self.interrupts = make_interrupts()
        self._start = time.monotonic()
        self._view: TrainingView | None = None
        # Holds the signal handlers from `Ready` until the end of the run.
        self._steps = ExitStack()

    def show(self, event: Event) -> None:
        """Print an event."""
        match event:
            case Ready(plan=plan):
                # Until here Ctrl-C ends the command at once: there is nothing to save.
                self._steps.enter_context(self.interrupts)
                if not self.quiet and self.group is None:
                    show_plan(plan)
                self._view = TrainingView(plan.steps, plan.first_step, self.quiet)
            case Stepped() if self._view:
                self._view.stepped(event)
            case Evaluated() if self._view:
                self._view.evaluated(event)
            # Also with --quiet.
            case Notice(text=text, is_warning=True) if self.speaks:
                say(f"warning: {text}", err)
            case Notice(text=text):
                say(text, self.console)
            case Finished():
                self.close()
                if self.speaks:
                    self._show_end(event)
                # For the next run of a group.
                self._start = time.monotonic()

    def close(self) -> None:
        """Remove the progress bar, and restore the signal handlers."""
        if self._view is not None:
            self._view.close()
            self._view = None
        self._steps.close()

    def exit_if_interrupted(self) -> None:
        """End the command with the exit code of the signal, if there was one in any process.

        Under torchrun the code is 0: it takes another one for a failure, ends the other processes and starts them all again.
        """
        together = world()
        # Every process takes part in the exchange, also one that received no signal.
        numbers = [self.interrupts.signal or 0] if together.is_alone else together.gather(self.interrupts.signal or 0)
        if any(numbers):
            raise typer.Exit(0 if together.launch.starter == "torchrun" else 128 + max(numbers))

    def _show_end(self, event: Finished) -> None:
        folder = event.folder
        if event.why == "interrupted":
            say(
                f"stopped and saved after step {event.step}; resume with: mtl train --resume --output {self.group or folder}"
            )
            return
        if event.why == "unchanged":
            if event.results and self.group is None:
                show_results(event.results, "")
            say(f"the run in {folder} is already finished, after step {event.step}; nothing was written")
            return
        early = " (early stopping)" if event.why == "patience" else ""
        best = f"; selected step {event.best_step}, score {event.score:.4f}" if event.best_step is not None else ""
        if event.results and self.group is None:
            show_results(event.results, "")
        say(f"{event.step} steps{early} in {time.monotonic() - self._start:.0f} s{best}; saved in {folder}")


def show_run(opened: OpenedRun, quiet: bool) -> None:
    """Train a run and show its progress. Exit with 128 + signal if interrupted."""
    screen = RunScreen(quiet)
    try:
        events = run_training(
            opened,
            command=command_line(),
            stop=screen.interrupts.requested,
            tell=lambda line: say(line, screen.console),
        )
        for event in events:
            screen.show(event)
    finally:
        screen.close()
    screen.exit_if_interrupted()


def show_seeds(opened: OpenedGroup, quiet: bool) -> None:
    """Train the runs of a group, show their progress, and at the end every metric over the seeds."""
    folder, has_started = opened.group.folder, False
    screen = RunScreen(quiet, folder)
    try:
        events = train_seeds(
            opened,
            command=command_line(),
            stop=screen.interrupts.requested,
            tell=lambda line: say(line, screen.console),
        )
        for event in events:
            match event:
                case SeedSkipped(seed=seed):
                    say(f"seed {seed}: already finished, in {event.folder}", screen.console)
                case SeedStarted():
                    # Once: the plans of the runs differ in the seed only.
                    if not quiet and not has_started:
                        show_plan(event.plan)
                    has_started = True
                    say(f"seed {event.seed}, run {event.number} of {event.total}: {event.folder}", screen.console)
                case SeedsStopped(finished=True):  # an unfinished run has printed how to resume
                    say(f"stopped after seed {event.seed}; resume with: mtl train --resume --output {folder}")
                case SeedsFinished(group=group):
                    show_spreads(group)
                case SeedsStopped():
                    pass
                case _:
                    screen.show(event)
    # During the set-up of a further run, when Ctrl-C has its usual effect.
    except KeyboardInterrupt:
        if has_started:
            say(f"resume with: mtl train --resume --output {folder}", screen.console)
        raise
    finally:
        screen.close()
    screen.exit_if_interrupted()
