"""Defaults < recipe < flags < --set; every flag is a short name for one key."""

import inspect
from pathlib import Path

import pytest

from mtlcli.cli import check, options, train
from mtlcli.cli.options import FLAGS, RunOptions, parse_task
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError

RECIPE = """
tasks: {sst: {encoding: single}, quora: {encoding: bi}, mine: {kind: classification, train: mine.tsv}}
encoder: {name: tiny, dim: 64, pooling: cls, max_length: 64}
optimizer: {lr: 1e-4}
training: {epochs: 2, batch_size: 8}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The configuration of a command line, in a folder of its own that is not the recipe's."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def _run(recipe=None, *, task=None, sample=False, balancer=None, on_bad_row=None, sets=None, **flags) -> Config:
        path = None
        if recipe is not None:
            path = tmp_path / "there" / "recipe.yaml"
            path.write_text(recipe)
        return RunOptions(
            config=path, task=task, sample=sample, balancer=balancer, on_bad_row=on_bad_row, sets=sets, **flags
        ).configure()

    return _run


def error(call, *arguments, **more) -> str:
    with pytest.raises(MtlError) as caught:
        call(*arguments, **more)
    return str(caught.value)


def test_every_layer_wins_over_the_one_before(run):
    assert run(task=["sst"], encoder="./model").training.batch_size == 16
    assert run(RECIPE).training.batch_size == 8
    assert run(RECIPE, batch_size=4).training.batch_size == 4
    assert run(RECIPE, batch_size=4, sets=["training.batch_size=2"]).training.batch_size == 2
    assert run(RECIPE, batch_size=4, sets=["training.batch_size=2", "training.batch_size=1"]).training.batch_size == 1


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag != "init"])  # that one names a run: test_init.py
def test_every_flag_sets_the_key_that_it_names(run, flag):
    path, name = FLAGS[flag]
    value = {"scheduler": "temperature", "encoder": "./model", "pooling": "max", "select_by": "sst.accuracy", "precision": "fp32",
             "device": "cpu", "data": "/data", "regularizer": ["smart", "l2-sp"],
             "tracker": ["tensorboard"], "lr": 0.5, "head_lr": 0.5}.get(flag, 7)  # fmt: skip
    found = run(task=["sst"], **{flag: value}).plain()
    for key in path:
        found = found[key]
    if flag in ("regularizer", "tracker"):
        found = [one["name"] for one in found]
    assert found == (str(Path.cwd() / "model") if flag == "encoder" else value)
    assert name == "--" + flag.replace("_", "-")


def test_check_takes_the_very_options_of_train():
    of_train, of_check = (inspect.signature(command).parameters for command in (train.train, check.check))
    assert list(of_train) == list(inspect.signature(RunOptions).parameters)
    assert set(of_check) - set(of_train) == {"strict"}
    assert all(of_check[name].annotation == parameter.annotation for name, parameter in of_train.items())
    assert set(FLAGS) | {"output", "resume", "overwrite", "seeds"} <= set(of_check)


def test_another_encoder_keeps_how_its_output_is_read(run):
    found = run(RECIPE, encoder="./model").encoder
    assert (found.pooling, found.max_length, found.options) == ("cls", 64, {})


@pytest.mark.parametrize("way", [{"balancer": "uncertainty+pcgrad"}, {"sets": ["balancer=uncertainty+pcgrad"]},
                                 {"sets": ["balancer.name=uncertainty+pcgrad"]}, {"recipe": RECIPE + "balancer: uncertainty+pcgrad"},
                                 {"sets": ["balancer=uncertainty", "gradient_regularizer=pcgrad"]}])  # fmt: skip
def test_a_balancer_and_a_gradient_regularizer_are_named_together_everywhere(run, way):
    found = run(**{"recipe": RECIPE, **way})
    assert (found.balancer.name, found.gradient_regularizer.name) == ("uncertainty", "pcgrad")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("uncertainty", ("uncertainty", None)), ("pcgrad", ("equal", "pcgrad")), ("equal", ("equal", None))],
)
def test_the_balancer_of_the_command_line_replaces_both_of_the_recipe(run, name, expected):
    found = run(RECIPE + "balancer: {name: uncertainty+pcgrad, initial_log_variance: 1}", balancer=name)
    assert (found.balancer.name, found.gradient_regularizer and found.gradient_regularizer.name) == expected


def test_a_mistake_names_the_flag(run):
    assert error(run, task=["sst"], lr=-1.0).startswith("--lr: optimizer.lr: found -1.0")
    assert error(run, task=["sst"], balancer="pcgrd") == '--balancer: unknown balancer "pcgrd"; did you mean "pcgrad"?'
    message = '--balancer: unknown balancer "annealed"; it is one of the schedulers'
    assert error(run, task=["sst"], balancer="annealed") == message
    assert error(run, task=["sst"], regularizer=["smart", "smart"]).startswith("--regularizer smart: listed twice")
    assert error(run, task=["sst"], scheduler="x").startswith('--scheduler: unknown scheduler "x"')
    assert (
        error(run, task=["sst"], sets=["training.epoch=3"])
        == '--set training.epoch: unknown key; did you mean "epochs"?'
    )
    assert error(run, task=["sst"], sets=["lr=3"]) == '--set lr=3: unknown key; did you mean "optimizer.lr"?'
    assert error(run, task=["sst"], sets=["tasks.sst.ecoding=bi"]).startswith("--set tasks.sst.ecoding: unknown option")
    assert error(run, task=["sst"], on_bad_row="stop").startswith("--on-bad-row: tasks.sst.on_bad_row: found 'stop'")
    assert error(run, task=["nope"]).startswith('--task nope: tasks.nope: "nope" is not a known task')
    assert error(run) == "no task: name at least one, with --task sst or under `tasks:` in a recipe"


def test_values_of_set_become_what_the_key_holds(run):
    found = run(RECIPE, sets=["optimizer.lr=1e-5", "training.eval_every=50", "training.patience=3", "tasks.mine.text=[q1,q2]",
                              "tasks.mine.labels=no, yes", "tasks.mine.header=false", "tasks.mine.label=0",
                              "optimizer.clip=null"])  # fmt: skip
    task = found.tasks["mine"]
    assert (found.optimizer.lr, found.optimizer.clip, found.training.eval_every, found.training.patience) == (
        1e-5,
        None,
        50,
        3,
    )
    assert (task.text, task.labels, task.header, task.label) == (["q1", "q2"], ["no", "yes"], False, "0")


def test_a_list_may_be_set_and_then_changed_by_number(run):
    assert "regularizers.1" in error(run, task=["sst"], sets=["regularizers=[a, b]", "regularizers.1.weight=2"])


# Tasks


def test_the_tasks_of_the_command_line_are_those_of_the_run(run):
    found = run(RECIPE, task=["quora", "sst"]).tasks
    assert [(name, task.encoding) for name, task in found.items()] == [("quora", "bi"), ("sst", "single")]
    assert list(run(RECIPE).tasks) == ["sst", "quora", "mine"]
    assert list(run(RECIPE, task=["sts"]).tasks) == ["sts"]


def test_set_cannot_speak_of_a_task_that_is_not_in_the_run(run):
    assert (
        error(run, RECIPE, task=["sst"], sets=["tasks.quora.head=linear"])
        == "--set tasks.quora.head: the run has no task of this name; there are: sst"
    )
    assert error(run, task=["sst"], sets=["tasks.sts.head=linear", "tasks.ssst.max_rows=3"]).endswith(
        'did you mean "sst"?'
    )


def test_files_are_relative_to_the_folder_one_stands_in_and_the_recipe_to_its_own(run, tmp_path):
    found = run(RECIPE, task=["mine=,dev.tsv", "sst=a.csv"], data="cs", sets=["tasks.sst.test=t.csv"])
    assert (found.tasks["mine"].train, found.tasks["mine"].dev) == (
        str(tmp_path / "there/mine.tsv"),
        str(tmp_path / "here/dev.tsv"),
    )
    assert (found.tasks["sst"].train, found.tasks["sst"].test) == (
        str(tmp_path / "here/a.csv"),
        str(tmp_path / "here/t.csv"),
    )
    assert found.data == str(tmp_path / "here/cs")


@pytest.mark.parametrize(
    ("text", "name", "files"),
    [
        ("sst", "sst", []),
        ("a=t", "a", ["t"]),
        ("a=t,d", "a", ["t", "d"]),
        ("a=t, d", "a", ["t", "d"]),
        ("a=t,,x", "a", ["t", "", "x"]),
        ("a=t,", "a", ["t"]),
        ("a=t=1,d", "a", ["t=1", "d"]),
    ],
)
def test_a_task_is_a_name_and_up_to_three_files(text, name, files):
    assert parse_task(text) == (name, files)


@pytest.mark.parametrize("text", ["", "=t", "a=", "a=,", "a=1,2,3,4"])
def test_a_task_that_is_none_is_refused(text):
    assert "expected NAME" in error(parse_task, text)


def test_a_file_left_out_between_commas_is_left_out(run):
    task = run(task=["a=t,,x"], sets=["tasks.a.kind=classification"]).tasks["a"]
    assert (Path(task.train).name, task.dev, Path(task.test).name) == ("t", None, "x")


def test_a_task_named_twice_is_refused(run):
    assert "task sst is listed twice" in error(run, task=["sst", "sst=a"])


@pytest.mark.parametrize("tasks", ["[sst, quora]", "sst, quora", "{sst: , quora: {encoding: bi}}"])
def test_bad_rows_are_skipped_in_every_task_of_the_run(run, tasks):
    assert {task.on_bad_row for task in run(f"tasks: {tasks}", on_bad_row="skip").tasks.values()} == {"skip"}
    found = run(f"tasks: {tasks}", on_bad_row="skip", sets=["tasks.sst.on_bad_row=error"]).tasks
    assert (found["sst"].on_bad_row, found["quora"].on_bad_row) == ("error", "skip")


@pytest.mark.parametrize("tasks", ["[sst, quora]", "sst, quora", "{sst: , quora: {encoding: bi}}"])
def test_auxiliary_tasks_are_named_by_a_flag(run, tasks):
    assert [task.auxiliary for task in run(f"tasks: {tasks}", auxiliary=["quora"]).tasks.values()] == [False, True]
    named = run(task=["sts", "sst", "quora"], auxiliary=["sts", "sst"]).tasks
    assert [(name, task.auxiliary) for name, task in named.items()] == [("sts", True), ("sst", True), ("quora", False)]


def test_an_auxiliary_task_must_be_one_of_the_run(run):
    assert error(run, task=["sst", "sts"], auxiliary=["quora"]) == (
        "--auxiliary quora: the run has no task of this name; there are: sst, sts"
    )
    assert 'no task of this name; did you mean "quora"?' in error(run, RECIPE, auxiliary=["qora"])
    assert error(run, task=["sst"], auxiliary=["sst"]) == (
        "--auxiliary sst: tasks.sst.auxiliary: every task is auxiliary, so none is left to select checkpoints by; leave one that "
        "counts"
    )


# Keys that exclude each other


def test_a_flag_takes_back_what_the_recipe_says_against_it(run):
    found = run(RECIPE + "data: folder", sample=True, steps=5)
    assert (found.data, found.sample, found.training.steps, found.training.epochs) == (None, True, 5, None)
    found = run(RECIPE + "sample: true", data="folder", sets=["training.steps=3"])
    assert (Path(found.data).name, found.sample, found.training.steps, found.training.epochs) == (
        "folder",
        False,
        3,
        None,
    )


def test_flags_that_exclude_each_other_are_refused(run):
    assert "steps and epochs exclude each other" in error(run, task=["sst"], steps=3, epochs=2)
    assert "data and sample exclude each other" in error(run, task=["sst"], sample=True, data="x")


def test_long_dashes_are_explained(run):
    assert "a long dash was pasted" in error(run, task=["sst"], sets=["\u2013\u2013epochs 3"])


def test_the_module_of_flags_imports_nothing_heavy():
    import subprocess
    import sys

    code = f"import {options.__name__}, sys; print('torch' in sys.modules or 'numpy' in sys.modules or 'pydantic' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
