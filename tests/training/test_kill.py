"""A run killed at random, or before any of its file operations, ends with the weights and files of the unbroken run."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest

from mtlcli.config.layers import Layer, dump
from mtlcli.config.resolve import resolve
from mtlcli.files import remove_abandoned, scratch_folder, scratch_path, sha256
from mtlcli.runs import checkpoint
from mtlcli.runs.folder import claim
from mtlcli.runs.results import write_predictions
from mtlcli.tasks.targets import Ragged, Score
from mtlcli.training.events import Stepped
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import small_values, write_files

STEPS = 30


def start(recipe: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "mtlcli",
        "train",
        "--config",
        str(recipe),
        "--output",
        str(folder),
        "--resume",
        "-q",
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finished(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


@pytest.mark.slow
def test_a_run_killed_at_random_ends_like_the_unbroken_one(tmp_path):
    values = small_values(write_files(tmp_path / "files"))
    values["training"] |= {"steps": STEPS, "save_every": 1}
    values["balancer"] = "uncertainty+pcgrad"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(values))
    finished(start(recipe, tmp_path / "whole"))
    chance, broken, killed = random.Random(os.getpid()), tmp_path / "broken", 0
    for at in (3, 12, 21):
        process = start(recipe, broken)
        while process.poll() is None and max(checkpoint.steps(broken / "checkpoints"), default=0) < at:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed > 0
    finished(start(recipe, broken))
    for name in ("encoder/model.safetensors", "heads.safetensors", "metrics.jsonl"):
        assert sha256(tmp_path / "whole" / name) == sha256(broken / name), name
    last = f"checkpoints/step-{STEPS}/optimizer.safetensors"
    assert sha256(tmp_path / "whole" / last) == sha256(broken / last)


# A kill before every file operation

OPERATIONS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir", "link")


def kill_before(number: int, count: Path) -> None:
    """End this process without any clean-up before its file operation `number`. Opening a file to write it is two of them: before,
    and after it was emptied. The number of operations so far is kept in the size of the file `count`."""
    counted = os.open(count, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)

    def operation() -> None:
        os.write(counted, b".")
        if os.fstat(counted).st_size == number:
            os._exit(9)

    def counting(function):
        def call(*arguments, **more):
            operation()
            return function(*arguments, **more)

        return call

    def opening(file, mode="r", *arguments, **more):
        if not set(mode) & set("wa"):
            return plain_open(file, mode, *arguments, **more)
        operation()
        opened = plain_open(file, mode, *arguments, **more)
        operation()
        return opened

    plain_open = io.open
    io.open = opening
    for name in OPERATIONS:
        setattr(os, name, counting(getattr(os, name)))


def killed_at(number: int, count: Path, action) -> bool:
    """Run something in a child process that is killed before a file operation; return whether it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
        pid = os.fork()
    if pid == 0:
        try:
            kill_before(number, count)
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9


def train_on(config, folder: Path) -> list:
    """Start the run in a folder or resume it, as `mtl train --resume`."""
    with claim(folder, resume=True) as opened:
        saved = opened.checkpoint
        run = set_up(
            config, encoder_from=None if saved is None else saved.folder / "encoder", first_step=saved.step if saved else 0
        )  # fmt: skip
        return list(train(run, opened))


def content(folder: Path) -> dict[str, object]:
    """All that must not depend on kills: every file, by its bytes where time and machine leave no trace in them."""
    found: dict[str, object] = {path.relative_to(folder).as_posix(): None for path in folder.rglob("*")}
    for name in (
        "encoder/model.safetensors", "heads.safetensors", "metrics.jsonl", "config.yaml", "predictions/tone.dev.jsonl",
    ):  # fmt: skip
        found[name] = sha256(folder / name)
    results = json.loads((folder / "results.json").read_text())
    return found | {"results": {key: results[key] for key in results if key not in ("seconds", "sha256")}}


@pytest.fixture
def short_run(tmp_path):
    """A run of one task that ends by patience, and its unbroken outcome."""
    values = small_values(write_files(tmp_path / "files"))
    values["tasks"] = {"tone": values["tasks"]["tone"]}
    values["encoder"] |= {"layers": 1}
    values["training"] = {"steps": 40, "eval_every": 1, "patience": 2, "batch_size": 8, "device": "cpu", "keep_last": 2}
    config = resolve([Layer(values)])
    assert train_on(config, tmp_path / "whole")[-1].why == "patience"
    return config, content(tmp_path / "whole")


def test_a_run_killed_before_any_file_operation_ends_like_the_unbroken_one(tmp_path, short_run):
    config, expected = short_run
    assert not killed_at(-1, tmp_path / "count", lambda: train_on(config, tmp_path / "counted"))
    operations = (tmp_path / "count").stat().st_size
    chosen = os.environ.get("MTL_KILLS", "10")  # "all", or how many
    every = 1 if chosen == "all" else max(1, operations // int(chosen))
    for number in range(1 + os.getpid() % every, operations, every):
        folder = tmp_path / f"killed-{number}"
        assert killed_at(number, tmp_path / "count", lambda folder=folder: train_on(config, folder))
        train_on(config, folder)
        assert content(folder) == expected, number
        shutil.rmtree(folder)


def test_a_run_out_of_patience_makes_no_further_step_when_it_was_killed_before_its_results(tmp_path, short_run):
    config, expected = short_run
    folder = tmp_path / "whole"
    for name in ("results.json", "run.json"):
        (folder / name).unlink()
    events = train_on(config, folder)
    assert not [event for event in events if isinstance(event, Stepped)]
    assert events[-1].why == "patience"
    assert content(folder) == expected


def test_what_a_kill_leaves_in_the_temporary_folder_and_in_the_cache_is_removed_at_the_next_start(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()

    def write_and_die():
        with scratch_folder(cache) as folder:
            (folder / "tokens.bin").write_bytes(b"x")
            os._exit(9)

    assert killed_at(-1, tmp_path / "count", write_and_die)
    (left,) = cache.iterdir()
    with scratch_folder(cache) as folder:
        assert list(cache.iterdir()) == [folder]  # that of the dead process is gone
        remove_abandoned(cache)
        assert folder.is_dir()  # that of a live one stays
    foreign = cache / left.name.replace(left.name.split("~")[1], "elsewhere")
    foreign.mkdir()
    remove_abandoned(cache)
    assert foreign.is_dir()  # nobody here knows whether its owner lives
    day_before = time.time() - 100_000
    os.utime(foreign, (day_before, day_before))
    remove_abandoned(cache)
    assert not foreign.exists()


def test_what_a_killed_process_left_among_the_predictions_is_removed_at_the_next_ones(tmp_path):
    def half() -> None:
        scratch_path(tmp_path / "predictions").write_text("{")

    (tmp_path / "predictions").mkdir()
    pid = os.fork()
    if pid == 0:
        half()
        os._exit(0)
    os.waitpid(pid, 0)
    half()  # of this process, which is alive
    (left, own) = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    target, rows = Score(0.0, 5.0, 2.5, 1.5), Ragged({"value": np.array([1.0])})
    write_predictions(tmp_path / "predictions" / "a.jsonl", target, rows, [1], rows, np.zeros(1, dtype=np.uint64))
    names = {path.name for path in (tmp_path / "predictions").iterdir()}
    assert names == {"a.jsonl", next(name for name in (left, own) if f"~{os.getpid()}~" in name)}
