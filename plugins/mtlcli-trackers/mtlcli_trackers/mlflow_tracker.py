"""MLflow, which keeps runs in a database or on a server."""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mtlcli.trackers.base import TrackedRun, Tracker, require_package

FLUSH_SECONDS = 2.0
MOST_METRICS, MOST_PARAMS = 1000, 100
"""Numbers and parameters that MLflow takes in one call."""
NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")
LONGEST_NAME = 250
FEW_ATTEMPTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""Settings for a server that does not answer, unless the user has others: MLflow's own wait for minutes."""
STATUS = {"finished": "FINISHED", "patience": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MLflow(Tracker):
    """Send a run to MLflow: by default to the database `mlflow.db` in the folder of the runs, otherwise to a server.

    Needs MLflow 3.13 or newer: `pip install 'mtlcli-trackers[mlflow]'`. `mlflow ui --backend-store-uri sqlite:///runs/mlflow.db`
    shows the runs. The configuration becomes parameters, the plan the description. In names, characters other than letters,
    digits and `_-. :/` become underscores. MLflow keeps parameters that were written once: what a resumed run changes is a tag
    `resumed.KEY`. A number takes about 2 ms in the database, so only every tenth step is sent by default; many processes at once
    need a server.
    """

    def __init__(
        self,
        *,
        uri: Annotated[
            str | None,
            Field(
                description="server or database; the default is MLFLOW_TRACKING_URI, or mlflow.db in the folder of the runs"
            ),
        ] = None,
        project: Annotated[str, Field(min_length=1, description="experiment of the run in MLflow")] = "mtlcli",
        every: Annotated[int, Field(ge=1, description="send every N-th step, and every evaluation")] = 10,
    ) -> None:
        require_package("mlflow", "mtlcli-trackers[mlflow]")
        self.uri, self.project, self.every = uri, project, every
        self._client: Any = None
        self._id = ""
        self._waiting: list[Any] = []
        self._flushed = 0.0
        self._names: dict[str, str] = {}

    def start(self, run: TrackedRun) -> str | None:
        """Make a run in the experiment `project`, or continue the one with this id."""
        for name, value in FEW_ATTEMPTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for library in ("mlflow", "alembic"):
            # What fails raises as well, and becomes the one warning of the run.
            logging.getLogger(library).setLevel(logging.CRITICAL)
        folder = run.folder.resolve().parents[run.name.count("/")]
        # Without global state of mlflow, which the program that trains may use itself.
        self._client = MlflowClient(
            self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        )
        if run.id is not None:
            self._id = run.id
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {"mtlcli.group": run.group} if run.group else {}
            self._id = self._client.create_run(self._experiment(folder), run_name=run.name, tags=tags).info.run_id
        self._write_config(run.config)
        return self._id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Collect the numbers, and send them every two seconds."""
        from mlflow.entities import Metric

        now = time.time()
        self._waiting += [Metric(self._name(name), value, int(1000 * now), step) for name, value in values.items()]
        if now - self._flushed >= FLUSH_SECONDS:
            self._flush()
            self._flushed = time.time()

    def text(self, name: str, markdown: str) -> None:
        """Store the text as a file, and the plan as the description of the run, too."""
        self._client.log_text(self._id, markdown, f"{name}.md")
        if name == "plan":
            self._client.set_tag(self._id, "mlflow.note.content", markdown)

    def files(self, paths: Sequence[Path]) -> None:
        """Store the files among the artifacts of the run."""
        for path in paths:
            self._client.log_artifact(self._id, str(path))

    def finish(self, why: str) -> None:
        """Send what is left, and set the status of the run."""
        self._flush()
        self._client.set_terminated(self._id, STATUS[why])

    def _experiment(self, folder: Path) -> str:
        found = self._client.get_experiment_by_name(self.project)
        if found is not None:
            return str(found.experiment_id)
        # A database says nothing about files; a server has a place for them.
        is_database = self._client.tracking_uri.startswith("sqlite:")
        place = (folder / "mlartifacts").as_uri() if is_database else None
        return str(self._client.create_experiment(self.project, artifact_location=place))

    def _write_config(self, config: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        stored = self._client.get_run(self._id).data.params
        values = {self._name(f"config/{key}").removeprefix("config/"): value for key, value in config.items()}
        new = [Param(key, value) for key, value in values.items() if key not in stored]
        for start in range(0, len(new), MOST_PARAMS):
            self._client.log_batch(self._id, params=new[start : start + MOST_PARAMS])
        changed = [RunTag(f"resumed.{key}", value) for key, value in values.items() if stored.get(key, value) != value]
        if changed:
            self._client.log_batch(self._id, tags=changed[:MOST_PARAMS])

    def _flush(self) -> None:
        while self._waiting:
            self._client.log_batch(self._id, metrics=self._waiting[:MOST_METRICS])
            del self._waiting[:MOST_METRICS]

    def _name(self, name: str) -> str:
        """Return a name that MLflow takes, the same each time, and no other name's."""
        if name not in self._names:
            plain = NOT_IN_NAMES.sub("_", name)[:LONGEST_NAME]
            candidate, number = plain, 1
            while candidate in self._names.values():
                number += 1
                candidate = f"{plain[: LONGEST_NAME - 4]}_{number}"
            self._names[name] = candidate
        return self._names[name]
