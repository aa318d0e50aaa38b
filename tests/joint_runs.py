"""Runs of some steps in one process and in several, for comparison."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import processes
from small import small_values

WORKER = str(Path(__file__).parent / "distributed" / "worker.py")
STEPS = 20
Start = Callable[[list[str], int], list[tuple[int, str, str]]]
"""Runs a command in several processes."""
UNEVEN = {"tone": 7, "same": 7, "near": 1}
"""Rows of a batch: not the same number for every process, and none of one task for all but the first."""


def case(
    name: str, files: Path, *, sizes: dict[str, int] = UNEVEN, cut: int = 0, **sections: object
) -> dict[str, object]:
    tasks = {task: {"batch_size": rows} for task, rows in sizes.items()}
    values = small_values(files)["tasks"]
    training = {"steps": STEPS, "dropout_by": "row", **sections.pop("training", {})}  # type: ignore[dict-item]
    sections = {"tasks": {task: values[task] | tasks[task] for task in values}, "optimizer": {"lr": 1e-3}, **sections}
    return {
        "name": name,
        "files": str(files),
        "steps": STEPS,
        "cut": cut,
        "sections": {**sections, "training": training},
    }


METHODS = {
    "equal": {},
    "pcgrad": {"balancer": "uncertainty", "gradient_regularizer": "pcgrad"},
    "gradvac": {"gradient_regularizer": {"name": "gradvac", "granularity": "layer"}},
    "gradnorm": {"balancer": "gradnorm"},
    "famo": {"balancer": "famo"},
    "graddrop": {"gradient_regularizer": "graddrop"},
    "stages": {
        "scheduler": {"name": "stages", "stages": [{"steps": 8, "freeze": ["embeddings"]}, {"steps": 12}]},
    },
    "micro-batches": {"training": {"micro_batches": 2}, "scheduler": "shuffled"},
    "entropy": {"scheduler": "entropy"},
    "bppo": {"regularizers": ["bppo"]},
    "soft-sharing": {"architecture": "soft-sharing", "regularizers": ["soft-sharing"]},
    "task-moe": {"architecture": {"name": "task-moe", "by": "token"}},
    "lora": {"architecture": {"name": "lora", "per": "both"}},
    "adversarial": {"architecture": "adversarial"},
    "attention-dropout": {"encoder": {"dropout": 0.2}, "architecture": "ca-mtl"},
}


def run(
    cases: list[dict[str, object]], size: int, folder: Path, start: Start = processes.together
) -> list[dict[str, dict]]:
    """What each process has at the end, by case."""
    if size == 1:
        train = runpy.run_path(WORKER)["train"]  # here, because the start of a process takes longer than the steps
        return [{str(each["name"]): train(each) for each in cases}]
    path = folder / f"cases-{size}.json"
    path.write_text(json.dumps(cases))
    ends = start([WORKER, str(path), str(folder)], size)
    assert all(code == 0 for code, _, _ in ends), ends
    return [
        {str(each["name"]): torch.load(folder / f"{each['name']}-{size}-{rank}.pt") for each in cases}
        for rank in range(size)
    ]


def distance(found: dict, expected: dict) -> float:
    """Norm of the difference over the norm, of weights and buffers of plugins together.

    Without the bias of the keys: softmax does not depend on it, so that its gradient is rounding, which Adam divides by itself.
    """
    assert found.keys() == expected.keys()
    kinds = [name for name, value in expected.items() if value.is_floating_point() and not name.endswith("key.bias")]
    ours, theirs = (torch.cat([state[name].double().flatten() for name in kinds]) for state in (found, expected))
    return float((ours - theirs).norm() / theirs.norm())


def must_be_equal(
    alone: dict[str, dict],
    cases: list[dict[str, object]],
    size: int,
    folder: Path,
    start: Start = processes.together,
    within: float = 1e-5,
) -> None:
    """Compare several processes with one that has trained alone, case by case."""
    of_ranks = run(cases, size, folder, start)
    for name, first in of_ranks[0].items():
        expected = alone[name]
        # What a wrong divisor changes at once.
        assert first["losses"][0] == pytest.approx(expected["losses"][0], rel=1e-5), (name, size)
        assert distance(first["state"], expected["state"]) < within, (name, size)
        assert first["norms"] == pytest.approx(expected["norms"], rel=100 * within), (name, size)
        for other in of_ranks[1:]:
            assert all(torch.equal(value, other[name]["state"][key]) for key, value in first["state"].items()), name
