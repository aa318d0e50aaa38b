"""Which methods work together: the table, its document, and two steps of every pair that is allowed."""

import io
import itertools
import json
import math
import re
import sys
from pathlib import Path

import pytest

from mtlcli.cli import main
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.errors import MtlError
from mtlcli.registry import FAMILIES, METHODS
from mtlcli.training.compatibility import (
    Pair,
    _methods_of,
    architecture_with_towers,
    check_combination,
    pairs,
    problems,
)
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from mtlcli.training.state import Progress
from mtlcli.training.step import enter_stage, take_step
from small import small_config, small_values, write_files

BUILT_IN = {family: list(FAMILIES[family].built_in) for family in METHODS}
DOCUMENT = Path(__file__).parents[2] / "docs" / "combinations.md"


def key(one: tuple[str, str], other: tuple[str, str]) -> tuple[tuple[str, str], tuple[str, str]]:
    return (one, other) if METHODS.index(one[0]) < METHODS.index(other[0]) else (other, one)


def allowed(micro_batches: int) -> set[tuple[tuple[str, str], tuple[str, str]]]:
    found = pairs(BUILT_IN, tasks=3, micro_batches=micro_batches)
    return {(pair.first, pair.second) for pair in found if pair.works}


def covering_runs() -> list[tuple[int, dict[str, str]]]:
    """Runs, each (micro-batches, a name of each family), that together hold every allowed pair."""
    plain, doubled = allowed(1), allowed(2)
    runs: list[tuple[int, dict[str, str]]] = []
    for micro_batches, wanted in ((1, plain), (2, doubled - plain)):
        able = plain if micro_batches == 1 else doubled
        left = dict.fromkeys(sorted(wanted))
        while left:
            chosen = dict(next(iter(left)))
            for family in METHODS:
                if family in chosen:
                    continue
                fitting = [
                    name
                    for name in BUILT_IN[family]
                    if all(key((family, name), item) in able for item in chosen.items())
                ]
                fresh = {name: sum(key((family, name), item) in left for item in chosen.items()) for name in fitting}
                if fitting:
                    chosen[family] = max(fitting, key=lambda name: fresh[name])
            for one, other in itertools.combinations(chosen.items(), 2):
                left.pop(key(one, other), None)
            runs.append((micro_batches, chosen))
    return runs


RUNS = covering_runs()


def test_the_runs_hold_every_allowed_pair():
    held = {key(*two) for _, run in RUNS for two in itertools.combinations(run.items(), 2)}
    assert allowed(1) | allowed(2) <= held


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def teacher(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    list(train(set_up(small_config(files, training={"steps": 1})), folder))
    return str(folder)


def sections(run: dict[str, str], teacher: str) -> dict[str, object]:
    """The sections of a configuration, with the options that some methods cannot do without."""
    options = {
        "static": {"weights": {"tone": 0.5}},
        "epoch-sigmoid": {"start": {"tone": 1.0}},
        "distill-anneal": {"teachers": {"tone": teacher}},
        "stages": {"stages": [{"steps": 1}, {"steps": 1, "lr_factor": 0.5}]},
        "fixed-ratio": {"ratio": {"tone": 2, "same": 1, "near": 1}},
    }
    chosen = {family: {"name": name, **options.get(name, {})} for family, name in run.items()}
    if run.get("regularizers") == "soft-sharing" and "architectures" not in chosen:
        chosen["architectures"] = {"name": architecture_with_towers()}
    return {FAMILIES[family].key: [section] if FAMILIES[family].many else section for family, section in chosen.items()}


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", BUILT_IN["schedulers"])
def test_two_steps_of_every_allowed_pair(files, teacher, tmp_path, scheduler):
    for micro_batches, run in RUNS:
        if run.get("schedulers", FAMILIES["schedulers"].default) != scheduler:
            continue
        values = small_values(files) | sections(run, teacher)
        values["training"] |= {"micro_batches": micro_batches, "steps": 2, "batch_size": 4}
        # The folder of the teacher's encoder, because making one takes longer than these steps.
        values["encoder"] = {"name": f"{teacher}/encoder", "max_length": 32}
        prepared = set_up(resolve([Layer(values)]))
        progress, log = Progress(cursors=[0, 0, 0]), io.StringIO()
        before = [parameter.clone() for parameter in prepared.model.parameters()]
        assert not list(enter_stage(prepared, tmp_path, progress))
        steps = [take_step(prepared, progress, log) for _ in range(2)]
        assert not any(step.skipped for step in steps), run
        assert all(math.isfinite(step.gradient_norm) for step in steps), run
        after = prepared.model.parameters()
        assert any(not one.equal(other) for one, other in zip(before, after, strict=True)), run


def test_every_refused_pair_is_refused_in_one_sentence_before_data_is_read(tmp_path):
    refused = [pair for pair in pairs(BUILT_IN, tasks=3, micro_batches=1) if not pair.works]
    assert refused, "some methods cannot work together"
    for pair in refused:
        run = dict((pair.first, pair.second))
        values = sections(run, "no-such-run")
        config = small_config(tmp_path / "no-such-folder", **values)
        with pytest.raises(MtlError) as error:
            check_combination(config)
        assert set(error.value.lines) == {problem.sentence() for problem in pair.problems}, run
        assert all("\n" not in line for line in error.value.lines)


def test_two_tasks_a_step_are_enough_for_a_method_that_compares_tasks():
    def pair(scheduler: str, micro_batches: int) -> Pair:
        names = {"schedulers": [scheduler], "gradient_regularizers": ["pcgrad"]}
        return pairs(names, tasks=2, micro_batches=micro_batches)[0]

    assert [problem.sentence() for problem in pair("proportional", 1).problems] == [
        'pcgrad compares the tasks of a step, and the scheduler "proportional" visits one task per step; '
        "choose --scheduler round-robin or --micro-batches 2 or more"
    ]
    assert pair("proportional", 2).works
    assert pair("round-robin", 1).works


def test_the_cure_of_every_problem_removes_it():
    by_flag = {"--scheduler": "schedulers", "--set": "architectures"}
    for pair in pairs(BUILT_IN, tasks=3, micro_batches=1):
        for problem in pair.problems:
            _, flag, value = problem.cure.split(" ")[:3]
            cured = dict((pair.first, pair.second)) | {by_flag[flag]: value.removeprefix("architecture=")}
            left = problems(_methods_of(cured), tasks=3, micro_batches=1)
            assert problem.method not in [other.method for other in left], (pair, left)


@pytest.fixture
def command(monkeypatch, capsys):
    """What `mtl plugins combinations` prints, run in this process."""

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["mtl", "plugins", "combinations", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        return capsys.readouterr().out

    return call


def test_the_document_is_what_the_command_writes(command):
    assert DOCUMENT.read_text() == command("--built-in", "--format", "markdown"), (
        "write it again: mtl plugins combinations --built-in --format markdown > docs/combinations.md"
    )


def test_the_text_names_what_is_refused_and_the_json_all(command):
    text = command("--built-in")
    rejection = next(part for part in text.split("\n\n") if "compares the tasks of a step" in part)
    methods, always, alone = re.split(": not with |; only with --micro-batches 2 or more: ", rejection.split(". ")[0])
    assert {"pcgrad", "tchebycheff", "famo"} <= set(methods.split(", "))
    assert {"bandit", "worst-task"} <= set(always.split(", "))
    assert {"proportional", "shuffled"} <= set(alone.split(", "))
    found = json.loads(command("--built-in", "--format", "json"))
    count = sum(len(BUILT_IN[a]) * len(BUILT_IN[b]) for a, b in itertools.combinations(METHODS, 2))
    assert {len(one) for one in found.values()} == {count}
