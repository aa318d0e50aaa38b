"""What a sweep shows while it trains: a table on a terminal, a line for each trial in a pipe."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from mtlcli.cli import sweep_view
from mtlcli.sweeps.results import DONE, PRUNED, RUNNING, Sweep, Trial
from mtlcli.sweeps.run import SweepInterrupted, TrialEnded, TrialStarted
from mtlcli.training.events import Notice, Started, Stepped

TRIALS = (
    Trial(0, "trials/000", DONE, {"optimizer.lr": 1e-3}, (0.5,), ((1, 0.5),), seconds=12.4),
    Trial(1, "trials/001", DONE, {"optimizer.lr": 2e-3}, (0.75,), ((1, 0.75),), seconds=13.0),
    Trial(2, "trials/002", PRUNED, {"optimizer.lr": 9e-3}, (), ((1, 0.25),)),
    Trial(3, "trials/003", RUNNING, {"optimizer.lr": 4e-3}),
)


class Worker:
    """A worker of a sweep of five trials, of which three have ended."""

    direction = "maximize"

    def sweep(self):
        return Sweep(Path("s"), {}, "", ("optimizer.lr",), ("mean",), (self.direction,), TRIALS, {})

    def progress(self):
        return 3, 5


@pytest.fixture
def console(monkeypatch):
    """console(terminal) takes the place of standard error, 80 columns and 24 lines."""

    def make(terminal):
        made = Console(
            file=io.StringIO(), force_terminal=terminal, width=80, height=24, color_system=None, highlight=False, markup=False
        )  # fmt: skip
        monkeypatch.setattr(sweep_view, "err", made)
        return made

    return make


EVENTS = (
    TrialStarted("trials/003", {"optimizer.lr": 4e-3}, False),
    Started(SimpleNamespace(steps=60), Path("s/trials/003")),
    Stepped(17, 0, {}, {}, 0.0, 0.0, False),
    Notice("beware", True),
    TrialEnded(TRIALS[1], 3, 5),
    SweepInterrupted(3, 5),
)


def shown(console, worker=None):
    with sweep_view.SweepView(worker or Worker(), quiet=False) as view:
        for event in EVENTS:
            view._drawn = -10.0  # as if a second had gone by
            view.show(event)
    assert view.stopped == SweepInterrupted(3, 5)
    return console.file.getvalue()


def test_in_a_pipe_every_trial_has_a_line(console):
    assert shown(console(False)).splitlines() == [
        "trials/003: starts: lr=0.004", "warning: beware", "3/5 trials/001: done 0.7500; best 0.7500",
    ]  # fmt: skip


def test_the_best_is_the_lowest_where_less_is_better(console):
    worker = Worker()
    worker.direction = "minimize"
    assert shown(console(False), worker).splitlines()[-1] == "3/5 trials/001: done 0.7500; best 0.5000"


def test_on_a_terminal_the_table_has_running_trials_first_then_the_best(console):
    text = shown(console(True))
    last = text[text.rindex("trial  state") :].splitlines()
    assert [line.split()[:2] for line in last[1:5]] == [
        ["003", "running"], ["001", "done"], ["000", "done"], ["002", "pruned"],
    ]  # fmt: skip
    assert last[5].split(";")[0].strip() == "3/5 trials have ended" and "best 0.7500 of trials/001" in last[5]
    assert "trials/003: step 17 of 60" in last[6]
    assert "starts: lr" not in text and "warning: beware" in text
    assert all(len(line) <= 80 for line in last[:7])


def test_a_small_terminal_shows_what_trains_and_the_best(console):
    made = console(True)
    made.height = sweep_view.BELOW + 2
    text = shown(made)
    last = text[text.rindex("trial  state") :]
    assert "003" in last and "001" in last and "002    pruned" not in last
