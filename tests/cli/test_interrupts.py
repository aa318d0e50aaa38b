"""Signals to `mtl train`: the first one stops after the step and saves; only a further Ctrl-C stops at once."""

import os
import signal
from pathlib import Path

import pytest

from mtlcli.cli.console import TrainingView
from mtlcli.config.layers import dump
from small import small_values, write_files


@pytest.fixture
def signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes the process receive some signals after step 2 of a recipe of 4 steps."""
    monkeypatch.chdir(tmp_path)
    values = small_values(write_files(tmp_path / "files"))
    values["training"]["steps"] = 4
    Path("recipe.yaml").write_text(dump(values))

    def receive(*numbers: int) -> None:
        def stepped(self, event):
            if event.step == 2:
                for number in numbers:
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(TrainingView, "stepped", stepped)

    return receive


@pytest.mark.parametrize(("first", "second"), [("SIGTERM", "SIGTERM"), ("SIGUSR1", "SIGTERM"), ("SIGINT", "SIGTERM")])
def test_a_second_signal_of_a_scheduler_does_not_interrupt_saving(mtl, signals, first, second):
    numbers = [signal.Signals[name] for name in (first, second)]
    signals(*numbers)
    code, out, err = mtl("train", "-c", "recipe.yaml", "-o", "run")
    assert code == 128 + numbers[0]
    assert "stopped and saved after step 2" in out + err
    assert ("press Ctrl-C again" in err) == (first == "SIGINT")
    assert Path("run/checkpoints/step-2").is_dir()


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_a_further_ctrl_c_stops_at_once(mtl, signals, monkeypatch, first):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    signals(signal.Signals[first], signal.SIGINT)
    mtl("train", "-c", "recipe.yaml", "-o", "run")
    assert codes == [128 + signal.SIGINT]
