"""`mtl predict`."""

import csv
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from mtlcli.cli import options
from mtlcli.cli.console import err, say
from mtlcli.errors import MtlError, one_of

FORMATS = ("jsonl", "csv", "tsv")
INPUT_FORMATS = ("text", "csv", "tsv", "jsonl")


def predict(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    texts: Annotated[
        Path | None, typer.Argument(metavar="[INPUT]", help="Text lines, TSV, CSV or JSONL. [default: standard input]")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", "-t", help="A task of the run; repeat it. [default: all whose columns are there]"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. [default: standard output]")
    ] = None,
    output_format: Annotated[
        str | None, typer.Option("--format", help="jsonl, csv or tsv. [default: by --output, else jsonl]")
    ] = None,
    input_format: Annotated[
        str | None,
        typer.Option("--input-format", help="text, csv, tsv or jsonl. [default: by the file's name, else text]"),
    ] = None,
    header: Annotated[
        bool, typer.Option("--header/--no-header", help="Whether the first line of a CSV or TSV names the columns.")
    ] = True,
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", min=16, help="Largest batch, in padded tokens.")
    ] = 4096,
    device: options.Device = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Predict with a run: one line out for every row in, in the same order.

    A pair in plain text is two texts with a tab between them.

    Example: mtl predict runs/demo --task sst reviews.txt --output predictions.jsonl
    """
    kind = output_format or (output.suffix.lstrip(".").lower() if output is not None else "jsonl")
    if kind not in FORMATS:
        raise MtlError(f'--format: found "{kind}": expected one of {one_of(FORMATS)}')
    if input_format is not None and input_format not in INPUT_FORMATS:
        raise MtlError(f'--input-format: found "{input_format}": expected one of {one_of(INPUT_FORMATS)}')
    from mtlcli.data.reading import FileSource, format_of
    from mtlcli.run_folder import read_record

    read_record(run)
    piped = texts is None or str(texts) == "-"
    if piped and sys.stdin.isatty():
        say("reading lines from the terminal; end with Ctrl-D", err)
    chosen = format_of("-" if texts is None else texts, name=input_format, header=header)  # type: ignore[arg-type]
    source = (
        FileSource("<stdin>", format=chosen, stream=sys.stdin.buffer)
        if piped
        else FileSource(texts or "", format=chosen)
    )

    from mtlcli.devices import autocast, find_device, find_precision
    from mtlcli.prediction import as_cells, as_json, find_readings
    from mtlcli.prediction import predict as run_prediction
    from mtlcli.run_folder import load_run

    place = find_device(device or "auto")
    context = autocast(place, find_precision(precision, place))
    saved, warnings = load_run(run)
    for name in task or ():
        saved.task(name)
    readings = find_readings(saved, source, task or ())
    if not quiet:
        names = [saved.facts[index].name for reading in readings for index in reading.tasks]
        say(f"{run} (step {saved.record['step']}): predicting {one_of(names)}", err)
        for warning in warnings:
            say(f"warning: {warning}", err)
    saved.model.to(place)
    rows = run_prediction(saved, source, readings, device=place, autocast=context, tokens=batch_tokens)
    count = 0
    with _opened(output) as file:
        writer: Any = None
        for row, found in rows:
            count += 1
            if kind == "jsonl":
                file.write(json.dumps(as_json(row, found), ensure_ascii=False) + "\n")
                continue
            cells = as_cells(row, found)
            if writer is None:
                writer = csv.DictWriter(
                    file, list(cells), delimiter="," if kind == "csv" else "\t", lineterminator="\n"
                )
                writer.writeheader()
            writer.writerow(cells)
    if not quiet:
        say(f"{count} rows" + (f" in {output}" if output is not None else ""), err)


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole or not at all."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    if not path.absolute().parent.is_dir():
        raise MtlError(f"--output: there is no folder {path.absolute().parent}")
    if path.is_dir():
        raise MtlError(f"--output: {path} is a folder; expected a file")
    if path.exists() and not path.is_file():  # a device or a named pipe
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    scratch = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        with scratch.open("w", encoding="utf-8", newline="") as file:
            yield file
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
