"""`mtl check`."""

from typing import TYPE_CHECKING

from mtlcli.cli import options
from mtlcli.cli.console import err, say, show_plan, size, table

if TYPE_CHECKING:
    from mtlcli.data.splits import LoadedTask


def check(
    task: options.Tasks = None,
    config: options.ConfigFile = None,
    data: options.Data = None,
    sample: options.Sample = False,
    init: options.Init = None,
    encoder: options.Encoder = None,
    pooling: options.Pooling = None,
    max_length: options.MaxLength = None,
    scheduler: options.SchedulerName = None,
    balancer: options.BalancerName = None,
    regularizer: options.Regularizers = None,
    epochs: options.Epochs = None,
    steps: options.Steps = None,
    batch_size: options.BatchSize = None,
    micro_batches: options.MicroBatches = None,
    lr: options.Lr = None,
    head_lr: options.HeadLr = None,
    seed: options.Seed = None,
    select_by: options.SelectBy = None,
    patience: options.Patience = None,
    precision: options.Precision = None,
    device: options.Device = None,
    on_bad_row: options.OnBadRow = None,
    sets: options.Set = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Find everything that can be wrong with a run, before anything is slow. Writes nothing.

    Reads all rows, prints the mixing plan, and runs one forward and backward pass per task on its longest batch.

    Example: mtl check --task sst --task quora --balancer pcgrad --sample
    """
    flags = {name: value for name, value in locals().items() if name in options.FLAGS}
    chosen = options.configure(config, task, sample, balancer, on_bad_row, sets, flags)
    from mtlcli.training.dry_run import dry_run
    from mtlcli.training.setup import set_up

    prepared = set_up(chosen, tell=lambda line: None if quiet else say(line, err))
    found = dry_run(prepared)
    if quiet:
        return
    show_plan(prepared.plan)
    columns = [
        ("longest batch", ""),
        ("texts", "right"),
        ("tokens each", "right"),
        ("loss", "right"),
        ("seconds", "right"),
        ("memory", "right"),
    ]
    table(
        "",
        columns,
        [
            (one.task, f"{one.texts}", f"{one.length}", f"{one.loss:.3f}", f"{one.seconds:.2f}", size(one.peak_bytes))
            for one in found
        ],
    )
    for loaded in prepared.tasks:
        say(f"{loaded.task.name}: {_labels(loaded)}")
    say("nothing is wrong")


def _labels(loaded: "LoadedTask") -> str:
    from collections import Counter

    from mtlcli.tasks.targets import Classes

    targets = loaded.splits["train"].targets
    if not isinstance(loaded.target, Classes):
        return f"scores {targets.min():g} to {targets.max():g}, mean {targets.mean():.3g}, standard deviation {targets.std():.3g}"
    counts = Counter(targets.tolist())
    shown = [f"{label} {counts.get(index, 0)}" for index, label in enumerate(loaded.target.labels[:10])]
    more = len(loaded.target.labels) - len(shown)
    return "labels " + ", ".join(shown) + (f", and {more} more" if more else "")
