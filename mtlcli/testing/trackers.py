"""The contract of trackers."""

import io
import signal
import tempfile
import threading
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from mtlcli.testing.common import checked_options, expect
from mtlcli.trackers.base import TrackedRun, Tracker

# Names have characters that some services reject, such as spaces, ampersands and accents.
CONFIG = {"optimizer.lr": "5e-05", "training.seed": "42", "tasks.stars & moons.kind": "regression", "data": "null"}
STEPS = [
    {
        "epoch": 0.0,
        "lr": 1e-12,
        "train/sst/loss": 1.5,
        "balancer/sst/weight": 0.0,
        "gradients/cosine/sst/café 2": -0.25,
    },
    {"epoch": 1.0, "lr": 5e-5, "train/sst/loss": 1e30, "eval/stars, @ moons/mae (x)": -1.0},
]
FINAL = {"final/sst/dev/accuracy": 0.5, "final/sst/dev/accuracy/low": 0.25, "final/sst/dev/accuracy/high": 0.75}


def check_tracker(plugin: type[Tracker], **options: object) -> None:
    """Check a run of a tracker from its start to its end, the same run resumed, a failed run, and one of a group.

    - every method works on a thread that is not the main one, with unusual names of tasks and very large and small numbers;
    - `start` returns a text or None, and continues a run whose id and first step it gets;
    - nothing is printed to standard output, no signal handler is replaced, and no argument is changed;
    - `every` is 1 or more.
    """
    checked = checked_options(plugin, Tracker, 0, options)
    name = plugin.__name__
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(printed):
        failure: list[BaseException] = []

        # In a run, trackers are called on a thread of their own, so that a slow service does not delay training.
        def runs() -> None:
            try:
                _runs(plugin, checked, Path(folder))
            except BaseException as error:  # SystemExit too, which would end a thread without a trace
                failure.append(error)

        thread = threading.Thread(target=runs)
        thread.start()
        thread.join()
        if failure and isinstance(failure[0], AssertionError):
            raise failure[0]
        if failure:
            raise AssertionError(f"{name} raises {type(failure[0]).__name__}: {failure[0]}") from failure[0]
    expect(not printed.getvalue(), f"{name}: expected nothing on standard output, found {printed.getvalue()[:200]!r}")
    for number, handler in before.items():
        expect(signal.getsignal(number) is handler, f"{name} replaces the handler of signal {number}")


def _runs(plugin: type[Tracker], options: dict[str, object], folder: Path) -> None:
    name = plugin.__name__
    run = TrackedRun(folder / "run", folder / "run" / "trackers" / "x", "run", "", dict(CONFIG))
    run.storage.mkdir(parents=True)
    results = run.folder / "results.json"
    results.write_text('{"why": "finished"}\n', encoding="utf-8")
    identity = _run(plugin(**options), run, 1, "finished", [results])
    resumed = _run(plugin(**options), replace(run, id=identity, first_step=2), 3, "interrupted", [])
    expect(
        resumed == identity,
        f"{name}.start: expected the id {identity!r} of the run that it continues, found {resumed!r}",
    )
    grouped = replace(
        run, folder=folder / "group" / "a", storage=folder / "group" / "a" / "x", name="group/a", group="group"
    )
    grouped.storage.mkdir(parents=True)
    tracker = plugin(**options)
    tracker.start(grouped)
    tracker.finish("failed")


def _run(tracker: Tracker, run: TrackedRun, first: int, why: str, files: list[Path]) -> str | None:
    name = type(tracker).__name__
    expect(
        isinstance(tracker.every, int) and tracker.every >= 1,
        f"{name}.every: expected 1 or more, found {tracker.every!r}",
    )
    identity = tracker.start(run)
    expect(identity is None or isinstance(identity, str), f"{name}.start: expected a text or None, found {identity!r}")
    expect(run.config == CONFIG, f"{name}.start changes the configuration of the run")
    tracker.text("plan", "| task | rows |\n|---|---|\n| sst | 10 |\n")
    for step, values in enumerate([*STEPS, FINAL], first):
        given = dict(values)
        tracker.scalars(step, given)
        expect(given == values, f"{name}.scalars changes its argument")
    tracker.files(files)
    tracker.finish(why)
    return identity
