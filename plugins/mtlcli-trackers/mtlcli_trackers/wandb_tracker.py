"""Weights & Biases, with or without an account."""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mtlcli.trackers.base import TrackedRun, Tracker, require_package

INIT_SECONDS = 10
WRITE_SECONDS = 3
MAGIC, HEADER, BLOCK = b":W&B", 7, 32768
"""Start of a .wandb file, and bytes of its header, of that of a chunk, and of a block."""


class WandB(Tracker):
    """Send a run to Weights & Biases, or keep it in the run folder where there is no API key.

    Needs wandb 0.31 or newer: `pip install 'mtlcli-trackers[wandb]'`. A run that was kept offline is sent later by `wandb sync
    RUN/trackers/wandb/wandb/offline-run-*`. A resumed run that is offline makes a second folder with the same id, and `wandb sync`
    of the second may replace the first; `mtl track RUN --tracker wandb` sends the whole run instead. Nobody is asked to log in.
    """

    def __init__(
        self,
        *,
        project: Annotated[str, Field(min_length=1, description="project of the run in W&B")] = "mtlcli",
        entity: Annotated[str | None, Field(description="user or team; the default is the account's own")] = None,
        mode: Annotated[
            Literal["auto", "online", "offline"],
            Field(description="auto: WANDB_MODE if it is set, else online with an API key and offline without"),
        ] = "auto",
        every: Annotated[int, Field(ge=1, description="send every N-th step, and every evaluation")] = 1,
    ) -> None:
        require_package("wandb", "mtlcli-trackers[wandb]")
        self.project, self.entity, self.mode, self.every = project, entity, mode, every
        self._run: Any = None

    def start(self, run: TrackedRun) -> str | None:
        """Make a run, or continue the one with this id."""
        import wandb

        # `create_new`: a run of the program that trains stays as it is. `console`: nothing takes over standard output.
        settings = wandb.Settings(
            init_timeout=INIT_SECONDS, console="off", silent=True, x_disable_stats=True, reinit="create_new",
        )  # fmt: skip
        self._run = wandb.init(
            project=self.project, entity=self.entity, name=run.name, group=run.group or None, id=run.id,
            resume="allow" if run.id is not None else None, dir=str(run.storage), mode=self._mode(), config=dict(run.config),
            settings=settings,
        )  # fmt: skip
        return str(self._run.id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Pass the numbers to W&B's own process."""
        self._run.log(dict(values), step=step)

    def text(self, name: str, markdown: str) -> None:
        """Store the text as a file, and the plan as the notes of the run, too."""
        Path(self._run.dir, f"{name}.md").write_text(markdown, encoding="utf-8")
        if name == "plan":
            self._run.notes = markdown

    def files(self, paths: Sequence[Path]) -> None:
        """Copy the files to those of the run, which W&B sends at the end."""
        for path in paths:
            shutil.copyfile(path, Path(self._run.dir, path.name))

    def finish(self, why: str) -> None:
        """End the run.

        Raises:
            OSError: the file of the run ends before the run does, as on a full disk, where the library says nothing.
        """
        file = Path(self._run.settings.sync_file)
        before = _size(file)
        self._run.finish(exit_code=0 if why in ("finished", "patience") else 1)
        # The library's process writes the end of the file after it has answered.
        deadline = time.monotonic() + WRITE_SECONDS
        while not (is_whole := _size(file) > before and ends_with_a_record(file)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not is_whole:
            raise OSError(f"{file} ends before the run, at {_size(file):,} bytes; is the disk full?")

    def _mode(self) -> Literal["online", "offline"] | None:
        if self.mode != "auto":
            return self.mode
        if os.environ.get("WANDB_MODE"):
            return None  # wandb reads it
        import wandb

        return "online" if wandb.login(prompt=False) else "offline"


def ends_with_a_record(path: Path) -> bool:
    """Return whether a .wandb file ends where a record ends; True for a file of another format.

    The file is a log of LevelDB: a header, and blocks of 32 KiB with chunks, each with checksum (4 bytes), length (2) and kind (1).
    A block is filled with zeros where no header of a chunk fits.
    """
    raw = path.read_bytes()
    if raw[:4] != MAGIC:
        return True
    at = HEADER
    while at < len(raw):
        room = BLOCK - at % BLOCK
        at += room if room < HEADER else HEADER + int.from_bytes(raw[at + 4 : at + 6], "little")
    return at == len(raw)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
