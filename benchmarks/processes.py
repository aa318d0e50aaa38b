"""A step in several processes against the same step in one, on one machine.

    torchrun --nproc-per-node 2 benchmarks/processes.py --encoder minilm --data FOLDER --rounds 10

In each round, both variants take the same step on the same batches: the first process alone while the others wait, and all of them
together, each on its rows. A ratio is the median of the rounds' ratios; `alone again` against `alone` shows how much of it is noise.
`exchange` is the time in the one reduction of a step, waiting for the slowest process included.

Prediction, before it was written, for two processes of one thread each on two idle cores, 3 tasks of 32 rows: .55 to .6 for `equal`
(half of the passes, a sum of 90 MB, the optimizer twice), .6 to .7 for `pcgrad` (three rows of 90 MB).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.distributed.launch import Launch
from mtlcli.distributed.world import World, world
from mtlcli.training.engine import StepEngine
from mtlcli.training.optimizer import clip_gradients
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import TrainingRun, set_up


def run_of(arguments: argparse.Namespace, method: str) -> TrainingRun:
    """Three tasks, all in every step."""
    values = {
        "tasks": ["sst", "quora", "sts"], "encoder": {"name": arguments.encoder, "max_length": 64},
        "scheduler": "all-together", "training": {"steps": 10_000, "batch_size": arguments.rows, "device": arguments.device},
    }  # fmt: skip
    values |= {"data": arguments.data} if arguments.data else {"sample": True}
    values |= {"balancer": "equal", "gradient_regularizer": None if method == "equal" else method}
    return set_up(resolve([Layer(values)]))


def measure(arguments: argparse.Namespace, method: str) -> None:
    """Print the ratios for one method."""
    run, together = run_of(arguments, method), world()
    run.model.train()
    alone = StepEngine(
        run.model, run.balancer, run.gradient_regularizer, (), max_tasks=run.engine.max_tasks, autocast=nullcontext(),
        world=World(Launch()),
    )  # fmt: skip
    exchange = [0.0]
    sum_ = together.sum_

    def timed(tensor: torch.Tensor, *, in_step: bool = False) -> None:
        start = time.perf_counter()
        sum_(tensor, in_step=in_step)
        exchange[0] += time.perf_counter() - start

    together.sum_ = timed  # type: ignore[method-assign]
    names = ("alone", "alone again", "together")
    times: dict[str, list[float]] = {name: [] for name in (*names, "exchange")}
    for number in range(arguments.rounds + 2):
        rows = [source.next_rows() for source in run.train]
        for name in names[number % 3 :] + names[: number % 3]:
            engine, parts = (run.engine, together) if name == "together" else (alone, World(Launch()))
            together.gather(None)
            exchange[0], start = 0.0, time.perf_counter()
            if name == "together" or together.is_main:
                _step(run, engine, rows, parts)
            if name == "together":
                times["exchange"].append(exchange[0])
            times[name].append(time.perf_counter() - start)
    together.sum_ = sum_  # type: ignore[method-assign]
    if together.is_main:
        of = {name: values[2:] for name, values in times.items()}
        for name in ("alone again", "together"):
            ratio = statistics.median(a / b for a, b in zip(of[name], of["alone"], strict=True))
            print(f"{method:8} {name:12} / alone {ratio:.3f}   median {1000 * statistics.median(of[name]):.0f} ms")
        sent = 4 * run.engine.size * (1 if method == "equal" else run.engine.max_tasks) / 1e6
        print(f"{method:8} exchange median {1000 * statistics.median(of['exchange']):.0f} ms for {sent:.0f} MB")


def _step(run: TrainingRun, engine: StepEngine, rows: list[np.ndarray], parts: World) -> None:
    step = []
    for task, of_task in enumerate(rows):
        source = run.train[task]
        batch = replace(source.batch(of_task[parts.share(len(of_task))]), noise=len(rows))
        step.append(TaskLoss(task, (batch.to(run.device),), 1.0, (len(of_task), float(source.units(of_task).sum()))))
    combined = engine.run(step)
    clip_gradients([p.grad for p in run.model.parameters() if p.grad is not None], engine.norm(), 1.0)
    run.optimizer.step()
    combined.totals.tolist()


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--data")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    say: Callable[[str], None] = print if world().is_main else lambda _: None
    for method in ("equal", "pcgrad"):
        measure(arguments, method)
    say(
        f"torch {torch.__version__}, {world().size} processes of {torch.get_num_threads()} threads, {arguments.rounds} rounds"
    )
    world().leave()


if __name__ == "__main__":
    main()
