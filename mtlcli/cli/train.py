"""Implement `mtl train`."""

from mtlcli.cli import options
from mtlcli.cli.options import RunOptions
from mtlcli.distributed.world import world
from mtlcli.errors import MtlError


@options.takes_run_options()
def train(run: RunOptions) -> None:
    """Fine-tune one encoder on several tasks.

    Example: mtl train --task sst --task quora --task sts --balancer pcgrad --sample --output runs/demo
    """
    # Before the imports of torch, so that a wrong combination of flags is reported at once.
    trains_seeds = run.trains_seeds
    from mtlcli.cli.session import show_run, show_seeds
    from mtlcli.training.run import open_training
    from mtlcli.training.seeds import open_seeds

    if trains_seeds and not world().is_alone:
        raise MtlError(f"--seeds: {world().size} processes train one run together; start them for each seed in turn")
    if trains_seeds:
        show_seeds(
            open_seeds(run.seeds, run.output, run.configure, resume=run.resume, overwrite=run.overwrite), run.quiet
        )
    else:
        show_run(open_training(run.configure, run.output, resume=run.resume, overwrite=run.overwrite), run.quiet)
