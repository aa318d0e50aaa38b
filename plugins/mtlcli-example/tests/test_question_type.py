import json
import subprocess
import sys
from pathlib import Path

from mtlcli_example.question_type import QuestionType

from mtlcli.testing import check_task


def test_contract() -> None:
    check_task(QuestionType)


def test_36_deeds_are_asked_for_in_twelve_ways() -> None:
    task = QuestionType("question-type")
    rows = {split: len(list(task.sample(split))) for split in ("train", "dev", "test")}
    assert rows == {"train": 12 * 26, "dev": 12 * 5, "test": 12 * 5}


def mtl(*arguments: object) -> str:
    """Runs the command line -> what it prints."""
    done = subprocess.run([sys.executable, "-m", "mtlcli", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_task_balancer_and_head_train_and_predict_from_the_command_line(tmp_path: Path) -> None:
    run, questions = tmp_path / "run", tmp_path / "questions.txt"
    mtl(
        "train", "--task", "question-type", "--task", "again", "--set", "tasks.again.kind=question-type", "--sample",
        "--balancer", "loss-rank", "--set", "tasks.question-type.head=hidden-layer", "--set", "encoder.dim=32",
        "--set", "encoder.layers=1", "--steps", 2, "--quiet", "--output", run,
    )  # fmt: skip
    assert "question-type" in mtl("eval", run)
    questions.write_text("who sold the red boat?\nhow many people found a gold coin?\n")
    lines = mtl("predict", run, "--task", "question-type", questions).splitlines()
    labels = [json.loads(line)["question-type"]["label"] for line in lines]
    assert len(labels) == 2
    assert set(labels) <= set(QuestionType.target.labels)
