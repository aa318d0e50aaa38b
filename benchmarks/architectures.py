"""Architectures against hard sharing: time of a step, peak memory, parameters, and what a further task adds to a run folder.

    python benchmarks/architectures.py --encoder minilm --data FOLDER --rounds 12

Each architecture with its defaults takes the same step on the same batches as hard sharing, in one process, interleaved; a ratio is the
median of the rounds' ratios. `hard-sharing again` against `hard-sharing` shows how much of it is noise. Peak memory is that of a
process of its own, which sets up the run and takes three steps.

Prediction, before it was written: adapters and LoRA .75 to .85 of the time (no gradients of weights, so two thirds of the products, plus
small ones that do not fill the cores), and 250 MB less memory (gradient and two moments of 22.7 M parameters).
"""

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path

from interleaved import machine, ratio, seconds_of

from mtlcli import registry
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.training.optimizer import clip_gradients
from mtlcli.training.passes import TaskLoss
from mtlcli.training.plan import model_sizes
from mtlcli.training.setup import TrainingRun, set_up

TASKS = ("sst", "quora", "sts")


def run_of(arguments: argparse.Namespace, name: str) -> TrainingRun:
    """Return a run of three tasks with an architecture."""
    data = {"sample": True} if arguments.data is None else {"data": arguments.data}
    values = {
        **data, "tasks": list(TASKS), "encoder": {"name": arguments.encoder}, "architecture": name,
        "training": {"steps": 10_000, "batch_size": 16, "device": arguments.device},
    }  # fmt: skip
    run = set_up(resolve([Layer(values)]))
    run.model.train()
    return run


def take_step(run: TrainingRun, step: list[TaskLoss]) -> None:
    """Take one step on these batches."""
    combined = run.engine.run(step)
    clip_gradients([p.grad for p in run.model.parameters() if p.grad is not None], run.engine.norm(), 1.0)
    run.optimizer.step()
    combined.totals.tolist()


def batches_of(run: TrainingRun) -> list[TaskLoss]:
    """Return the next batch of every task."""
    return [TaskLoss(task, (source.next().to(run.device),)) for task, source in enumerate(run.train)]


def measure(arguments: argparse.Namespace, plain: TrainingRun, name: str) -> None:
    """Print the row of one architecture."""
    run = plain if name == "hard-sharing again" else run_of(arguments, name)
    times = seconds_of(
        {"hard-sharing": partial(take_step, plain), name: partial(take_step, run)},
        lambda _: batches_of(plain),
        arguments.rounds,
        plain.device,
    )
    sizes = model_sizes(run.model)
    heads = [sum(p.numel() for p in head.parameters()) for head in run.model.heads]
    by_task = [4 * (added + head) for added, head in zip(sizes.added_for, heads, strict=True)]
    share = 100 * sizes.trainable / sizes.everything
    print(
        f"| `{name}` | {ratio(times, name, 'hard-sharing'):.2f} | {peak(arguments, name):,} | {sizes.trainable:,} ({share:.3g} %) | "
        f"{sizes.added:,} | {max(sizes.added_for):,} | {max(by_task) / 1e3:,.0f} |",
        flush=True,
    )


def peak(arguments: argparse.Namespace, name: str) -> int:
    """Return the peak memory in MB of a process that takes three steps with an architecture."""
    command = [sys.executable, __file__, "--alone", name.removesuffix(" again"), "--encoder", arguments.encoder]
    command += ["--device", arguments.device, *(["--data", arguments.data] if arguments.data else [])]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def alone(arguments: argparse.Namespace) -> None:
    """Take three steps and print the peak memory of this process in MB."""
    run = run_of(arguments, arguments.alone)
    for _ in range(3):
        take_step(run, batches_of(run))
    # Not ru_maxrss, which a new process takes over from the one that starts it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(int(status.split("VmHWM:")[1].split()[0]) // 1000)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--data")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", help="architectures to measure; by default all that are installed")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        alone(arguments)
        return
    print(machine(arguments.rounds))
    print(
        "| architecture | step / hard sharing | peak memory, MB | trainable | added | per task | kB in a run folder for a task |"
    )
    print("|---|---|---|---|---|---|---|")
    plain = run_of(arguments, "hard-sharing")
    names = arguments.only or [name for name in registry.names("architectures") if name != "hard-sharing"]
    for name in ["hard-sharing again", *names]:
        measure(arguments, plain, name)


if __name__ == "__main__":
    main()
