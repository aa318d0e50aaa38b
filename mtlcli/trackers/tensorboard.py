"""TensorBoard, by the event files that its server reads."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mtlcli.trackers.base import TrackedRun, Tracker, require_package

FLUSH_SECONDS = 1.0
EVENT_FILES = "*.tfevents.*"


class TensorBoard(Tracker):
    """Write event files for TensorBoard into the run folder: `tensorboard --logdir runs` shows all runs below `runs`.

    Needs the package tensorboardX, which writes the files without TensorBoard itself: `pip install 'mtlcli[tensorboard]'`.
    Plan and recipe are under Text. In a resumed run, TensorBoard drops the steps after the checkpoint that were written before
    the interruption. The wall time of a point is the time at which it was written.
    """

    def __init__(
        self,
        *,
        every: Annotated[int, Field(ge=1, description="write every N-th step, and every evaluation")] = 1,
    ) -> None:
        require_package("tensorboardX", "mtlcli[tensorboard]")
        self.every = every
        self._step = 0
        self._flushed = 0.0
        self._writer: Any = None

    def start(self, run: TrackedRun) -> str | None:
        """Open an event file. A new run removes those of an earlier one."""
        # The library's plain writer instead of its SummaryWriter, whose thread dies on a full disk, after which the next call
        # never returns. This one raises.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        if not run.first_step:
            for path in run.storage.glob(EVENT_FILES):
                path.unlink()
        self._step = run.first_step
        self._writer = EventsWriter(str(run.storage / "events"), _suffix(run.storage))
        if run.first_step:
            # Makes TensorBoard drop what an earlier file holds from this step on.
            self._write(run.first_step + 1, session_log=SessionLog(status=SessionLog.START))
        return None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers as one event."""
        from tensorboardX.proto.summary_pb2 import Summary

        self._step = step
        # One event for all numbers, because each event has a header and a checksum of its own.
        items = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step, summary=Summary(value=items))

    def text(self, name: str, markdown: str) -> None:
        """Write a text, shown under Text."""
        from tensorboardX.summary import text

        self._write(self._step, summary=text(name, markdown))

    def finish(self, why: str) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        now = time.time()
        self._writer.write_event(Event(wall_time=now, step=step, **content))
        if now - self._flushed >= FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = now


def _suffix(folder: Path) -> str:
    """Return a number that makes the name of a new file unique and last: TensorBoard reads files in the order of their names."""
    return f".{len(list(folder.glob(EVENT_FILES)))}"
