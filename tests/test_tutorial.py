"""Every command of the README and of the tutorial runs, in the order of the page, in an empty folder."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import preloaded

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.slow


@pytest.fixture
def shell(tmp_path):
    """A function that runs lines in `sh`, in an empty folder where `mtl` and `python` are those of the tests."""
    programs, folder = tmp_path / "programs", tmp_path / "folder"
    for directory in (programs, folder):
        directory.mkdir()
    python = shlex.join(preloaded.python())
    for name, command in (("mtl", f"{python} -m mtlcli"), ("python", python)):
        (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}

    def run(lines: str) -> subprocess.CompletedProcess:
        command = ["sh", "-ec", lines]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)

    run.folder = folder
    return run


def blocks_of(page: Path) -> list[tuple[int, str]]:
    """Return the expected exit code and the lines of each `sh` block: "```sh exits with 2" expects code 2."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(int(note.rpartition(" ")[2] or 0), lines) for language, note, lines in blocks if language == "sh"]


def test_every_command_of_the_tutorial_runs_and_its_story_is_true(shell):
    printed = ""
    for code, lines in blocks_of(ROOT / "docs" / "tutorial.md"):
        ended = shell(lines)
        assert ended.returncode == code, f"{lines}\n{ended.stderr}"
        assert "Traceback" not in ended.stderr
        if code == 2:
            assert len(ended.stderr.splitlines()) == 1
        printed += ended.stdout
    results = {
        name: json.loads((shell.folder / "runs" / name / "results.json").read_text(encoding="utf-8"))
        for name in ("first", "second")
    }
    resumed, short = (
        {task: next(iter(splits["dev"].values()))["value"] for task, splits in results[name]["tasks"].items()}
        for name in ("first", "second")
    )
    assert short["queue"] > 0.95 and short["urgency"] > 0.95
    assert resumed["same"] > short["same"] + 0.1
    predictions = [json.loads(line) for line in printed.splitlines() if line.startswith('{"queue": ')]
    assert [line["queue"]["label"] for line in predictions] == ["shipping", "account"]


def test_every_command_of_the_readme_runs_and_beats_the_baselines(shell):
    shutil.copytree(ROOT / "examples", shell.folder / "examples")
    for code, lines in blocks_of(ROOT / "README.md"):
        ended = shell(lines)
        assert ended.returncode == code, f"{lines}\n{ended.stderr}"
    results = json.loads((shell.folder / "runs" / "demo" / "results.json").read_text(encoding="utf-8"))["tasks"]
    scores = {task: next(iter(splits["dev"].values()))["value"] for task, splits in results.items()}
    for task, bag_of_words in {"sst": 0.66, "quora": 0.78, "sts": 0.78}.items():
        assert scores[task] > bag_of_words, scores
