"""Two label columns of one file as two tasks: one pass of the encoder for both against a pass for each.

    python benchmarks/columns.py --encoder minilm --data sick-train.tsv --rounds 20

Both variants take the same step on the same batches, in one process, interleaved; a ratio is the median of the rounds' ratios.
`apart again` against `apart` shows how much of it is noise. The columns are those of SICK: a score and a class of pairs.

Prediction, before it was written: together/apart .5 to .55 for the plain sum (one forward and one backward pass instead of two), .8
to .85 for pcgrad (one forward pass instead of two, but a backward pass for the row of each task).
"""

import argparse
from dataclasses import replace
from functools import partial

from interleaved import machine, milliseconds, ratio, seconds_of

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.data.batches import Batch
from mtlcli.training.optimizer import clip_gradients
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import TrainingRun, set_up


def run_of(arguments: argparse.Namespace, method: str) -> TrainingRun:
    """Two tasks of one file, all in every step."""
    pair = {"train": arguments.data, "text": ["sentence_A", "sentence_B"], "encoding": "cross"}
    values = {
        "tasks": {
            "score": {**pair, "kind": "pair-regression", "label": "relatedness_score"},
            "class": {**pair, "kind": "nli", "label": "entailment_judgment"},
        },
        "encoder": {"name": arguments.encoder}, "balancer": method, "scheduler": "all-together",
        "training": {"steps": 10_000, "batch_size": 32, "device": arguments.device},
    }  # fmt: skip
    return set_up(resolve([Layer(values)]))


def measure(arguments: argparse.Namespace, method: str) -> None:
    """Print the ratios for one method."""
    run = run_of(arguments, method)
    run.model.train()

    def step(batches: list[Batch], together: bool) -> None:
        # Without a group, the rows of two tasks are encoded apart.
        batches = batches if together else [replace(batch, group=None) for batch in batches]
        combined = run.engine.run([TaskLoss(task, (batch,)) for task, batch in enumerate(batches)])
        clip_gradients([p.grad for p in run.model.parameters() if p.grad is not None], run.engine.norm(), 1.0)
        run.optimizer.step()
        combined.totals.tolist()

    apart, together = partial(step, together=False), partial(step, together=True)
    times = seconds_of(
        {"apart": apart, "apart again": apart, "together": together},
        lambda _: [source.next().to(run.device) for source in run.train],
        arguments.rounds,
        run.device,
    )
    for name in ("apart again", "together"):
        print(
            f"{method:8} {name:12} / apart {ratio(times, name, 'apart'):.3f}   median {milliseconds(times, name):.0f} ms"
        )


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(machine(arguments.rounds))
    for method in ("equal", "pcgrad"):
        measure(arguments, method)


if __name__ == "__main__":
    main()
