"""Trackers that fail, for `--tracker bad_trackers:NAME`."""

import atexit
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from mtlcli.trackers.base import TrackedRun, Tracker

FOREVER = threading.Event()
"""Never set by a run; tests set it to let threads go that hang."""


class Recorder(Tracker):
    """Keep every call, in the class."""

    calls: list[tuple[str, object]] = []

    def start(self, run: TrackedRun) -> str | None:
        self.calls.append(("start", run))
        return "the id"

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append(("scalars", (step, dict(values))))

    def text(self, name: str, markdown: str) -> None:
        self.calls.append(("text", name))

    def files(self, paths: Sequence[Path]) -> None:
        self.calls.append(("files", [path.name for path in paths]))

    def finish(self, why: str) -> None:
        self.calls.append(("finish", why))


class Fails(Tracker):
    """Fail in one method, in one of several ways."""

    def __init__(
        self,
        *,
        method: str = "scalars",
        how: Literal["raise", "exit", "hang", "sleep"] = "raise",
    ) -> None:
        self.method, self.how = method, how

    def _reached(self, method: str) -> None:
        if method != self.method:
            return
        if self.how == "raise":
            raise ConnectionError("no route\nto host")
        if self.how == "exit":
            sys.exit("you are not logged in")
        if self.how == "hang":
            FOREVER.wait()
        time.sleep(1)

    def start(self, run: TrackedRun) -> str | None:
        self._reached("start")
        return None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._reached("scalars")

    def text(self, name: str, markdown: str) -> None:
        self._reached("text")

    def files(self, paths: Sequence[Path]) -> None:
        self._reached("files")

    def finish(self, why: str) -> None:
        self._reached("finish")


class HangsAtExit(Fails):
    """Hang in `finish`, and again when Python ends, as libraries do that wait for their own thread."""

    def __init__(self) -> None:
        super().__init__(method="finish", how="hang")
        atexit.register(FOREVER.wait)
