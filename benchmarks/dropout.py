"""What dropout by row costs in a step: of torch's stream, by row in the hidden states, and by row in the attention weights as well.

    python benchmarks/dropout.py --encoder FOLDER --data FOLDER --rounds 12

The three tasks of step.py in training mode, float32. `stream again` against `stream` shows how much is noise.

Prediction, for a CPU: both about 1.0. The hash is cheaper than torch's generator there, and attention with dropout is computed in plain
operations either way. Results are in benchmarks/README.md.
"""

import argparse

from interleaved import machine, ratio, seconds_of
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
    print(machine(arguments.rounds))
    runs = {variant: made(arguments, variant) for variant in VARIANTS}
    times = seconds_of(
        {variant: run.engine.run for variant, run in runs.items()},
        lambda _: [TaskLoss(task, (source.next(),)) for task, source in enumerate(runs["stream"].train)],
        arguments.rounds,
        arguments.device,
    )
    for variant in VARIANTS[1:]:
        print(f"{variant:22} / stream {ratio(times, variant, 'stream'):.3f}")


if __name__ == "__main__":
    main()
