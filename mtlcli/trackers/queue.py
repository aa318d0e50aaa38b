"""One thread and one queue for each tracker, so that a tracker that is slow, fails or hangs neither stops nor slows training."""

import queue
import threading
import time
from collections.abc import Callable

from mtlcli.trackers.base import Tracker

LINES = 10_000
"""Calls that wait for a tracker at most; further ones are dropped and counted."""
PATIENCE = 60.0
"""Seconds after which a call that has not returned hangs."""

Call = Callable[[], object]

_left: list["TrackerThread"] = []
"""Threads that were left behind in a call. One that was only slow ends when its call returns."""


def hangs(tracker: type[Tracker]) -> bool:
    """Return whether a thread of this process hangs in a tracker of this class."""
    return any(type(thread.tracker) is tracker and thread.is_alive for thread in _left)


def any_hangs() -> bool:
    """Return whether a thread of this process hangs in any tracker, so that its library may also delay the end of the process."""
    return any(thread.is_alive for thread in _left)


class TrackerThread:
    """Call a tracker from a thread of its own.

    Attributes:
        problem: why the tracker is off, in a few words; empty while it works. A tracker that is off takes no more calls.
        dropped: calls that found the queue full.
    """

    def __init__(self, name: str, tracker: Tracker) -> None:
        self.name, self.tracker = name, tracker
        self.problem = ""
        self.dropped = 0
        # Unbounded, so that `end` never waits; `put` observes the limit.
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._calling_since: float | None = None
        # A daemon, because Python cannot interrupt a thread and would wait for it at its end.
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Return whether the thread has not ended."""
        return self._thread.is_alive()

    def put(self, call: Call) -> None:
        """Queue a call without waiting."""
        if self.problem:
            return
        # Only one thread adds calls, so the queue cannot grow between this check and `put`.
        if self._queue.qsize() < LINES:
            self._queue.put(call)
        else:
            self.dropped += 1

    def put_patiently(self, call: Call) -> None:
        """Queue a call as soon as there is room, unless the tracker fails or hangs."""
        while self._queue.qsize() >= LINES and not self.problem:
            time.sleep(0.02)
            self.check()
        self.put(call)

    def check(self) -> None:
        """Set `problem` if a call has not returned for too long."""
        # Read once, because the thread can set it to None between two reads.
        since = self._calling_since
        if not self.problem and since is not None and time.monotonic() - since > PATIENCE:
            self._leave(f"has not answered for {PATIENCE:g} s")

    def end(self, call: Call) -> None:
        """Queue the last call, even into a full queue, after which the thread ends. Does not wait for it."""
        self._queue.put(call)
        self._queue.put(None)

    def wait(self, deadline: float | None) -> None:
        """Wait after `end` until the thread has made all calls, and set `problem` if it does not.

        Args:
            deadline: time of `time.monotonic` until which to wait; None waits as long as calls return.
        """
        while self.is_alive and not self.problem:
            remaining = 0.1 if deadline is None else min(0.1, deadline - time.monotonic())
            if remaining <= 0:
                # Without the None that `end` added.
                self._leave(f"was not done in time; {max(0, self._queue.qsize() - 1)} of its calls were not made")
                return
            # In short waits, between which a hanging call is noticed.
            self._thread.join(remaining)
            self.check()

    def _leave(self, problem: str) -> None:
        """Leave the thread behind in its call."""
        self.problem = problem
        _left.append(self)

    def _run(self) -> None:
        while not self.problem:
            call = self._queue.get()
            if call is None:
                return
            self._calling_since = time.monotonic()
            try:
                call()
            except (Exception, SystemExit) as error:  # a library can fail in any way, or exit
                # Not over the problem of a thread that was left behind and failed later.
                self.problem = self.problem or _in_words(error)
            finally:
                self._calling_since = None


def _in_words(error: BaseException) -> str:
    """Return an error in one line of at most 200 characters."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    line = f"{kind}: {text}" if text else kind
    return line if len(line) <= 200 else f"{line[:197]}..."
