"""The training step against a bare hand-written loop over the same batches, and PCGrad against the plain sum.

    python benchmarks/step.py --encoder minilm --data FOLDER --rounds 30
    python benchmarks/step.py --encoder minilm --tags wnut17-train.conll --head tag-crf

Bare is what one would write by hand for exactly this model: a forward and a backward pass per task, clipping, fused AdamW.
All variants run in one process, interleaved, on the same batches in every round; each ratio is the median of the rounds'
ratios, and `bare again` against `bare` shows how much of it is noise.

Prediction, before it was written: equal/bare 1.00 to 1.03 (the same tensor work; one list of gradients, one log line),
pcgrad/equal 1.05 to 1.12 (rows are copied once, 3 x 23 M floats are read for the Gram matrix and again to be combined).
Results with machine and versions are in benchmarks/README.md.
"""

import argparse
import copy
from collections.abc import Callable

import torch
from interleaved import machine, milliseconds, ratio, seconds_of

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.training.optimizer import clip_gradients, set_rates
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import TrainingRun, set_up


def configuration(arguments: argparse.Namespace, method: str) -> Config:
    """The three tasks of the README, or one of tags, with a balancer."""
    tasks = {"sst": {}, "quora": {"encoding": "cross"}, "sts": {"encoding": "bi"}}
    if getattr(arguments, "tags", None):
        tasks = {"tags": {"kind": "tagging", "train": arguments.tags, "head": arguments.head}}
    values = {
        "tasks": tasks,
        "encoder": {"name": arguments.encoder},
        "balancer": method,
        "training": {"steps": 10_000, "batch_size": 16, "device": arguments.device},
    }
    if "sst" in tasks:
        values |= {"data": arguments.data} if arguments.data else {"sample": True}
    return resolve([Layer(values)])


def ours(run: TrainingRun) -> Callable[[list[TaskLoss]], None]:
    """The engine, clipping and the optimizer, as a training step has them."""
    run.model.train()

    def step(batches: list[TaskLoss]) -> None:
        combined = run.engine.run(batches)
        clip_gradients([p.grad for p in run.model.parameters() if p.grad is not None], run.engine.norm(), 1.0)
        combined.totals.tolist()
        set_rates(run.optimizer, 1e-3)
        run.optimizer.step()

    return step


def bare(run: TrainingRun) -> Callable[[list[TaskLoss]], None]:
    """The same model without the engine."""
    model = copy.deepcopy(run.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-8, fused=True)

    def step(batches: list[TaskLoss]) -> None:
        optimizer.zero_grad()
        losses = []
        for one in batches:
            with run.autocast:
                batch = one.batches[0]
                loss = model.heads[one.task].loss(model(one.task, batch), batch.gold).sum() / batch.units
            loss.backward()
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        [float(loss) for loss in losses]

    return step


def main() -> None:
    """Runs the rounds and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--data", default=None)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tags", default=None, help="a training file of tags, for a run of this task alone")
    parser.add_argument("--head", default="tag-linear", help="the head of the tags")
    arguments = parser.parse_args()
    equal = set_up(configuration(arguments, "equal"))
    variants = {"bare": bare(equal), "bare again": bare(equal), "equal": ours(equal)}
    methods = () if arguments.tags else ("pcgrad", "uncertainty", "tchebycheff")
    for method in methods:
        variants[method] = ours(set_up(configuration(arguments, method)))
    times = seconds_of(
        variants,
        lambda _: [TaskLoss(task, (source.next().to(equal.device),)) for task, source in enumerate(equal.train)],
        arguments.rounds,
        equal.device,
    )
    print(
        f"{equal.plan.encoder}, {equal.plan.encoder_parameters / 1e6:.1f} M parameters, {equal.device}, {machine(arguments.rounds)}"
    )
    for name, base in (("bare again", "bare"), ("equal", "bare"), *((method, "equal") for method in methods)):
        print(f"{name:12} / {base:6} {ratio(times, name, base):.3f}   median {milliseconds(times, name):.0f} ms")


if __name__ == "__main__":
    main()
