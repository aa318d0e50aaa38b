"""`mtl card`."""

from pathlib import Path
from typing import Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.console import say
from mtlcli.errors import MtlError


def card(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a README.md that was changed by hand.")
    ] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write the model card of a run, README.md, from what is known: tasks, rows, metrics with intervals, recipe and data.

    A run writes its card when it ends. This command writes it again, for example after an export or a change of its folder's name.

    Example: mtl card runs/demo
    """
    from mtlcli.export.card import CARD, write_card

    if not write_card(run, overwrite=overwrite):
        raise MtlError(f"{run / CARD}: was changed by hand; add --overwrite to replace it")
    if not quiet:
        say(f"saved in {run / CARD}")
