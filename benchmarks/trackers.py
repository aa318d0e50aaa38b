"""Steps of a run with trackers against the same run without, interleaved.

    python benchmarks/trackers.py --encoder minilm --data FOLDER --trackers tensorboard --rounds 20
    python benchmarks/trackers.py --trackers tensorboard trackio mlflow wandb

Every variant is a run of its own with the same rows, methods and seed, which makes `--steps` steps in each round; the order of the
variants changes from round to round. Each ratio is the median over rounds of the variant's time by that of the run without a
tracker, and a second run without one is the control. The processor's time counts all threads, so it includes the tracker's own,
and other programs on the machine change it less. `queued` is the time that the training thread itself spends on a tracker in a step.

Prediction, before it was written: tensorboard 1.00 to 1.01 for a step of 100 ms or more (it writes .1 ms a step on another thread),
and 1.05 for the encoder `tiny` with steps of a few milliseconds, because both threads share the interpreter's lock.
Results with machine and versions are in benchmarks/README.md.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from mtlcli.trackers.base import Tracker
from mtlcli.trackers.queue import TrackerThread
from mtlcli.training.events import Event, Stepped
from mtlcli.training.run import configure_from, open_training, run_training


def started(arguments: argparse.Namespace, folder: Path, tracker: str | None) -> Generator[Event, None, None]:
    """Return the events of a run, after its first steps."""
    values: dict[str, Any] = {
        "tasks": {"sst": {}, "quora": {"encoding": "cross"}, "sts": {"encoding": "bi"}},
        "encoder": {"name": arguments.encoder},
        "balancer": "uncertainty+pcgrad",
        "training": {
            "steps": 1_000_000, "steps_per_epoch": 1_000_000, "batch_size": arguments.batch_size, "device": arguments.device,
        },
        "trackers": [] if tracker is None else [{"name": tracker, "every": 1}],
    }  # fmt: skip
    values |= {"data": arguments.data} if arguments.data else {"sample": True}
    events = run_training(open_training(configure_from(values), folder))
    take(events, 10)
    return events


def take(events: Generator[Event, None, None], steps: int) -> tuple[float, float]:
    """Make this many steps, and return their seconds, and the processor's for all threads of the process."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    while steps:
        steps -= isinstance(next(events), Stepped)
    return time.perf_counter() - begin, time.process_time() - begin_cpu


class Nothing(Tracker):
    """Drop everything."""

    def start(self, run: object) -> str | None:
        """Do nothing."""
        return None

    def scalars(self, step: int, values: object) -> None:
        """Do nothing."""


def queued(calls: int = 5000) -> float:
    """Return the seconds that one call costs the thread that queues it."""
    thread = TrackerThread("nothing", Nothing())
    begin = time.perf_counter()
    for step in range(calls):
        thread.put(lambda step=step: thread.tracker.scalars(step, {}))
    return (time.perf_counter() - begin) / calls


def main() -> None:
    """Print one line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--data")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--trackers", nargs="+", default=["tensorboard"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    names = ["none", "none again", *arguments.trackers]
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            name: started(arguments, Path(folder, name.replace(" ", "-")), None if name.startswith("none") else name)
            for name in names
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for number in range(arguments.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                seconds[name].append(take(runs[name], arguments.steps))
        for name in names:
            wall, cpu = (
                statistics.median(
                    own[kind] / bare[kind] for own, bare in zip(seconds[name], seconds["none"], strict=True)
                )
                for kind in (0, 1)
            )
            step = 1e3 * statistics.median(taken for taken, _ in seconds[name]) / arguments.steps
            print(f"{name:12} {wall:.3f} of none in time, {cpu:.3f} in processor time; {step:.1f} ms per step")
        print(f"queued       {1e6 * queued():.2f} microseconds per call")
        for events in runs.values():
            events.close()


if __name__ == "__main__":
    main()
