"""The trackers of one run: each gets the run's start, every line of metrics.jsonl, and its end."""

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mtlcli.config.schema import Config, TrackerChoice
from mtlcli.errors import MtlError
from mtlcli.files import read_sealed, write_sealed
from mtlcli.runs.metrics_log import read_log
from mtlcli.runs.names import CONFIG, PLAN, RECORD, RESULTS, TRACKER_FILES, TRACKERS
from mtlcli.runs.plan import Plan
from mtlcli.statistics.bootstrap import Estimate
from mtlcli.trackers.base import TrackedRun, Tracker
from mtlcli.trackers.queue import TrackerThread, hangs
from mtlcli.trackers.texts import flat_config, name_and_group, plan_text, recipe_text

FORMAT = 1
WAIT = 10.0
"""Seconds that the end of a run waits for all its trackers together."""
FILES = (CONFIG, PLAN, RECORD, RESULTS, "README.md")
"""The small files of a finished run."""


def make_trackers(choices: Sequence[TrackerChoice]) -> dict[str, Tracker]:
    """Build the trackers of a configuration, by a label: their names, with a number behind the second of the same name.

    Raises:
        MtlError: a tracker is unknown, or its package is not installed.
    """
    trackers: dict[str, Tracker] = {}
    errors: list[str] = []
    for choice in choices:
        label = name = choice.name.rpartition(":")[2]
        number = 1
        while label in trackers:
            number += 1
            label = f"{name}-{number}"
        try:
            trackers[label] = choice.make()
        except MtlError as error:
            errors += [
                line if line.startswith(choice.path) else f"{choice.path}: {choice.name}: {line}"
                for line in error.lines
            ]
    if errors:
        raise MtlError(*errors)
    return trackers


class RunTrackers:
    """Send what happens in one run to its trackers, without ever waiting for one before the end.

    The id that a tracker returns is kept in trackers.json, with which the tracker continues its run when the run is resumed. A
    tracker that is not in that file, because it was added on resuming or could not start before, first gets the lines of
    metrics.jsonl up to the checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        plan: Plan,
        trackers: Mapping[str, Tracker],
        first_step: int = 0,
        group: str = "",
    ) -> None:
        """Start the threads of the trackers.

        Args:
            folder: the run folder.
            config: the configuration of the run.
            plan: its plan.
            trackers: the trackers by label, from `make_trackers`.
            first_step: steps of the checkpoint from which the run is resumed; 0 for a new run.
            group: name of the group of a run that is in no folder of a group.
        """
        self.folder, self.config, self.plan, self.group = folder, config, plan, group
        self._ids = _stored_ids(folder)
        # Each tracker starts on its own thread, and all of them write one file.
        self._lock = threading.Lock()
        self._reported: set[str] = set()
        self._threads = []
        # A library that hangs in one thread can hang in the next one as well.
        self._skipped = [label for label, tracker in trackers.items() if hangs(type(tracker))]
        for label, tracker in trackers.items():
            if label not in self._skipped:
                thread = TrackerThread(label, tracker)
                # On the thread of the tracker, because a login or the migration of a database can take seconds.
                thread.put(partial(self._start, label, tracker, first_step))
                self._threads.append(thread)

    def line(self, values: Mapping[str, Any], *, patiently: bool = False) -> None:
        """Send a line of metrics.jsonl; `patiently` waits while a queue is full, where nothing else is to do."""
        for thread in self._threads:
            if is_sent(thread.tracker, values):
                call = partial(_send, thread.tracker, values)
                if patiently:
                    thread.put_patiently(call)
                else:
                    thread.put(call)

    def end(
        self, why: str, step: int = 0, results: Mapping[str, Mapping[str, Mapping[str, Estimate]]] | None = None
    ) -> None:
        """Send the results and files of a run that is over, and end the trackers. `wait` waits for them.

        Args:
            why: `finished`, `patience`, `interrupted` or `failed`.
            step: the last step.
            results: estimates by task, split and metric; none for a run without results.
        """
        finals = final_values(results or {})
        paths = [path for name in FILES if (path := self.folder / name).is_file()] if results else []
        for thread in self._threads:
            thread.end(partial(_end, thread.tracker, why, step, finals, paths))

    def wait(self, *, patiently: bool = False) -> None:
        """Wait after `end` until the trackers are done: `WAIT` seconds, or `patiently` as long as their calls return."""
        deadline = None if patiently else time.monotonic() + WAIT
        for thread in self._threads:
            thread.wait(deadline)

    def problems(self, *, at_end: bool = False) -> Iterator[tuple[str, str]]:
        """Yield the label and the problem of every tracker that is newly off; at the end also of those that dropped lines."""
        for label in self._skipped:
            if label not in self._reported:
                self._reported.add(label)
                yield label, "still hangs from an earlier run of this process"
        for thread in self._threads:
            thread.check()
            if thread.name in self._reported:
                continue
            problem = thread.problem
            if not problem and at_end and thread.dropped:
                problem = f"was slower than training, so {thread.dropped} lines were not sent"
            if problem:
                self._reported.add(thread.name)
                yield thread.name, problem

    def _start(self, label: str, tracker: Tracker, first_step: int) -> None:
        is_resumed = first_step > 0 and label in self._ids
        storage = self.folder / TRACKER_FILES / label
        storage.mkdir(parents=True, exist_ok=True)
        name, group = name_and_group(self.folder)
        run = TrackedRun(
            self.folder, storage, name, group or self.group, flat_config(self.config), self._ids.get(label) if is_resumed else None,
            first_step if is_resumed else 0,
        )  # fmt: skip
        identity = tracker.start(run)
        with self._lock:
            self._ids[label] = identity
            write_sealed(self.folder / TRACKERS, {"ids": self._ids}, FORMAT)
        tracker.text("plan", plan_text(self.plan))
        tracker.text("recipe", recipe_text(self.config))
        # Later lines are sent by the resumed run.
        if first_step and not is_resumed:
            for line in read_log(self.folder):
                if line.step <= first_step and is_sent(tracker, line.values):
                    _send(tracker, line.values)


def is_sent(tracker: Tracker, values: Mapping[str, Any]) -> bool:
    """Return whether a tracker gets a line of metrics.jsonl: every evaluation, and the steps that its `every` divides."""
    return values["kind"] != "step" or values["step"] % tracker.every == 0


def scalars_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a line of metrics.jsonl by name. An evaluation's epoch is that of its step's own line."""
    left_out = ("kind", "step") if values["kind"] == "step" else ("kind", "step", "epoch")
    return {
        name: float(value)
        for name, value in values.items()
        if name not in left_out and isinstance(value, int | float)  # null stands for a number that is not finite
    }


def final_values(results: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> dict[str, float]:
    """Return `final/TASK/SPLIT/METRIC` of every estimate, with `/low` and `/high` behind it for its interval."""
    values: dict[str, float] = {}
    for task, splits in results.items():
        for split, metrics in splits.items():
            for metric, estimate in metrics.items():
                name = f"final/{task}/{split}/{metric}"
                values |= {name: estimate.value, f"{name}/low": estimate.low, f"{name}/high": estimate.high}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _send(tracker: Tracker, values: Mapping[str, Any]) -> None:
    tracker.scalars(int(values["step"]), scalars_of(values))


def _end(tracker: Tracker, why: str, step: int, finals: Mapping[str, float], paths: list[Path]) -> None:
    if finals:
        tracker.scalars(step, finals)
    if paths:
        tracker.files(paths)
    tracker.finish(why)


def _stored_ids(folder: Path) -> dict[str, str | None]:
    """Return the ids in trackers.json; none where it is missing or damaged, so that trackers start a new run."""
    try:
        ids = read_sealed(folder / TRACKERS, FORMAT, "")["ids"]
        return {str(label): None if identity is None else str(identity) for label, identity in ids.items()}
    except (MtlError, KeyError, AttributeError):
        return {}
