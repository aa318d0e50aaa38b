"""What every balancer, gradient regularizer and regularizer adds to a training step of three tasks.

    python benchmarks/methods.py --encoder minilm --data FOLDER --rounds 20

All methods run in one process on one model, one optimizer and one buffer of rows, interleaved: in every round each method
takes one step on the same batches, in an order that rotates. A ratio is the median of the rounds' ratios to `equal`;
`equal again` shows how much of it is noise. A step is what training does: the engine, clipping, fused AdamW, and what the
method hears afterwards. The rate is so small that the weights stay where they are. Methods that need options get them here.

Prediction, before it was run: 1.04 to 1.08 for every method of the Gram matrix (rows are copied once and read twice), 1.1
for graddrop (it reads the rows once more and draws a number for each column), 1.3 for famo (a forward pass more), 2 to 3
for smart, 1.3 for bppo, 1.02 to 1.05 for pulls on the weights. Results with machine and versions are in
benchmarks/README.md.
"""

import argparse
import contextlib
from collections.abc import Callable
from typing import Any

import torch
from interleaved import machine, milliseconds, ratio, seconds_of

from mtlcli import registry
from mtlcli.balancers.equal import Equal
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.facts import RunFacts
from mtlcli.plugin import SetupContext, StepResult
from mtlcli.tasks.targets import Arrays
from mtlcli.training.engine import StepEngine
from mtlcli.training.gradient_rows import blocks
from mtlcli.training.optimizer import clip_gradients, set_rates
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import TrainingRun, set_up

OPTIONS: dict[str, dict[str, Any]] = {
    "static": {"weights": {"sst": 2.0}},
    "epoch-sigmoid": {"start": {"sts": 1.0}},
    "distill-anneal": {"teachers": {"sst": "", "quora": "", "sts": ""}},
    "gradvac per layer": {"granularity": "layer"},
    "gradvac per tensor": {"granularity": "tensor"},
}
"""Options of a method, or of a variant whose name begins with that of its method."""


def configuration(arguments: argparse.Namespace, architecture: str) -> Config:
    """The three tasks of the README."""
    values = {
        "tasks": {"sst": {}, "quora": {"encoding": "cross"}, "sts": {"encoding": "bi"}},
        "encoder": {"name": arguments.encoder},
        "architecture": architecture,
        "training": {"steps": 10_000, "batch_size": 16, "device": arguments.device},
    }
    values |= {"data": arguments.data} if arguments.data else {"sample": True}
    return resolve([Layer(values)])


class Method:
    """One method's engine on the common model."""

    def __init__(self, run: TrainingRun, family: str, name: str, rows_of: "Method | None") -> None:
        facts = RunFacts(run.facts)
        self.run = run
        self.balancer: Any = Equal(facts)
        plugin: Any = None
        if family:
            plugin = registry.load(family, name.split(" per ")[0], "benchmark")(facts, **OPTIONS.get(name, {}))
            plugin.setup(start_of(run))
            plugin.to(run.device)
        if family == "balancers":
            self.balancer = plugin
        self.plugin = plugin
        regularizer = plugin if family == "gradient_regularizers" else None
        regularizers = [plugin] if family == "regularizers" else []
        self.engine = StepEngine(
            run.model, self.balancer, regularizer, regularizers, max_tasks=3, autocast=run.autocast
        )
        if rows_of is not None:
            self.engine.rows, self.engine._views = rows_of.engine._buffer(3), rows_of.engine._views
        learned = list(plugin.parameters()) if plugin is not None else []
        self.own = torch.optim.AdamW(learned, lr=1e-6) if learned else None

    def step(self, batches: list[TaskLoss], number: int) -> None:
        """What training does in a step."""
        run = self.run
        combined = self.engine.run(batches)
        clip_gradients([p.grad for p in run.model.parameters() if p.grad is not None], run.engine.norm(), 1.0)
        combined.totals.tolist()
        set_rates(run.optimizer, 1e-3)
        run.optimizer.step()
        if self.own is not None:
            self.own.step()
        after = self.engine.passes.losses_after(batches) if "losses-after" in self.balancer.needs else None
        if self.plugin is not None:
            self.plugin.on_step(
                StepResult(
                    number, combined.tasks.cpu(), combined.losses, combined.weights.detach(), combined.gram, after
                )
            )
            if self.engine.regularizers:
                self.plugin.after_step(run.model)


def start_of(run: TrainingRun) -> SetupContext:
    """What plugins see before step 1; a teacher is sure of nothing."""

    def teach(folder: str, task: int) -> Arrays:
        target, rows = run.facts[task].target, run.facts[task].rows
        # the average over as many votes as there are classes, each for another one
        votes = [target.examples(rows + shift).take(slice(shift, None)) for shift in range(target.outputs())]
        taught = target.soft(target.average(votes, [target] * len(votes)))
        if taught is None:
            raise ValueError(f"{run.facts[task].name} cannot be taught")
        return taught

    names = {kind: tuple(name for name, _ in blocks(run.model, kind)) for kind in ("layer", "tensor")}
    return SetupContext(run.model, run.encoder.dim, 10_000, names.__getitem__, teach)


def compare(run: TrainingRun, chosen: list[tuple[str, str]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round's step by method."""
    rows_of = Method(run, "gradient_regularizers", "pcgrad", None)
    variants: dict[str, Callable[[list[TaskLoss], int], None]] = {
        "equal": Method(run, "", "equal", None).step,
        "equal again": Method(run, "", "equal", None).step,
    }
    for family, name in chosen:
        variants[name] = Method(run, family, name, rows_of).step

    def work(number: int) -> tuple[list[TaskLoss], int]:
        return [TaskLoss(task, (source.next().to(run.device),)) for task, source in enumerate(run.train)], number + 1

    steps = {name: lambda of_round, step=step: step(*of_round) for name, step in variants.items()}
    return seconds_of(steps, work, rounds, run.device)


def main() -> None:
    """Runs the rounds and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="only these")
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--data", default=None)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    families = ("balancers", "gradient_regularizers", "regularizers")
    chosen = [(family, name) for family in families for name in registry.FAMILIES[family].built_in if name != "equal"]
    chosen += [("gradient_regularizers", name) for name in OPTIONS if " per " in name]
    if arguments.methods:
        chosen = [one for one in chosen if one[1] in arguments.methods]
    towers = {name for family, name in chosen if family == "regularizers" and _needs_towers(name)}
    print(machine(arguments.rounds))
    for architecture, group in (
        ("hard-sharing", [one for one in chosen if one[1] not in towers]),
        ("soft-sharing", [one for one in chosen if one[1] in towers]),
    ):
        if not group:
            continue
        run = set_up(configuration(arguments, architecture))
        print(f"{run.plan.encoder}, {run.plan.encoder_parameters / 1e6:.1f} M parameters, {architecture}, {run.device}")
        times = compare(run, group, arguments.rounds)
        for name in times:
            print(f"{name:24} {ratio(times, name, 'equal'):.3f} of equal   median {milliseconds(times, name):.0f} ms")


def _needs_towers(name: str) -> bool:
    with contextlib.suppress(AttributeError):
        return "towers" in registry.load("regularizers", name, "benchmark").needs
    return False


if __name__ == "__main__":
    main()
