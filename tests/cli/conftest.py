"""`mtl` inside the test's own process."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from mtlcli.cli import main
from trained import trained


class Ended(NamedTuple):
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def run() -> Path:
    """The run that all tests share; they leave its model alone."""
    return trained()


@pytest.fixture
def mtl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """`mtl("eval", run, "--json")`; `stdin` reaches it through a pipe."""

    def call(*arguments: object, stdin: bytes = b"") -> Ended:
        ours, theirs = os.pipe()
        os.write(theirs, stdin)  # at most what a pipe holds
        os.close(theirs)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "argv", ["mtl", *map(str, arguments)])
        capsys.readouterr()
        with os.fdopen(ours) as pipe:
            monkeypatch.setattr(sys, "stdin", pipe)
            with pytest.raises(SystemExit) as end:
                main()
        out, err = capsys.readouterr()
        return Ended(int(end.value.code or 0), out, err)

    return call
