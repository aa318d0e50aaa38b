"""Ctrl-C and its like, for commands that can stop after a step and save."""

import os
import signal
import sys
from types import FrameType


class Interrupts:
    """The first SIGINT or SIGTERM asks the run to stop after its step; the second one stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        print("\nfinishing this step, then saving; once more to stop at once", file=sys.stderr)

    def asked(self) -> bool:
        """Whether to stop."""
        return self.signal is not None
