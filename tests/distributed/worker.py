"""Train small runs for some steps, alone or together with others, and store what every process has at the end.

Usage: worker.py CASES OUTPUT, where CASES is a JSON file: [{"name", "files", "sections", "steps", "cut", "overlaps"}].
"""

import io
import json
import sys
from pathlib import Path

import torch

from mtlcli.distributed.sharding import whole
from mtlcli.distributed.world import world
from mtlcli.training import step as stepping
from mtlcli.training.agreement import check_agreement, check_equal_weights
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import set_up
from mtlcli.training.state import Progress
from mtlcli.training.step import enter_stage, take_step
from small import small_config


def cut(run, pieces: int, parts: list[TaskLoss]) -> list[TaskLoss]:
    """Run every batch in several passes: the distance to the run in one pass is rounding."""
    steps = []
    for part in parts:
        whole = (part.count, part.units)
        batches = []
        for batch in part.batches:
            of_pieces = [rows for at in range(pieces) if len(rows := batch.rows[at::pieces])]
            batches += [run.train[part.task].batch(rows, batch.noise) for rows in of_pieces]
        steps.append(TaskLoss(part.task, tuple(batches), part.weight, whole))
    return steps


def train(case: dict) -> dict:
    config = small_config(Path(case["files"]), **case["sections"])
    run = set_up(config)
    check_agreement(run)
    progress = Progress(cursors=[0] * len(run.tasks))
    torch.manual_seed(config.training.seed)
    draw = stepping._draw
    if case.get("cut"):
        stepping._draw = lambda *arguments: cut(run, case["cut"], draw(*arguments))
    if case.get("overlaps") and run.engine.exchange is not None:
        run.engine.exchange.overlaps = True
    losses, norms, log = [], [], io.StringIO()
    run.model.train()
    for _ in range(case["steps"]):
        for _text in enter_stage(run, Path("."), progress):
            pass
        stepped = take_step(run, progress, log)
        losses.append(stepped.losses)
        norms.append(stepped.gradient_norm)
    stepping._draw = draw
    check_equal_weights(run)
    state = {f"model.{name}": whole(value) for name, value in run.model.state_dict().items()}
    for name, plugin in run.plugins().items():
        state |= {
            f"{name}.{key}": value for key, value in plugin.state_dict().items() if isinstance(value, torch.Tensor)
        }
    return {"losses": losses, "norms": norms, "state": state}


if __name__ == "__main__":
    output = Path(sys.argv[2])
    for case in json.loads(Path(sys.argv[1]).read_text()):
        torch.save(train(case), output / f"{case['name']}-{world().size}-{world().rank}.pt")
    world().leave()
