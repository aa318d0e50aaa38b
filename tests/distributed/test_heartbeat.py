"""Heartbeats: which process counts as lost, who learns of it, and what ends a process that waits."""

import threading
import time

import pytest
import torch.distributed as dist

from mtlcli.distributed import heartbeat as module
from mtlcli.distributed.heartbeat import Heartbeat


class HeldStore:
    """A store whose calls do not return while it hangs, as where the process that holds it is stopped."""

    def __init__(self):
        self._store = dist.HashStore()
        self.answers = threading.Event()
        self.answers.set()

    def __getattr__(self, name):
        self.answers.wait(30)
        return getattr(self._store, name)


@pytest.fixture
def over():
    return threading.Event()


@pytest.fixture
def exits(monkeypatch, over):
    """Let checks follow each other soon, and collect the exit codes of processes, which are objects of this one."""
    codes = []

    def stand_still(code):
        codes.append(code)
        over.wait(30)

    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(module, "TELL_SECONDS", 2.0)
    monkeypatch.setattr(module.os, "_exit", stand_still)
    return codes


@pytest.fixture
def start(exits, over):
    started = []

    def start_all(store, size=3, patience=0.4, holder=0):
        for rank in range(size):
            one = Heartbeat(store, rank, size, holder=holder, patience=patience, where=lambda: "step 7")
            started.append(one)
            one.start()
        return started

    yield start_all
    over.set()
    for one in started:
        one.end()


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_healthy_processes_do_not_end_one_that_waits(start, exits):
    first, *_ = start(dist.HashStore())
    with first.waiting():
        time.sleep(1.5)
    assert exits == []


def test_one_that_waits_for_a_silent_process_ends_with_a_line_and_the_others_with_it(start, exits, capsys):
    first, second, third = start(dist.HashStore())
    third.end()
    with first.waiting(), second.waiting():
        until(lambda: len(exits) >= 2)
    lines = sorted(capsys.readouterr().err.splitlines())
    assert [line.split("(")[0] for line in lines] == ["error: process 2 "] * 2
    assert lines[0].endswith("ended or does not answer at step 7, and process 0 waits for it")
    assert lines[1].endswith("and process 1 waits for it")
    assert exits == [1, 1]


def test_one_that_computes_is_not_ended(start, exits):
    first, second, _ = start(dist.HashStore())
    second.end()
    time.sleep(1.5)
    assert exits == [] and not first.has_lost


def test_the_first_process_waits_until_the_others_know(start):
    first, second, third = start(dist.HashStore())
    third.end()
    assert first.find_lost().startswith("process 2 (")
    # Without the wait the store might have ended before.
    assert second.has_lost
    assert second.find_lost() == first.find_lost()


def test_what_another_process_has_found_is_taken_over(start):
    first, second, third = start(dist.HashStore())
    third.end()
    assert second.find_lost().startswith("process 2 (")
    second.end()
    # The second one gives no sign of life either now, but it has ended because of the third.
    assert first.find_lost().startswith("process 2 (")


def test_a_store_that_does_not_answer_is_the_loss_of_its_process(start, exits, capsys):
    store = HeldStore()
    _, second, third = start(store)
    until(lambda: second._rounds > 3 and third._rounds > 3)
    store.answers.clear()
    assert second.find_lost().startswith("process 0 (")
    with third.waiting():
        until(lambda: exits)
    assert "process 0 (" in capsys.readouterr().err
    store.answers.set()


def test_where_torchrun_holds_the_store_and_does_not_answer_it_is_named(start, exits, capsys):
    """As on a machine whose cable is cut: which processes still live is not known there."""
    store = HeldStore()
    _, second, third = start(store, holder="torchrun at host1:29500")
    store.answers.clear()
    assert second.find_lost() == "torchrun at host1:29500 ended or does not answer at step 7"
    with third.waiting():
        until(lambda: exits)
    line = "error: torchrun at host1:29500 ended or does not answer at step 7, and process 2 waits for it\n"
    assert capsys.readouterr().err == line
    store.answers.set()
