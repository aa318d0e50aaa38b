"""Predictions for the dev rows of a run, and the targets that are tuned on them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mtlcli.evaluation.measure import make_metrics, metrics_of
from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Metric
from mtlcli.model.frozen import Features
from mtlcli.model.predict import Predicted, predict_rows
from mtlcli.tasks.targets import Target, concat
from mtlcli.training.setup import TrainingRun


@dataclass(frozen=True)
class DevPredictions:
    """Predictions of an evaluation.

    Attributes:
        rows: by task and split, as the tuned target decides them; of tasks with dev rows alone.
        targets: by task, tuned on the rows that select checkpoints.
        metrics: by task and name, of the tuned target.
    """

    rows: Mapping[str, Mapping[str, Predicted]]
    targets: Mapping[str, Target]
    metrics: Mapping[str, Mapping[str, Metric]]

    def facts(self, task: TaskFacts) -> TaskFacts:
        """Return the facts of a task with its tuned target."""
        return replace(task, target=self.targets.get(task.name, task.target))

    def notes(self) -> list[str]:
        """Return a line about each target that was tuned."""
        tunings = {name: target.tuning() for name, target in self.targets.items()}
        return [f"{name}: tuned on dev: {tuning}" for name, tuning in tunings.items() if tuning]


def predict_dev(run: TrainingRun, features: Mapping[int, Mapping[str, Features]]) -> DevPredictions:
    """Predict the dev rows of every task, and tune its target on them.

    Args:
        features: features of the dev rows in place of the encoder, by index of the task and split.

    Raises:
        NotFinite: an output is NaN or infinite.
    """
    by_task = _predict(run, features)
    rows: dict[str, dict[str, Predicted]] = {}
    targets: dict[str, Target] = {}
    metrics: dict[str, Mapping[str, Metric]] = {}
    for name, splits in run.dev.items():
        index = run.model.names.index(name)
        loaded, facts = run.tasks[index], run.facts[index]
        predictions = {split: by_task[index, split] for split in splits}
        selecting = run.config.tasks[name].selecting_splits()
        # The other dev splits take no part in the choice.
        target = facts.target.tune(
            concat([predictions[split].rows for split in selecting]),
            concat([loaded.splits[split].gold for split in selecting]),
        )
        rows[name] = {
            split: replace(predicted, rows=target.decide(predicted.rows)) for split, predicted in predictions.items()
        }
        targets[name] = target
        section = run.config.tasks[name]
        metrics[name] = make_metrics(
            metrics_of(section, loaded.task, target), replace(facts, target=target), f"tasks.{name}.metrics", run.precision,
            weighted=section.weighted_metrics,
        )  # fmt: skip
    return DevPredictions(rows, targets, metrics)


def _predict(run: TrainingRun, features: Mapping[int, Mapping[str, Features]]) -> dict[tuple[int, str], Predicted]:
    """Return the predictions by task and split; tasks with the same rows share the passes of the encoder."""
    splits = {
        (run.model.names.index(name), split): tokenized
        for name, of_task in run.dev.items()
        for split, tokenized in of_task.items()
    }
    together: dict[tuple[int, str, int], list[int]] = {}
    for (task, split), tokenized in splits.items():
        # Splits with the same texts and encoding hold the same arrays.
        kept = features.get(task, {}).get(split)
        # Cached features of the same texts can differ between tasks: each holds only the layers that its task reads.
        together.setdefault((id(tokenized.sides), split, id(kept)), []).append(task)
    predictions: dict[tuple[int, str], Predicted] = {}
    for (_, split, _), tasks in together.items():
        kept = features.get(tasks[0], {}).get(split)
        of_tasks = {task: splits[task, split] for task in tasks}
        predicted = predict_rows(run.model, of_tasks, run.device, run.autocast, kept, run.world)
        predictions |= {(task, split): of_task for task, of_task in predicted.items()}
    return predictions
