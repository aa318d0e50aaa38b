"""`mtl table`."""

from pathlib import Path
from typing import Annotated

import typer

from mtlcli.cli import console, options
from mtlcli.errors import MtlError

FORMATS = ("text", "markdown", "csv")


def table(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", help="Run folders, or folders of several seeds. [default: those of --published]"),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="A metric, or all. Repeat it. [default: each task's primary one, and their mean]",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="dev, another split in the results, or a set such as dev.NAME.")] = "dev",
    sets: Annotated[
        bool, typer.Option("--sets", help="Also show each evaluation set; a task's own column is their mean.")
    ] = False,
    normalized: Annotated[
        bool, typer.Option("--normalized", help="Every metric from 0 to 1: (r + 1) / 2 for a correlation.")
    ] = False,
    digits: Annotated[int, typer.Option(min=0, max=15, help="Decimals; csv has all.")] = 3,
    output: Annotated[str, typer.Option("--format", help="text, markdown or csv.")] = "text",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Keep a row for a run that does not exist or is not finished.")
    ] = False,
    published: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A CSV of numbers to show beside the results; its first column names the runs."
        ),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Show the results of finished runs side by side, one row per run.

    A folder of `mtl train --seeds` shows the mean over its seeds and the standard deviation. Use `mtl compare` to test
    differences.

    Example: mtl table runs/equal runs/pcgrad --format markdown
    """  # fmt: skip
    from mtlcli.evaluation import table as results_table
    from mtlcli.sweeps.results import trial_folders

    if output not in FORMATS:
        raise MtlError(f'--format: found "{output}"; expected text, markdown or csv')
    numbers = results_table.read_published(published) if published is not None else None
    # A sweep stands for its trials.
    runs = [run for folder in runs or () for run in trial_folders(folder) or [folder]]
    if not runs and numbers is None:
        raise MtlError("expected one or more run folders, or --published")
    folders = runs or [Path(name) for name in (numbers.rows if numbers else ())]
    try:
        measured = results_table.read(folders, split=split, sets=sets, allow_missing=allow_missing)
    except MtlError as error:
        if runs:
            raise
        raise MtlError(*error.lines, f"{published} names these runs; --allow-missing keeps a row for each") from error
    bounds = results_table.bounds_of(measured)
    results = results_table.tabulate(measured, metrics=metric or (), bounds=bounds, normalized=normalized)
    lines = results_table.exact_lines(results) if output == "csv" else results_table.lines(results, digits)
    if numbers is not None:
        lines = results_table.beside(numbers, lines)
    if output == "csv":
        print(results_table.as_csv(lines))
    elif output == "markdown":
        print(results_table.markdown(lines))
    else:
        # Only text is fitted to the terminal; programs read the other formats.
        folder, lines = results_table.shortened(lines, console.out.width)
        columns = list(zip(lines[0], results_table.sides(lines), strict=True))
        console.table(f"runs in {folder}" if folder else "", columns, lines[1:])
