"""The files that a run writes while it trains. With several processes the first one writes, and the others wait where they must."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from mtlcli.devices import describe_environment
from mtlcli.distributed.sharding import whole
from mtlcli.runs.environment import write_environment
from mtlcli.runs.folder import RunFolder, add_command, write_config
from mtlcli.runs.metrics_log import flush_log, open_log
from mtlcli.runs.names import LOG, PREDICTIONS, RESULTS, predictions_path
from mtlcli.runs.plan import write_plan
from mtlcli.runs.record import origin_record, task_record
from mtlcli.runs.results import Results, write_predictions, write_results
from mtlcli.runs.saved_model import export
from mtlcli.training.agreement import check_equal_weights
from mtlcli.training.dev import DevPredictions
from mtlcli.training.log import log_line
from mtlcli.training.setup import TrainingRun
from mtlcli.training.state import Progress, prune, save, tensors_of


class RunFiles:
    """The files of a run in its folder.

    Attributes:
        log: metrics.jsonl, open after `start`.
    """

    def __init__(self, run: TrainingRun, place: RunFolder) -> None:
        self.run, self.place, self.folder = run, place, place.path
        self.writes = run.world.is_main
        # The digest of the frozen weights that this process has written: later checkpoints link to that file.
        self._digests: dict[str, str] = {}
        self.log: TextIO

    def start(self, progress: Progress, command: str) -> tuple[list[str], int]:
        """Remove what is out of date, and write configuration, environment and plan.

        Returns:
            Names of what is left of an earlier run, and the number of damaged lines that were removed from metrics.jsonl.
        """
        run, folder = self.run, self.folder
        if not self.writes:
            # The loop writes its lines in every process, and only the first one keeps them.
            self.log = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            return [], 0
        remaining = self.place.clear() if self.place.replaces else []
        self.place.check()
        # Resuming makes earlier results stale, so delete them before anything else changes.
        (folder / RESULTS).unlink(missing_ok=True)
        for path in (folder / PREDICTIONS).glob("*.jsonl"):
            path.unlink(missing_ok=True)
        write_config(folder, run.config)
        if command:
            add_command(folder, command)
        environment = describe_environment(run.device, run.config.training.seed)
        if not run.world.is_alone:
            environment["processes"] = run.world.size
        write_environment(folder, environment)
        write_plan(folder, run.plan)
        self.log, damaged_lines = open_log(folder, progress.step)
        processes = "" if run.world.is_alone else f" in {run.world.size} processes"
        self.tell(
            f"started after step {progress.step} of {run.plan.steps} on {environment['device']} in {run.plan.precision}{processes}: "
            f"{command}"
        )
        for line in (*run.plan.notes, *run.plan.warnings):
            self.tell(line)
        return remaining, damaged_lines

    def tell(self, text: str) -> None:
        """Append a line to train.log."""
        if self.writes:
            log_line(self.folder / LOG, text)

    def prune(self, progress: Progress) -> None:
        """Remove checkpoints that are not needed."""
        if self.writes:
            prune(self.run, self.folder, progress)

    def save(self, progress: Progress) -> Path:
        """Write a checkpoint, and return its folder when every process knows that it is complete.

        Raises:
            MtlError: in every process, where it cannot be written, or the weights of the processes differ.
        """
        check_equal_weights(self.run)
        # Outside `write`, because all processes take part in gathering divided tensors.
        parts = tensors_of(self.run)

        def write() -> Path:
            self.place.check()
            # The log must reach the disk before the checkpoint: on resuming, lines after the checkpoint are dropped.
            # A save after the loop finds the log closed.
            if not self.log.closed:
                flush_log(self.log)
            return save(self.run, self.folder, progress, parts, self._digests)

        return self.run.world.same(write)

    def export(self, progress: Progress, predictions: DevPredictions) -> None:
        """Write encoder/, heads.safetensors and run.json from the current weights, with the targets tuned on their predictions.

        Raises:
            MtlError: in every process, where they cannot be written.
        """
        model, encoder = self.run.model, self.run.encoder
        if model.is_sharded:
            # Every process takes part in gathering, but only the first one has a whole model to load them into.
            state = {name: whole(value) for name, value in model.state_dict().items()}
            if self.run.unsharded is not None:
                model = self.run.unsharded
                model.load_state_dict(state)
                encoder = replace(encoder, model=model.architecture.encoder)
        self.run.world.same(lambda: export(self.folder, model, encoder, self._facts(progress, predictions)))

    def _facts(self, progress: Progress, predictions: DevPredictions) -> dict[str, Any]:
        run, config = self.run, self.run.config
        return {
            "step": progress.step,
            "steps": run.plan.steps,
            "score": progress.best_score,
            "select_by": config.training.select_by,
            "pooling": config.encoder.pooling,
            "layer": config.encoder.layer,
            "max_length": config.encoder.max_length,
            "tasks": {
                fact.name: task_record(
                    config,
                    predictions.facts(fact),
                    task.splits["train"].columns.texts,
                    task.splits["train"].columns.labels,
                    tuple(run.metrics[fact.name]),
                )
                for fact, task in zip(run.facts, run.tasks, strict=True)
            },
            "architecture": origin_record(config.architecture),
            "config": config.without_trackers().plain(),
        }

    def write_predictions(self, task: str, predictions: DevPredictions) -> None:
        """Write the predictions for every dev split of a task."""
        splits = self.run.tasks[self.run.model.names.index(task)].splits
        for name, predicted in predictions.rows[task].items():
            split = splits[name]
            write_predictions(
                predictions_path(self.folder, task, name), predictions.targets[task], predicted.rows, split.lines.tolist(),
                split.gold, split.hashes, split.groups, split.weights,
            )  # fmt: skip

    def write_results(self, results: Results) -> None:
        """Write results.json, by which a run counts as complete."""
        write_results(self.folder, results)

    def close(self) -> None:
        """Close metrics.jsonl."""
        self.log.close()
