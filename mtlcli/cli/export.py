"""`mtl export`."""

from pathlib import Path
from typing import Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.console import err, say
from mtlcli.errors import MtlError


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the encoder.")],
    task: Annotated[
        str | None,
        typer.Option(
            "--task", "-t", help="Task whose encoder to write, where the architecture gives each task its own."
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="encoder, or peft: the changes of LoRA alone, for the package peft.")
    ] = "encoder",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what was exported to --output.")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write the encoder of a run as a plain model, with the changes of its architecture merged into the weights.

    The folder loads in transformers and in sentence-transformers, and as --encoder of another run. An architecture that no plain
    encoder can hold is refused.

    Example: mtl export runs/lora --task sst --output encoders/sst
    """
    if form not in ("encoder", "peft"):
        raise MtlError(f'--format: found "{form}"; expected encoder or peft')
    from mtlcli.runs.saved_model import export_encoder, export_peft, load_run

    saved, warnings = load_run(run)
    if not quiet:
        for warning in warnings:
            say(f"warning: {warning}", err)
    write = export_peft if form == "peft" else export_encoder
    write(saved, None if task is None else saved.task(task), output, overwrite=overwrite)
    if not quiet:
        say(f"saved in {output}")
