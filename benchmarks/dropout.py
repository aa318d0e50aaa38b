"""What dropout by row costs in a step: of torch's stream, by row in the hidden states, and by row in the attention weights as well.

    python benchmarks/dropout.py --encoder FOLDER --data FOLDER --rounds 12

The three tasks of step.py in training mode, float32. `stream again` against `stream` shows how much is noise.

Prediction, for a CPU: both about 1.0. The hash is cheaper than torch's generator there, and attention with dropout is computed in plain
operations either way. Results are in benchmarks/README.md.
"""

import argparse
import statistics
import time

import torch
from step import configuration

from mtlcli.model.row_attention import use_row_attention
from mtlcli.model.row_noise import use_row_dropout
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import TrainingRun, set_up

VARIANTS = ("stream", "stream again", "hidden states by row", "attention by row too")


def made(arguments: argparse.Namespace, variant: str) -> TrainingRun:
    """A run in training mode whose dropout draws like this."""
    config = configuration(arguments, "equal")
    config.training.precision = "fp32"
    run = set_up(config)
    if "row" in variant:
        use_row_dropout(run.model)
    if "attention" in variant:
        use_row_attention(run.model.architecture.encoder)  # type: ignore[arg-type]
    run.model.train()
    return run


def main() -> None:
    """Runs the rounds and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--data", default=None)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.rounds} rounds")
    runs = {variant: made(arguments, variant) for variant in VARIANTS}
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for number in range(arguments.rounds + 2):
        batches = [TaskLoss(task, (one.next(),)) for task, one in enumerate(runs["stream"].train)]
        shift = number % len(VARIANTS)
        for variant in (*VARIANTS[shift:], *VARIANTS[:shift]):
            start = time.perf_counter()
            runs[variant].engine.run(batches)
            if arguments.device != "cpu":
                torch.cuda.synchronize()
            times[variant].append(time.perf_counter() - start)
    base = times["stream"][2:]
    for variant in VARIANTS[1:]:
        ratio = statistics.median(a / b for a, b in zip(times[variant][2:], base, strict=True))
        print(f"{variant:22} / stream {ratio:.3f}")


if __name__ == "__main__":
    main()
