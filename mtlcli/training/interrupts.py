"""Handle Ctrl-C and SIGTERM during training: stop after the step, and save."""

import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType


class Interrupts:
    """Ask a run to stop at the first signal, and call `first` with its number; call `again` with the number of every further one.

    Use it as a context manager around the steps of a run. It does nothing outside the main thread, where Python allows no
    signal handlers.
    """

    def __init__(
        self,
        signals: Sequence[int],
        *,
        first: Callable[[int], None] = lambda number: None,
        again: Callable[[int], None],
    ) -> None:
        self.signals, self.first, self.again = tuple(signals), first, again
        self.signal: int | None = None
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._handlers.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self.again(number)
            return
        # Only a flag: the handler may run in the middle of an update or of a write.
        self.signal = number
        self.first(number)

    def requested(self) -> bool:
        """Return whether a signal asked the run to stop."""
        return self.signal is not None
