"""`mtl report`."""

from pathlib import Path
from typing import Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.console import err, say
from mtlcli.errors import MtlError


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders; the first is the baseline.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page in --output.")] = False,
    points: Annotated[int, typer.Option(min=0, help="Rows per task in the pictures of encodings; 0 omits them.")] = 300,
    errors: Annotated[
        int, typer.Option(min=0, help="Worst predictions per task to show with their texts, which may be private.")
    ] = 0,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "",
    debug: options.Debug = False,
) -> None:
    """Write an HTML page about runs: plan, metrics, curves, balance, classes, confusion and encodings.

    Several runs are compared with the first one.

    Example: mtl report runs/demo --output demo.html
    """
    from mtlcli.files import write_whole
    from mtlcli.report import page, sections
    from mtlcli.report.differences import display_names
    from mtlcli.report.embeddings import Cloud, clouds
    from mtlcli.report.errors import worst_rows
    from mtlcli.report.run_files import RunFiles
    from mtlcli.runs.record import read_record, unfinished_note
    from mtlcli.sweeps.results import SWEEP

    # Before anything is read or drawn.
    _check_output(output, runs, overwrite=overwrite)
    if any((folder / SWEEP).is_file() for folder in runs):
        _report_sweep(runs, output, title)
        return
    for folder in runs:
        if (warning := unfinished_note(folder, read_record(folder))) is not None:
            say(f"note: {warning}", err)
    files = [RunFiles(folder) for folder in runs]
    parts = [sections.overview(files)]
    for name, run in zip(display_names(runs), files, strict=True):
        drawn: list[Cloud] = []
        note = ""
        if points:
            say(f"{run.folder}: drawing encodings, which takes seconds; --points 0 omits them", err)
            try:
                drawn, note = clouds(run.folder, points)
            # Its data can be gone or on another machine; the rest of the page does not need it.
            except MtlError as error:
                say(f"note: {run.folder}: no pictures of encodings: {'; '.join(error.lines)}", err)
        worst = worst_rows(run.folder, errors) if errors else None
        parts.append(sections.one_run(run, drawn, note, worst, name=name))
    text = page.page(title or f"mtl report: {', '.join(folder.name for folder in runs)}", parts)
    try:
        # Resolved, because the rename in `write_whole` would replace a link.
        write_whole(output.resolve(), text)
    except MtlError as error:
        raise MtlError(f"--output: {error}") from error
    say(f"wrote {output} ({len(text) / 1e3:.0f} kB)")


def _report_sweep(folders: list[Path], output: Path, title: str) -> None:
    """Write the page of a sweep."""
    from mtlcli.files import write_whole
    from mtlcli.report import page
    from mtlcli.report.sweep import sections
    from mtlcli.sweeps.results import read_sweep

    if len(folders) > 1:
        raise MtlError(f"{folders[0]}: a sweep has a page of its own; name one sweep, or runs alone")
    text = page.page(title or f"mtl sweep: {folders[0].name}", sections(read_sweep(folders[0])))
    try:
        write_whole(output.resolve(), text)
    except MtlError as error:
        raise MtlError(f"--output: {error}") from error
    say(f"wrote {output} ({len(text) / 1e3:.0f} kB)")


def _check_output(output: Path, runs: list[Path], *, overwrite: bool) -> None:
    """Raise where the page cannot be written, or would replace a file of a run or, unasked, another one."""
    if output.is_dir():
        raise MtlError(f"--output: {output} is a folder; expected the name of a page, such as {output}/report.html")
    if not output.parent.is_dir():
        raise MtlError(f"--output: there is no folder {output.parent}")
    if not output.is_file():
        return
    # An earlier page in a run may be replaced, but no other file of the run, even with --overwrite.
    inside = [run for run in runs if output.resolve().is_relative_to(run.resolve())]
    if inside and output.suffix.lower() not in (".html", ".htm"):
        raise MtlError(f"--output: {output} is a file of the run {inside[0]}; choose another name")
    if not overwrite:
        raise MtlError(f"--output: {output} exists already: add --overwrite to replace it")
