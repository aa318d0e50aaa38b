"""The lines of a pipe or a terminal, and whether the next one is there already."""

import os
import select
from collections import deque
from collections.abc import Iterator

BLOCK = 1 << 16


class Pipe:
    """A stream of lines that can be asked, without waiting, whether it has more; `FileSource` reads it as its stream."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._parts: list[bytes] = []  # of the line that is not complete
        self._ended = False

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def readline(self) -> bytes:
        """Return the next line with its end, waiting for it; b"" after the last one."""
        self._fill()
        return self._lines.popleft() if self._lines else b""

    def read(self, size: int = -1) -> bytes:
        """Return the next line with its end, whatever the size: less than a line cannot be waited for."""
        return self.readline()

    def peek(self) -> bytes:
        """Return what `readline` will return next."""
        self._fill()
        return self._lines[0] if self._lines else b""

    def ready(self, seconds: float = 0.0) -> bool:
        """Return whether a line or the end arrives within this number of seconds."""
        return bool(self._lines) or self._ended or bool(select.select([self._descriptor], [], [], max(0.0, seconds))[0])

    def _fill(self) -> None:
        while not self._lines and not self._ended:
            # No buffered stream: `select` does not see what a buffer holds, and its reads wait for a whole block.
            block = os.read(self._descriptor, BLOCK)
            *complete, rest = block.split(b"\n")
            if complete:
                # Parts are joined once, so that a long line in many pieces takes linear time.
                self._lines.extend(line + b"\n" for line in (b"".join((*self._parts, complete[0])), *complete[1:]))
                self._parts = []
            if rest:
                self._parts.append(rest)
            if not block:
                self._ended = True
                if self._parts:
                    self._lines.append(b"".join(self._parts))
