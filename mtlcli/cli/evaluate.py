"""`mtl eval`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.class_table import show_classes
from mtlcli.cli.console import err, say, show_results, show_warnings
from mtlcli.distributed.world import world


def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a run or an ensemble.")],
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            "-t",
            metavar="NAME[=FILE]",
            help="Only this task, or this task on other labeled rows. Repeat it. [default: all but auxiliary ones]",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder with the files that the tasks expect, in place of the run's own.")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            help="dev, test, train, or a set such as dev.NAME. Repeat it. [default: dev, and test if it exists]",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Columns of other rows, or other metrics: --set tasks.sst.label=grade. Repeat it.",
        ),
    ] = None,
    per_class: Annotated[
        bool,
        typer.Option("--per-class", help="Show precision, recall and F1 of each class, or type of spans, as well."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of the intervals.")] = 1000,
    device: options.Device = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Evaluate a run per task and split, with 95 % bootstrap intervals.

    The results of an ensemble are saved in its folder, for `mtl table`.

    Example: mtl eval runs/demo --json
    """
    from mtlcli.config.layers import parse_assignment
    from mtlcli.evaluation.evaluate import evaluate
    from mtlcli.runs.results import plain_classes, plain_results

    evaluation = evaluate(
        run, [options.parse_task(text) for text in task or ()], data=data, splits=split,
        changes=[parse_assignment(text) for text in sets or ()], resamples=resamples, device=device or "auto",
        precision=precision, by_class=per_class,
    )  # fmt: skip
    results = evaluation.results
    # The other processes have predicted their part of the rows and have no results.
    if not world().is_main:
        return
    if not quiet:
        # On standard error, so that --json leaves only JSON on standard output.
        for note in evaluation.notes:
            say(f"note: {note}", err)
    if as_json:
        if not quiet:
            show_warnings(results)
        values = {"tasks": plain_results(results)} | (
            {"classes": plain_classes(evaluation.classes)} if per_class else {}
        )
        print(json.dumps(values, indent=None if quiet else 1))
    else:
        show_results(results, f"{run}")
        show_classes(evaluation)
