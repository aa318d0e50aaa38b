"""A step on a frozen encoder with its features kept (training.feature_memory) against one that encodes the texts anew.

    python benchmarks/frozen.py --encoder minilm --data FOLDER --rounds 20

Quora as in examples/best/quora.yaml: two texts a row, 64 rows, the head `pair-compare`, bf16. Both variants take the same batches in
every round; `anew again` against `anew` shows how much is noise. Keeping costs one pass over all texts, which is timed as well, on
2,048 rows.

Prediction, before it was written: a step .10 of the other (the head alone: 2304 x 512 weights on 64 rows), keeping a row .7 of a row
in a step that encodes anew (no head, better batches); a run of 8 epochs then takes (.7 + 8 x .10) / 8 = .19 of its time.
Results are in benchmarks/README.md.
"""

import argparse
import statistics
import time
from dataclasses import replace
from functools import partial

import torch
from interleaved import machine, milliseconds, ratio, seconds_of

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.data.batches import batches_per_pass
from mtlcli.data.tokenizer import TokenSequences
from mtlcli.data.tokens import TokenizedSplit
from mtlcli.model.frozen import compute_features
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import TrainingRun, set_up


def made(arguments: argparse.Namespace) -> TrainingRun:
    """A run whose encoder is frozen."""
    head = {"name": "pair-compare", "layers": [-1, -2], "hidden": [512], "dropout": 0.4}
    values = {
        "tasks": {"quora": {"encoding": "bi", "head": head}},
        "encoder": {"name": arguments.encoder},
        "training": {"steps": 10_000, "batch_size": 64, "device": arguments.device, "precision": arguments.precision},
    }
    values |= {"data": arguments.data} if arguments.data else {"sample": True}
    run = set_up(resolve([Layer(values)]))
    run.model.freeze(("encoder",))
    run.model.train()
    return run


def some(tokenized: TokenizedSplit, rows: int) -> TokenizedSplit:
    """The first rows."""
    sides = tuple(
        TokenSequences(one.tokens, one.starts[: rows + 1], one.types, one.truncated) for one in tokenized.sides
    )
    gold = None if tokenized.gold is None else tokenized.gold.take(slice(rows))
    return replace(tokenized, sides=sides, gold=gold)


def wait(device: torch.device) -> None:
    """Wait for a GPU, whose work goes on behind a call."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Runs the rounds and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--data", default=None)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="bf16", help="bf16 needs a CPU that has it; fp32 runs on any")
    arguments = parser.parse_args()
    run = made(arguments)
    batches = run.train[0]
    rounds = min(arguments.rounds, batches_per_pass(len(batches.tokenized), 64))
    kept = compute_features(run.model, 0, batches.tokenized, run.device, run.autocast)
    variants = {"anew": {}, "anew again": {}, "kept": {0: kept}}
    passes: list[float] = []
    part = some(batches.tokenized, 64 * 32)

    def work(number: int) -> list[TaskLoss]:
        if number % 8 == 0:
            start = time.perf_counter()
            compute_features(run.model, 0, part, run.device, run.autocast)
            wait(run.device)
            passes.append((time.perf_counter() - start) / 32)
        return [TaskLoss(0, (batches.next().to(run.device),))]

    def step(of_round: list[TaskLoss], features: dict[int, object]) -> None:
        run.engine.passes.features = features
        run.engine.run(of_round)

    times = seconds_of(
        {name: partial(step, features=features) for name, features in variants.items()}, work, rounds, run.device
    )
    print(machine(rounds))
    for name in ("anew again", "kept"):
        print(f"step: {name:10} / anew {ratio(times, name, 'anew'):.3f}")
    of_pass = 1000 * statistics.median(passes)
    print(f"keeping 64 rows / a step anew on 64 rows {of_pass / milliseconds(times, 'anew'):.3f}")


if __name__ == "__main__":
    main()
