"""`mtl predict`."""

import csv
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TextIO, cast

import typer

from mtlcli.cli import options
from mtlcli.cli.console import RowsView, err, say
from mtlcli.distributed.world import world
from mtlcli.errors import MtlError, one_of
from mtlcli.files import put, remove_abandoned, scratch_path

if TYPE_CHECKING:
    from mtlcli.data.readers import FileSource
    from mtlcli.inference.predict import Reading, Tally

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    "": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".conll": "conll",
    ".conllu": "conllu",
}
INPUT_FORMATS = ("text", "csv", "tsv", "jsonl", "json", "parquet", "conll", "conllu")
PRECISIONS = ("auto", "fp32", "bf16")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""Errors of a file being written that are not bugs."""


def predict(
    run: Annotated[Path, typer.Argument(help="The folder of a run or an ensemble.")],
    texts: Annotated[
        Path | None,
        typer.Argument(
            metavar="[INPUT]",
            help="Text lines, TSV, CSV, JSONL, JSON, Parquet, CoNLL or CoNLL-U. [default: standard input]",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            "-t",
            help="A task of the run. Repeat it. [default: all whose columns exist, without auxiliary ones]",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. [default: standard output]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file in --output.")] = False,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="keep|none|NAME,...",
            help="Columns of the input to copy to the output. [default: keep; none for plain text]",
        ),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option("--format", help="jsonl, csv, tsv, conll, conllu or squad. [default: by --output, else jsonl]"),
    ] = None,
    input_format: Annotated[
        str | None,
        typer.Option(
            "--input-format",
            help="text, csv, tsv, jsonl, json, parquet, conll or conllu. [default: by the file's name, else text]",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN[,COLUMN]",
            help="Columns to read, by name or number from 0; two for a pair. [default: those of training]",
        ),
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="Whether the first line of a CSV or TSV names the columns. [default: as in training]",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            min=0,
            max=1,
            help="Predict labels and answers of this probability or more. [default: the thresholds that the run tuned on dev]",
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            "--batch-tokens", min=16, help="Largest batch, in tokens. [default: 1024 on a CPU, 8192 on a GPU]"
        ),
    ] = None,
    device: options.Device = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Predict with a run: one row of output for every row of input, in the same order.

    The input's columns are copied, and predictions are in separate columns. A pair in plain text is two texts with a
    tab between them.

    Example: echo "we found the soup delightful" | mtl predict runs/demo --task sst
    """
    # Options are checked before anything is imported or read.
    kind = _output_format(output, output_format)
    if input_format is not None and input_format not in INPUT_FORMATS:
        raise MtlError(f'--input-format: found "{input_format}": expected one of {one_of(INPUT_FORMATS)}')
    if precision not in PRECISIONS:
        raise MtlError(f'--precision: found "{precision}": expected one of {one_of(PRECISIONS)}')
    from mtlcli.inference.predictor import open_run

    together = world()
    quiet = quiet or not together.is_main
    outline = open_run(run)
    record = outline.record
    for name in task or ():
        outline.task(name)
    to_file = _check_output(output, texts, overwrite=overwrite)
    if header is None:
        # The tasks share one file, which has a header if that of any task had one.
        header = any(record["tasks"][name]["config"]["header"] for name in task or record["tasks"])
    source, first, ready = _opened_input(texts, input_format, header)
    if input_format is None and source.format.name == "text":
        # Only a guess from the first line, so --input-format text overrides it.
        _must_be_text(source.name, first, {text for section in record["tasks"].values() for text in section["text"]})

    from mtlcli.devices import autocast, find_device, find_precision
    from mtlcli.inference.answers import answer_output
    from mtlcli.inference.output import output_columns
    from mtlcli.inference.predict import Tally, check, find_readings
    from mtlcli.inference.predict import predict as run_prediction
    from mtlcli.inference.sentences import sentence_output

    if not together.is_alone and ready is not None:
        raise MtlError(f"{source.name}: several processes read a file together, and this is a pipe; use one process")
    place = find_device(device or "auto", None if together.is_alone else together.launch.local_rank)
    context = autocast(place, find_precision(precision, place))
    readings = find_readings(record, source, task or (), text.split(",") if text else (), first)
    # In the order of the run, whatever the order of --task.
    tasks = sorted(index for reading in readings for index in reading.tasks)
    if threshold is not None:
        outline = outline.with_threshold(threshold, tasks)
    facts = [outline.facts[index] for index in tasks]
    layout = output_columns(source, facts, columns)
    labels = {name: section["label"] for name, section in record["tasks"].items()}
    sentences = sentence_output(source, facts, labels, kind) if kind.startswith("conll") else None
    answers = answer_output(source, facts) if kind == "squad" else None
    # A bad row after hours of work would be too late, so a file is read once before the model is loaded.
    total = check(source, readings) if ready is None else None
    predictor, warnings = outline.load(place, tasks)
    if not quiet:
        for note in outline.notes:
            say(f"note: {note}", err)
        say(f"{run} ({outline.title}): predicting {one_of(outline.facts[index].name for index in tasks)}", err)
        for warning in warnings:
            say(f"warning: {warning}", err)
        for note in _notes(source, readings, text, record, layout.prefixes):
            say(f"note: {note}", err)
    tally, count = Tally(), 0
    # Rows on the same terminal show the progress themselves, and would be drawn over the bar.
    view = RowsView(total, quiet=quiet or (not to_file and output is None and sys.stdout.isatty()))
    rows = run_prediction(
        predictor, source, readings, device=place, autocast=context, tokens=batch_tokens, ready=ready, tally=tally,
        advance=view.advance, world=together,
    )  # fmt: skip
    if not together.is_main:
        # Every process computes a part of the batches and receives all rows, but only the first one writes them.
        output, to_file = Path(os.devnull), False
    with _opened(output, to_file) as file, view:
        write_row = _table_writer(file, kind, layout.header()) if kind in ("csv", "tsv") else None
        for row, predictions in rows:
            if sentences is not None:
                file.write(sentences.sentence(row, predictions) + "\n\n")
            elif answers is not None:
                # SQuAD predictions are one JSON object. It is written entry by entry, in constant memory.
                file.write(("{\n" if not count else ",\n") + answers.entry(row, predictions))
            elif write_row is None:
                file.write(layout.json_line(row, predictions) + "\n")
            else:
                write_row(layout.cells(row, predictions))
            count += 1
        if answers is not None:
            file.write("\n}\n" if count else "{}\n")
    if not quiet:
        say(_summary(count, tally, output), err)


def _summary(count: int, tally: "Tally", output: Path | None) -> str:
    """Return `3 rows in a.csv; 1 longer than 32 tokens, cut there; 1 with an empty text`."""
    parts = [f"{count} row{'' if count == 1 else 's'}" + (f" in {output}" if output is not None else "")]
    if tally.truncated:
        parts.append(f"{tally.truncated} longer than {tally.max_length} tokens, cut there")
    if tally.blank:
        parts.append(f"{tally.blank} with an empty text")
    return "; ".join(parts)


def _notes(
    source: "FileSource", readings: "list[Reading]", text: str | None, record: dict[str, Any], prefixes: Mapping[str, str]
) -> list[str]:  # fmt: skip
    """Return what deserves a note: a first line taken for a header, and predictions that had to be renamed."""
    wanted = text.split(",") if text else [name for section in record["tasks"].values() for name in section["text"]]
    notes = [source.header_note(tuple(dict.fromkeys(wanted)), "say --no-header")] if readings else []
    notes += [
        f'{source.name} has a column called like the predictions of {task}; these are called "{prefix}"'
        for task, prefix in prefixes.items()
        if prefix != task
    ]
    return [note for note in notes if note]


def _output_format(output: Path | None, name: str | None) -> str:
    if name is not None and name not in (*FORMATS.values(), "squad"):
        raise MtlError(f'--format: found "{name}": expected jsonl, csv, tsv, conll, conllu or squad')
    suffix = output.suffix.lower() if output is not None else ""
    if name is None and suffix not in FORMATS:
        raise MtlError(
            f"--output: {output}: its name does not tell the format; add --format jsonl, csv, tsv, conll, conllu or squad"
        )
    return name or FORMATS[suffix]


def _opened_input(
    path: Path | None, name: str | None, header: bool
) -> "tuple[FileSource, str, Callable[[float], bool] | None]":
    """Return the rows, the first line of plain text, and, for a pipe, the function that says whether more has arrived."""
    from mtlcli.data.bad_rows import BadRows
    from mtlcli.data.formats import format_of
    from mtlcli.data.pipe import Pipe
    from mtlcli.data.readers import FileSource, iterate

    format_ = format_of(path or "-", name=name, header=header)  # type: ignore[arg-type]
    piped = path is None or str(path) == "-"
    # A folder or a missing file is left to the reader, which reports it. What remains is a named pipe or a device.
    if not piped and (path is None or path.is_dir() or path.is_file() or not path.exists()):
        source = FileSource(path or "", format=format_)
        plain = format_.name == "text"
        row = next(iterate(source, BadRows()), None) if plain else None
        return source, row.values["text"] if row else "", None
    if piped and sys.stdin.isatty():
        say("reading lines from the terminal; end with Ctrl-D", err)
    pipe = Pipe(sys.stdin.fileno() if piped else os.open(path or "", os.O_RDONLY))
    source = FileSource("<stdin>" if piped else path or "", format=format_, stream=cast(BinaryIO, pipe))
    return source, pipe.peek().decode(errors="replace") if format_.name == "text" else "", pipe.ready


def _must_be_text(name: str, first: str, columns: set[str]) -> None:
    """Raise for a table or JSONL that only its first line tells from plain text."""
    fields = [field.strip().strip('"') for field in re.split("[\t,;]", first)]
    # A number is the column of a file without a header, and may begin any text.
    names = [field for field in fields if field in columns and not field.isdecimal()]
    if first.startswith("{") and any(f'"{column}":' in first for column in columns):
        kind = "JSONL: say --input-format jsonl"
    elif names and len(fields) > 1:
        kind = f"a table with the column {names[0]}: say --input-format csv or tsv"
    else:
        return
    raise MtlError(f"{name}:1: this looks like {kind}, or text if it is plain text")


def _table_writer(file: TextIO, kind: str, header: list[str]) -> Callable[[list[str]], object]:
    """Write the header and return the function that writes a row.

    TSV has no quoting, so a tab or a line end in a cell becomes a space.
    """

    def write_tsv(cells: list[str]) -> None:
        file.write("\t".join(re.sub(r"[\t\r\n]", " ", cell) for cell in cells) + "\n")

    write = csv.writer(file, lineterminator="\n").writerow if kind == "csv" else write_tsv
    write(header)
    return write


def _check_output(path: Path | None, source: Path | None, *, overwrite: bool) -> bool:
    """Return whether the output is a file of its own, which appears whole or not at all, rather than a stream.

    Raises:
        MtlError: the output cannot be written, exists already, or is the input.
    """
    if path is None or str(path) == "-" or _is_standard_output(path):
        # `mtl predict RUN a.txt >> a.txt` would read its own output.
        if source is not None and source.is_file() and _is_standard_output(source):
            raise MtlError(f"{source}: is the input and the output; write to another file")
        return False
    if source is not None and source.is_file() and path.exists() and path.samefile(source):
        raise MtlError(f"--output: {path} is the input; write to another file")
    if path.is_dir():
        raise MtlError(f"--output: {path} is a folder; expected a file")
    if not path.absolute().parent.is_dir():
        raise MtlError(f"--output: there is no folder {path.absolute().parent}; create it first")
    # A link in /dev, such as /dev/stdout, can lead to a regular file, which a rename must not replace.
    if path.exists() and (not path.is_file() or path.absolute().is_relative_to("/dev")):
        return False
    if path.exists() and not overwrite:
        raise MtlError(f"--output: {path} exists already: add --overwrite to replace it")
    # The folder behind a link, because the scratch file is written there.
    if not os.access(path.resolve().parent, os.W_OK):
        raise MtlError(f"--output: no permission to write in {path.resolve().parent}; choose another folder")
    return True


@contextmanager
def _opened(path: Path | None, to_file: bool) -> Iterator[TextIO]:
    """Open the place where predictions go.

    A file is written beside its place and moved there at the end; what precedes the bad row of a pipe is kept under
    another name. A stream gets every row at once.
    """
    if path is None or str(path) == "-" or (not to_file and _is_standard_output(path)):
        if isinstance(sys.stdout, io.TextIOWrapper):
            # UTF-8 in every locale, and each row at once for the program that reads a pipe.
            sys.stdout.reconfigure(encoding="utf-8", newline="\n", line_buffering=True)
        yield sys.stdout
        sys.stdout.flush()
        return
    # A rename would replace a link; this replaces the file that it leads to.
    path = path.resolve() if to_file else path
    scratch = path
    if to_file:
        remove_abandoned(path.parent)
        scratch = scratch_path(path.parent)
    try:
        with scratch.open("w", encoding="utf-8", newline="\n", buffering=-1 if to_file else 1) as file:
            yield file
        if to_file:
            put(scratch, path)
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise MtlError(f"--output: {path} cannot be written: {error.strerror}") from error
    except MtlError as error:
        if not to_file or not scratch.exists() or not scratch.stat().st_size:
            raise
        partial = path.with_name(f"{path.name}.partial")
        scratch.replace(partial)
        raise MtlError(
            *error.lines, f"--output: {partial} holds the predictions up to there; {path} is untouched"
        ) from error
    finally:
        if to_file:
            scratch.unlink(missing_ok=True)


def _is_standard_output(path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):
        return False
