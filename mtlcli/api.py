"""The Python API: train, load, predict, encode, evaluate and compare, by the functions that the commands call.

``import mtlcli`` offers these names and imports this module, and with it torch, when one of them is first used. Every mistake
that a user can fix raises `MtlError`.
"""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from mtlcli.config.schema import Config
from mtlcli.devices import autocast, find_device, find_precision
from mtlcli.errors import MtlError
from mtlcli.evaluation import compare as comparison
from mtlcli.evaluation import evaluate as evaluation
from mtlcli.evaluation.compare import Comparison
from mtlcli.evaluation.evaluate import Evaluation
from mtlcli.inference import encode as encoding
from mtlcli.inference import predictor as loading
from mtlcli.inference.predict import Prediction, predict_rows
from mtlcli.inference.texts import TextInput, check_text, must_be_several, readings_of, rows_of, texts_of
from mtlcli.runs.configuration import ConfigSource, layers_of, resolve_run
from mtlcli.runs.folder import stored_layer
from mtlcli.runs.results import is_finished, read_results
from mtlcli.statistics.bootstrap import Estimate
from mtlcli.statistics.per_class import ClassScores
from mtlcli.training.events import Event, Finished, Ready
from mtlcli.training.interrupts import Interrupts
from mtlcli.training.run import configure_from, open_training, run_training

RunPath = str | os.PathLike[str]
"""A run folder; a `Run` is one too."""

__all__ = [
    "ClassScores", "Comparison", "Config", "Estimate", "Evaluation", "Event", "MtlError", "Prediction", "Predictor", "Run", "compare",
    "evaluate", "load", "load_config", "train",
]  # fmt: skip


class Run:
    """A run folder. It can be passed wherever a path is expected.

    Attributes:
        folder: where the run is.
    """

    def __init__(self, folder: RunPath) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, finished={self.finished})"

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def finished(self) -> bool:
        """True once the run has trained all its steps, or stopped by patience, and was evaluated."""
        return is_finished(self.folder)

    @property
    def config(self) -> Config:
        """The resolved configuration that the folder holds. Raises MtlError if it holds none."""
        stored = stored_layer(self.folder)
        if stored is None:
            raise MtlError(f"{self.folder}: not a run folder (no config.yaml)")
        # The stored configuration contains what `init` inherited; the folder of that run may be gone.
        return resolve_run([stored], resumed=stored)

    @property
    def results(self) -> dict[str, dict[str, Estimate]]:
        """Metrics on dev by task and name, the primary metric first: `run.results["sst"]["accuracy"].value`.

        For a task with several dev sets they are means over the sets that select checkpoints. Raises MtlError if the run is not
        finished.
        """
        return self.results_on("dev")

    def results_on(self, split: str) -> dict[str, dict[str, Estimate]]:
        """Return the metrics on a split or a set, such as `dev.matched`, by task and name; only of tasks that have it.

        Raises MtlError if the run is not finished.
        """
        return {task: splits[split] for task, splits in read_results(self.folder).tasks.items() if split in splits}

    def load(self, *, device: str = "auto", precision: str = "fp32") -> "Predictor":
        """Load the model: `mtlcli.load(run)`."""
        return load(self, device=device, precision=precision)


class Predictor:
    """A run or an ensemble, loaded on a device. Made by `load`.

    Attributes:
        folder: the run folder.
        tasks: names of the tasks.
        warnings: what may be wrong, such as another version of a plugin.
    """

    def __init__(
        self, info: loading.RunInfo, models: loading.Predictor, warnings: Sequence[str], device: torch.device,
        context: AbstractContextManager[object],
    ) -> None:  # fmt: skip
        self.folder = info.folder
        self.tasks = tuple(facts.name for facts in info.facts)
        self.warnings = tuple(warnings)
        self._info, self._models, self._device, self._autocast = info, models, device, context

    def __repr__(self) -> str:
        return f"Predictor({str(self.folder)!r}, tasks={list(self.tasks)}, device={str(self._device)!r})"

    @overload
    def predict(self, texts: Iterable[TextInput], task: str, *, batch_size: int | None = None) -> list[Prediction]: ...

    @overload
    def predict(
        self, texts: Iterable[TextInput], task: None = None, *, batch_size: int | None = None
    ) -> dict[str, list[Prediction]]: ...

    def predict(
        self, texts: Iterable[TextInput], task: str | None = None, *, batch_size: int | None = None
    ) -> list[Prediction] | dict[str, list[Prediction]]:
        """Predict one task, or every task that can read the texts.

        Args:
            texts: rows in order, all of one kind: a text, a pair of texts `(a, b)`, or a mapping from column names to texts. Any
                iterable; it is read in windows.
            task: name of the task.
            batch_size: most rows in a batch; by default as many as keep the device busy. It does not change predictions beyond
                rounding.

        Returns:
            With `task`, a list with the prediction of each row. Without it, always a dict of such lists by task name, of every task
            that can read the first row, auxiliary tasks only if no other can.

        Raises:
            MtlError: there is no such task, or a row cannot be read; the message names its index.
        """
        must_be_several(texts)
        first, rows = _peek(texts)
        readings = readings_of(self._info.record, first, task)
        names = [self._info.facts[index].name for reading in readings for index in reading.tasks]
        # In the order of the run's tasks; the readings group tasks that share an encoding.
        predictions: dict[str, list[Prediction]] = {name: [] for name in self.tasks if name in names}
        results = predict_rows(
            self._models, rows_of(rows, readings, isinstance(first, Mapping)), readings,
            texts_of, device=self._device, autocast=self._autocast, batch_rows=_positive(batch_size),
        )  # fmt: skip
        for _, row_predictions in results:
            for name, prediction in row_predictions.items():
                predictions[name].append(prediction)
        return predictions if task is None else predictions[task]

    def encode(self, texts: Iterable[str], *, task: str | None = None, batch_size: int | None = None) -> np.ndarray:
        """Return the pooled encodings of texts, shape (n, dim), float32.

        They are what `SentenceTransformer(f"{run}/encoder").encode(texts)` returns, unless `encoder.layer` is not the last one or the
        architecture changes the encoder; `encoder/README.md` then says so.

        Args:
            task: task whose features to return; needed where the architecture gives each task its own.

        Raises:
            MtlError: an item is not a text, the task is unknown or missing, or the folder is an ensemble, whose runs have an encoder
                each.
        """
        must_be_several(texts)
        rows = list(texts)
        for index, text in enumerate(rows):
            if not isinstance(text, str):
                raise MtlError(f"texts[{index}]: found {type(text).__name__} {text!r}; expected a text")
            check_text(text, f"texts[{index}]")
        # By identity, because the members of all tasks of one run share one SavedRun.
        runs = {id(member.run): member.run for members in self._models.members for member in members}
        if len(runs) != 1:
            raise MtlError(f"{self.folder}: is an ensemble of {len(runs)} encoders; load one of its runs to encode")
        run = next(iter(runs.values()))
        return encoding.encode(
            run, rows, device=self._device, autocast=self._autocast, task=None if task is None else run.task(task),
            batch_rows=_positive(batch_size),
        )  # fmt: skip


def load_config(config: ConfigSource | None = None, **sections: Any) -> Config:
    """Resolve and check a configuration.

    Args:
        config: a recipe file, its values as a mapping, or a resolved configuration.
        sections: sections of the configuration that win over it: `training={"epochs": 2}`, `balancer="pcgrad"`.

    Raises:
        MtlError: everything that is wrong with it.
    """
    return resolve_run(layers_of(config, sections))


def train(
    config: ConfigSource | None = None, *, output: RunPath | None = None, resume: bool = False, overwrite: bool = False,
    on_event: Callable[[Event], None] | None = None, **sections: Any,
) -> Run:  # fmt: skip
    """Train a run, as `mtl train` does.

    Ctrl-C, or the stop button of a notebook, stops after the step and saves: the run that is returned is not `finished`, and
    `resume=True` continues it. A second one raises KeyboardInterrupt at once.

    Args:
        config: a recipe file, its values as a mapping, or a resolved configuration. A resumed run needs none.
        output: the run folder; by default one in runs/, named by tasks, method and time.
        resume: resume the run in `output`, or start it if it does not exist.
        overwrite: replace the run in `output`.
        on_event: called with every event of `mtlcli.training.events`, such as `Stepped` and `Evaluated`.
        sections: sections of the configuration that win over `config`: `sample=True, balancer="pcgrad"`.

    Raises:
        MtlError: everything that a user can fix, most of it before anything is slow.
    """
    folder = None if output is None else Path(output)
    opened = open_training(configure_from(config, **sections), folder, resume=resume, overwrite=overwrite)
    run_folder = opened.folder  # or, if another process takes it first, a free one of the same name
    interrupts = Interrupts((signal.SIGINT,), again=_raise_interrupt)
    command = f"mtlcli.train(..., output={str(opened.folder)!r})"
    # Closed at once, so that the folder is free again even where a notebook keeps the traceback of a KeyboardInterrupt.
    with closing(run_training(opened, command=command, stop=interrupts.requested)) as events, ExitStack() as steps:
        for event in events:
            if isinstance(event, Ready):
                # Until here there is nothing to save, so Ctrl-C raises KeyboardInterrupt as usual.
                steps.enter_context(interrupts)
                run_folder = event.folder
            elif isinstance(event, Finished):
                # Before `on_event`, so that Ctrl-C in the caller's code raises KeyboardInterrupt again.
                steps.close()
            if on_event is not None:
                on_event(event)
    return Run(run_folder)


def load(
    run: RunPath, *, device: str = "auto", precision: str = "fp32", threshold: float | None = None
) -> Predictor:  # fmt: skip
    """Load a finished run or an ensemble.

    Args:
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: fp32 or bf16.
        threshold: probability from which labels are predicted, and answers given, in tasks with any number of labels or with
            questions that have no answer; by default the thresholds that the run tuned on dev.

    Raises:
        MtlError: the folder holds no model, one of its files is damaged, or no task has thresholds.
    """
    info = loading.open_run(Path(run))
    if threshold is not None:
        # For every task: those without thresholds are skipped, and it is an error only if none has any.
        info = info.with_threshold(threshold, range(len(info.facts)))
    place = find_device(device)
    models, warnings = info.load(place)
    return Predictor(info, models, warnings, place, autocast(place, find_precision(precision, place)))


def evaluate(
    run: RunPath, data: RunPath | None = None, *, split: str | Sequence[str] | None = None,
    tasks: Sequence[str] | Mapping[str, RunPath] = (), resamples: int = 1000, device: str = "auto", precision: str = "fp32",
    per_class: bool = False,
) -> Evaluation:  # fmt: skip
    """Evaluate a run or an ensemble with 95 % bootstrap intervals, as `mtl eval` does.

    Predictions for the run's own rows are written to its folder, for `compare`.

    Args:
        data: folder with the files that the tasks expect, instead of the run's own.
        split: dev, test, train or a set such as dev.matched, or several of them; by default dev, and test if there is one.
        tasks: names of the tasks, by default all but auxiliary ones; or a mapping from names to files with other labeled rows.
        resamples: bootstrap resamples.
        per_class: compute precision, recall and F1 of each class, too: `evaluation.classes["sst"]["dev"]`.

    Raises:
        MtlError: a row cannot be read, or there are none.
    """
    files = {name: [os.fspath(path)] for name, path in tasks.items()} if isinstance(tasks, Mapping) else {}
    # A string is also a sequence, whose letters would count as names.
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    return evaluation.evaluate(
        Path(run), [(name, files.get(name, [])) for name in names], data=None if data is None else os.fspath(data),
        splits=[split] if isinstance(split, str) else split, resamples=resamples, device=device, precision=precision,
        by_class=per_class,
    )  # fmt: skip


def compare(
    baseline: RunPath, *runs: RunPath, split: str = "dev", tasks: Sequence[str] = (), metrics: Sequence[str] = (),
    resamples: int = 2000,
) -> Comparison:  # fmt: skip
    """Compare finished runs, ensembles or folders of seeds with a baseline on the same rows, as `mtl compare` does.

    Args:
        split: dev, test, train, or a set such as dev.matched. Each set of several is compared alone.
        tasks: names of the tasks, by default all that the runs share and that are auxiliary in none.
        metrics: names of metrics or `all`, by default each task's primary one.
        resamples: draws of the bootstrap and of the randomization test.

    Returns:
        `compared` holds for every metric the difference with its interval and p-value, corrected for all comparisons.

    Raises:
        MtlError: a run is not finished, or the rows are not the same.
    """
    folders = [Path(run) for run in (baseline, *runs)]
    return comparison.compare(folders, split=split, tasks=tasks, metrics=metrics, resamples=resamples)


def _raise_interrupt(number: int) -> None:
    raise KeyboardInterrupt


def _positive(batch_size: int | None) -> int | None:
    if batch_size is not None and batch_size < 1:
        raise MtlError(f"batch_size: found {batch_size}; expected a number from 1")
    return batch_size


def _peek(texts: Iterable[TextInput]) -> tuple[TextInput | None, Iterator[TextInput]]:
    """Return the first row, None if there is none, and an iterator over all rows."""
    rows = iter(texts)
    for first in rows:
        # An iterator can be read only once, so the first row is put back in front of the others.
        return first, chain([first], rows)
    return None, iter(())
