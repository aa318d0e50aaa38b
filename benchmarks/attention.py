"""A step in bf16 on a CPU with transformers' attention in plain operations (`eager`), which a run takes there, against torch's own.

    python benchmarks/attention.py --encoder minilm --data FOLDER --rounds 12

The three tasks of step.py in training mode: once as they are, and once with SMART and its dropout off, whose passes have no dropout in
the attention. `sdpa again` against `sdpa` shows how much is noise.

There was no prediction: the numbers came first, from a script without the control. With dropout torch too takes plain
operations; without, a fused kernel whose backward pass took 10 times as long for 16 texts of 32 tokens (12.8 ms against 1.3).
Results are in benchmarks/README.md.
"""

import argparse

from interleaved import machine, ratio, seconds_of
from step import configuration

from mtlcli.config.schema import Choice
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import TrainingRun, set_up


def made(arguments: argparse.Namespace, attention: str, smart: bool) -> TrainingRun:
    """A run in training mode with this attention."""
    config = configuration(arguments, "equal")
    config.training.precision = "bf16"
    if smart:
        config.regularizers = [Choice(name="smart", dropout="off")]  # type: ignore[call-arg]
    run = set_up(config)
    run.model.architecture.encoder.set_attn_implementation(attention)  # type: ignore[operator]
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
    for smart in (False, True):
        runs = {name: made(arguments, name.split()[0], smart) for name in ("sdpa", "sdpa again", "eager")}
        times = seconds_of(
            {name: run.engine.run for name, run in runs.items()},
            lambda _, sources=runs["sdpa"].train: [
                TaskLoss(task, (source.next(),)) for task, source in enumerate(sources)
            ],
            arguments.rounds,
        )
        for name in ("sdpa again", "eager"):
            print(f"{'SMART, dropout off' if smart else 'plain':18}  {name:10} / sdpa {ratio(times, name, 'sdpa'):.3f}")


if __name__ == "__main__":
    main()
