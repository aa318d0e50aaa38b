"""Heartbeats of the processes of a run in a shared store, and detection of the processes that are lost."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

BEAT_SECONDS = 0.5
FAILED_CHECKS = 5
"""Checks without a heartbeat after which a process counts as lost, once an exchange has failed."""
STALLED_CHECKS = 10
"""Checks without a response from the store after which its process counts as lost, once an exchange has failed. Higher, because a busy
machine delays responses."""
TELL_SECONDS = 10.0
"""Maximum seconds to wait until the other processes know which ones are lost."""


class Heartbeat:
    """Increment a counter in a shared store as a heartbeat, and detect processes whose counter stops.

    Only one thread uses the store, because a call does not return where the process that holds it hangs; a second thread looks at
    what the first one has read. Checks are counted, not seconds, because all processes may have been suspended together.

    Args:
        store: a torch.distributed store for the heartbeats alone.
        rank, size: number of this process, and of all.
        holder: process that holds the store, or the name of what else holds it.
        patience: seconds without a heartbeat after which this process ends if it waits for another one between steps. There a
            short timeout of the exchange would be wrong: an evaluation may take minutes.
        where: returns the current step or phase, for the message.
    """

    def __init__(
        self, store: Any, rank: int, size: int, *, holder: int | str, patience: float, where: Callable[[], str]
    ) -> None:
        self._store, self._rank, self._size, self._holder = store, rank, size, holder
        self._patience, self._where = patience, where
        self._names = [f"process {number}" for number in range(size)]
        self._beats, self._rounds = [0] * size, 0
        self._still, self._rounds_still = [0] * size, 0
        self._waits = False
        self._found: list[int] | None = None
        """What this process has found out, for the others."""
        self._lost: list[int] | None = None
        """What all processes know."""
        self._may_end = False
        """Whether the store is no longer needed by processes that do not know yet."""
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._exchange, self._watch)]

    def start(self) -> None:
        """Start the threads."""
        self._store.set(f"host/{self._rank}", socket.gethostname())
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """End the threads."""
        self._ended.set()
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.is_alive():
                thread.join(timeout=5)

    @contextmanager
    def waiting(self) -> "Iterator[None]":
        """Allow this process to be ended inside the context if another one has no heartbeat."""
        before, self._waits = self._waits, True
        try:
            yield
        finally:
            # Exchanges of this process lie within the passes of an encoder that is divided, which wait as well.
            self._waits = before

    @property
    def has_lost(self) -> bool:
        """Return whether a process is known to have ended."""
        return self._found is not None or self._lost is not None

    def find_lost(self) -> str:
        """Say which processes are lost after an exchange has failed, and see to it that the others know it too."""
        deadline = time.monotonic() + 3 * FAILED_CHECKS * BEAT_SECONDS
        while self._lost is None and not self._silent(FAILED_CHECKS) and time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 5)
        return self._tell(self._silent(FAILED_CHECKS))

    def _tell(self, ranks: list[int]) -> str:
        """Return the message about lost processes, those that another one has named before if there are some.

        The store may end with this process, so it waits until the others have read it.
        """
        if ranks and self._found is None:
            self._found = ranks
        deadline = time.monotonic() + TELL_SECONDS
        while self.has_lost and not self._may_end and not self._stalled(STALLED_CHECKS) and time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 5)
        names = ", ".join(self._names[rank] for rank in self._lost or self._found or [])
        if not names and isinstance(self._holder, str) and self._stalled(STALLED_CHECKS):
            names = self._holder
        return f"{names or 'another process'} ended or does not answer at {self._where()}"

    def _exchange(self) -> None:
        with suppress(Exception):  # the store ends with the run
            self._names = [f"process {rank} ({self._store.get(f'host/{rank}').decode()})" for rank in range(self._size)]
            while not self._ended.wait(BEAT_SECONDS):
                self._store.add(f"beat/{self._rank}", 1)
                # Adding 0 reads a counter; `get` would block until the key exists.
                self._beats = [self._store.add(f"beat/{rank}", 0) for rank in range(self._size)]
                self._rounds += 1
                if self._pass_on():
                    break

    def _pass_on(self) -> bool:
        """Exchange which processes are lost, and return whether there is nothing left to exchange."""
        # Only the first process that reports writes the list, so that all print the same names.
        if self._found is not None and self._lost is None and self._store.add("lost/tellers", 1) == 1:
            self._store.set("lost/ranks", ",".join(map(str, self._found)))
            self._store.add("lost/known", 1)
        if self._lost is None and self._store.add("lost/known", 0):
            self._lost = [int(rank) for rank in self._store.get("lost/ranks").decode().split(",")]
            self._store.add(f"lost/known/{self._rank}", 1)
        if self._lost is not None:
            others = [rank for rank in range(self._size) if rank not in self._lost]
            # The store ends with the process that holds it, so that process waits for the others.
            self._may_end = self._rank != self._holder or all(
                self._store.add(f"lost/known/{rank}", 0) for rank in others
            )
        return self._may_end

    def _watch(self) -> None:
        beats, rounds, checks = list(self._beats), 0, 0
        while not self._ended.wait(BEAT_SECONDS):
            self._rounds_still = self._rounds_still + 1 if self._rounds == rounds else 0
            seen, rounds = self._beats, self._rounds
            # Only after a new round: while the store does not respond, the counters say nothing about the processes.
            if not self._rounds_still:
                self._still = [
                    count + 1 if beat == before else 0
                    for count, beat, before in zip(self._still, seen, beats, strict=True)
                ]
                beats = seen
            checks = checks + 1 if self._waits else 0
            long = int(self._patience / BEAT_SECONDS)
            lost = self._silent(long) if checks > long else []
            # Without the store, nothing can be known of the others.
            is_cut_off = checks > long and self._stalled(max(long, STALLED_CHECKS))
            # What the others know ends this process sooner, but not before its own exchange may have failed.
            if self._waits and (lost or is_cut_off or (self._lost is not None and checks > 2 * FAILED_CHECKS)):
                print(f"error: {self._tell(lost)}, and process {self._rank} waits for it", file=sys.stderr, flush=True)
                # The main thread is in an exchange that may never return, so an exception could not end the process.
                os._exit(1)

    def _silent(self, checks: int) -> list[int]:
        """Return the processes without a heartbeat for more than this many checks."""
        if self._stalled(max(checks, STALLED_CHECKS)):
            return [self._holder] if isinstance(self._holder, int) and self._holder != self._rank else []
        return [rank for rank, count in enumerate(self._still) if count > checks and rank != self._rank]

    def _stalled(self, checks: int) -> bool:
        """Return whether the store has ended, or has not responded for more than this many checks."""
        return not self._threads[0].is_alive() or self._rounds_still > checks
