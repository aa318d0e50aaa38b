"""`mtl train`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.interrupts import Interrupts

if TYPE_CHECKING:
    from mtlcli.config.layers import Layer
    from mtlcli.config.schema import Config


def train(
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
    seeds: options.Seeds = None,
    select_by: options.SelectBy = None,
    patience: options.Patience = None,
    precision: options.Precision = None,
    device: options.Device = None,
    on_bad_row: options.OnBadRow = None,
    sets: options.Set = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run folder. [default: runs/TASKS-METHOD-TIME]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output; start it if there is none.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --output.")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train one encoder on several tasks.

    Example: mtl train --task sst --task quora --task sts --balancer pcgrad --sample --output runs/demo
    """
    flags = {name: value for name, value in locals().items() if name in options.FLAGS}

    def configure(base: "Layer | None", resumed: "Layer | None") -> "Config":
        return options.configure(config, task, sample, balancer, on_bad_row, sets, flags, base, resumed)

    from mtlcli.cli.seeds import is_group, train_seeds
    from mtlcli.cli.session import default_output, prepare_run, run, tell_changes
    from mtlcli.errors import MtlError
    from mtlcli.runs.folder import open_folder, stored_layer

    if seeds is not None or (resume and output is not None and is_group(output)):
        if seed is not None or any(text.partition("=")[0].strip() == "training.seed" for text in sets or ()):
            raise MtlError("--seeds runs once for each seed: leave --seed and training.seed out")
        again = config is None  # a recipe given again is the whole configuration, to be compared
        train_seeds(seeds, output, configure, resume=resume, overwrite=overwrite, again=again, quiet=quiet)
        return
    if resume and output is None:
        raise MtlError("--resume: which run? name its folder with --output")
    if output is not None:
        found = open_folder(output, resume=resume, overwrite=overwrite)
    stored = stored_layer(output) if resume and output is not None else None
    base = stored if config is None else None  # a recipe given again is the whole configuration, to be compared
    resumed = stored if output is not None and found is not None else None
    chosen = configure(base, resumed)
    if output is None:
        output, found = default_output(chosen), None
    if found is not None and stored is not None:
        tell_changes(stored, chosen, output, quiet)
    start = time.monotonic()
    prepared = prepare_run(chosen, found, quiet)
    with Interrupts() as interrupts:
        run(prepared, output, found, start, interrupts.asked, quiet)
        if interrupts.signal is not None:
            raise typer.Exit(128 + interrupts.signal)
