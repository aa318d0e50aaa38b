"""`mtl export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.console import err, say, size
from mtlcli.errors import MtlError, one_of

if TYPE_CHECKING:
    from mtlcli.export.onnx import OnnxSettings

FORMS = ("encoder", "peft", "onnx", "sentence-transformers")


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder to write. [default: for onnx and sentence-transformers, a folder of this name in the run]",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            "-t",
            help="Task to export. Repeat it for onnx, which exports all tasks by default; for encoder and peft, name one where the "
            "architecture gives each task its own encoder.",
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="encoder, a plain model; peft, the changes of LoRA alone for the package peft; onnx, encoder, head and decoding in "
            "one graph for each task; sentence-transformers, the encoder of a task whose head compares texts, with its layers.",
        ),
    ] = "encoder",
    joint: Annotated[
        bool, typer.Option("--joint", help="For onnx: one graph for all tasks of one text, with the outputs of each.")
    ] = False,
    decoding: Annotated[
        bool,
        typer.Option(
            # The leading space means that there is no flag --decoding.
            " /--no-decoding",
            help="For onnx: output what the heads compute, for heads whose decoding no graph can hold.",
        ),
    ] = True,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="For onnx: folder with the tasks' files, for the comparison with PyTorch. [default: the run's own rows]",
        ),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="For onnx: also write graphs with weights of 8 bits, and measure what that changes."
        ),
    ] = False,
    reduce_range: Annotated[
        bool, typer.Option("--reduce-range", help="For --int8: weights of 7 bits, for CPUs without VNNI.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="For --int8: keep graphs of 8 bits that agree on fewer than 90 % of rows.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what was exported to --output.")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a run in another form: a plain encoder, an adapter of the package peft, graphs of ONNX, or vectors of texts.

    A plain encoder has the changes of the run's architecture merged into the weights; it loads in transformers and in
    sentence-transformers, and as --encoder of another run. A graph of ONNX is compared with PyTorch on rows of the dev split before
    it is written. What a form cannot hold is refused.

    Example: mtl export runs/lora --task sst --output encoders/sst

    Example: mtl export runs/demo --format onnx
    """
    if form not in FORMS:
        raise MtlError(f'--format: found "{form}"; expected {one_of(FORMS)}')
    if form == "onnx":
        from mtlcli.export.onnx import OnnxSettings

        settings = OnnxSettings(tuple(task or ()), data, joint, decoding, overwrite, int8, reduce_range, force)
        _onnx(run, output or run / "onnx", settings, quiet=quiet)
        return
    # An option that has no effect would mislead.
    given = {"--joint": joint, "--no-decoding": not decoding, "--data": data is not None, "--int8": int8}
    if wrong := [flag for flag, is_given in given.items() if is_given]:
        raise MtlError(f"{wrong[0]}: is for --format onnx; remove it")
    if output is None and form == "sentence-transformers":
        output = run / form
    if output is None:
        raise MtlError("--output: name a folder")
    if len(task or ()) > 1:
        raise MtlError(f"--task: found {one_of(task or ())}; --format {form} exports one task")
    from mtlcli.export.encoder import export_encoder, export_peft
    from mtlcli.runs.saved_model import load_run

    saved, warnings = load_run(run)
    if not quiet:
        for warning in warnings:
            say(f"warning: {warning}", err)
    index = saved.task(task[0]) if task else None
    if form == "sentence-transformers":
        from mtlcli.export.sentence_transformers import export_sentence_transformers

        name = export_sentence_transformers(saved, index, output, overwrite=overwrite)
        if task is None and not quiet:
            say(f"task {name}")
    else:
        write = export_peft if form == "peft" else export_encoder
        write(saved, index, output, overwrite=overwrite)
    if not quiet:
        say(f"saved in {output}")


def _onnx(run: Path, folder: Path, settings: "OnnxSettings", *, quiet: bool) -> None:
    """Export graphs, and print how each compares with PyTorch."""
    from mtlcli.export.onnx import export_onnx

    graphs = export_onnx(run, folder, settings, (lambda _: None) if quiet else (lambda line: say(line, err)))
    if quiet:
        return
    for graph in graphs:
        say(f"{graph.name}.onnx: {size(graph.size)}, exported in {graph.seconds:.0f} s")
        for name, checked in graph.checked.items():
            say(
                f"  {name}: {checked.rows} rows of {checked.split}, largest difference from PyTorch {checked.difference:.1e}"
            )
        for name, int8 in graph.int8.items():
            # The first metric is the primary one.
            metric, value = next(iter(int8.metrics.items()))
            before = int8.float_metrics[metric]
            say(
                f"  {name} with 8 bits: {size(int8.size)}, {100 * int8.agreement:.1f} % of {int8.rows} rows as with floats; {metric} "
                f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f}), with floats {before.value:.4f}"
            )
    say(f"saved in {folder}")
