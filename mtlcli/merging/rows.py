"""Rows of the tasks of a merged run: those of dev, on which coefficients are chosen, and those of training."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch

from mtlcli.config.schema import Config
from mtlcli.data.splits import Split, read_split, selected_rows
from mtlcli.data.task_sources import find_source
from mtlcli.data.tokenizer import Tokenizer
from mtlcli.data.tokens import TokenizedSplit, cache_folder, tokenize_split
from mtlcli.encoders.load import LoadedEncoder
from mtlcli.errors import MtlError
from mtlcli.evaluation.measure import Selection, make_metrics, make_selection, measure, metrics_of
from mtlcli.evaluation.sets import mean_values
from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Metric
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.model.predict import predict_rows
from mtlcli.tasks.base import Task
from mtlcli.tasks.targets import Target, concat


@dataclass(frozen=True)
class TaskRows:
    """Rows of one task by split, and their tokens."""

    task: Task
    facts: TaskFacts
    splits: Mapping[str, Split]
    tokenized: Mapping[str, TokenizedSplit]


def read_rows(config: Config, facts: tuple[TaskFacts, ...], encoder: LoadedEncoder, kind: str) -> dict[str, TaskRows]:
    """Read and tokenize the rows of `dev` or `train` of every task that has some.

    Raises:
        MtlError: a file is missing or damaged; the errors of all tasks.
    """
    tokenizer, errors = Tokenizer(encoder.tokenizer, config.encoder.max_length), list[str]()
    rows: dict[str, TaskRows] = {}
    for fact in facts:
        section = config.tasks[fact.name]
        try:
            task: Task = section.make(fact.name)
            splits = {}
            for name in section.splits_of(kind):
                source = find_source(section, task, name, data=config.data, sample=config.sample)
                if source is not None:
                    policy, selected = section.on_bad_row or task.on_bad_row, selected_rows(section, task, name, source)
                    splits[name] = read_split(task, section, name, source, fact.target, policy, rows=selected)
            if splits:
                tokens = {name: tokenize_split(split, tokenizer, cache_folder()) for name, split in splits.items()}
                rows[fact.name] = TaskRows(task, fact, splits, tokens)
        except MtlError as error:
            errors += error.lines
    if errors:
        raise MtlError(*dict.fromkeys(errors))
    return rows


@dataclass(frozen=True)
class DevScore:
    """The score of a model on dev, its primary metrics by task, and the targets that were tuned on these rows."""

    score: float
    values: Mapping[str, float]
    targets: Mapping[str, Target]


@dataclass(frozen=True)
class DevRows:
    """The dev rows of all tasks that count."""

    config: Config
    tasks: Mapping[str, TaskRows]
    select_by: str

    def selection(self) -> Selection | None:
        """Return what is selected by; None if no task has dev rows.

        Raises:
            MtlError: `select_by` names nothing that is measured.
        """
        metrics = {name: self._metrics(rows, rows.facts.target) for name, rows in self.tasks.items()}
        try:
            return make_selection(self.select_by, metrics, list(self.tasks))
        except MtlError as error:
            raise MtlError(*(line.replace("training.select_by", "--select-by") for line in error.lines)) from error

    def score(self, model: MultiTaskModel, device: torch.device, autocast: AbstractContextManager[object]) -> DevScore:
        """Predict all dev rows, tune what dev settles, and measure.

        Raises:
            NotFinite: an output is NaN or infinite.
        """
        selection = self.selection()
        values: dict[str, dict[str, float]] = {}
        metrics: dict[str, dict[str, Metric]] = {}
        targets: dict[str, Target] = {}
        for name, rows in self.tasks.items():
            index = model.names.index(name)
            predicted = {
                split: predict_rows(model, {index: tokenized}, device, autocast)[index].rows
                for split, tokenized in rows.tokenized.items()
            }
            selecting = self.config.tasks[name].selecting_splits()
            # Tuned for every merge, because thresholds of the separate runs do not fit its outputs.
            target = rows.facts.target.tune(
                concat([predicted[split] for split in selecting]),
                concat([rows.splits[split].gold for split in selecting]),
            )
            targets[name], metrics[name] = target, self._metrics(rows, target)
            values[name] = mean_values(
                [
                    {
                        title: estimate.value
                        for title, estimate in measure(
                            # No resamples, because a search needs no intervals.
                            metrics[name], target.decide(predicted[split]), rows.splits[split].gold, 0,
                            weights=rows.splits[split].weights,
                        ).items()
                    }
                    for split in selecting
                ]
            )  # fmt: skip
        score = float("nan") if selection is None else selection.score(values, metrics)
        return DevScore(score, {name: next(iter(of_task.values())) for name, of_task in values.items()}, targets)

    def _metrics(self, rows: TaskRows, target: Target) -> dict[str, Metric]:
        name = rows.facts.name
        section = self.config.tasks[name]
        return make_metrics(
            metrics_of(section, rows.task, target), replace(rows.facts, target=target), f"tasks.{name}.metrics",
            weighted=section.weighted_metrics,
        )  # fmt: skip
