"""A run killed with SIGKILL at moments of no one's choosing ends with the weights of the unbroken run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from mtlcli.config.layers import dump
from mtlcli.runs import checkpoint
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
        assert checkpoint.sha256(tmp_path / "whole" / name) == checkpoint.sha256(broken / name), name
    last = f"checkpoints/step-{STEPS}/optimizer.safetensors"
    assert checkpoint.sha256(tmp_path / "whole" / last) == checkpoint.sha256(broken / last)
