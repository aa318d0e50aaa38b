"""`mtl ensemble`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.console import err, say, table
from mtlcli.errors import MtlError

if TYPE_CHECKING:
    from mtlcli.runs.ensemble import Ensemble


def ensemble(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="The run folders, or folders of seeds (--seeds); two runs or more."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The ensemble's folder.")],
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=VALUE",
            help="For this task, use only runs whose primary metric on dev reaches VALUE. Repeat it. [default: all runs]",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the ensemble in --output.")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Average several runs, task by task, and use them as one.

    Probabilities are averaged by label, scores in the units of the data.

    Use the folder like a run in eval and predict. Nothing is copied: the runs have to stay where they are.

    Example: mtl ensemble runs/a runs/b runs/c --threshold sst=0.5 --output runs/ensemble
    """
    # Before the imports and before runs are read, so that a malformed value is reported at once.
    thresholds = _thresholds(threshold or [])
    from mtlcli.runs.ensemble import check_place, choose, write

    # Before `choose`, which reads all files of the runs to compare their digests.
    check_place(output, overwrite=overwrite)
    selection = choose(runs, thresholds)
    write(selection, output)
    if quiet:
        return
    for note in selection.notes:
        say(f"note: {note}", err)
    _show(selection)
    say(f"saved in {output}; measure it with: mtl eval {output}")


def _thresholds(texts: list[str]) -> dict[str, float]:
    """Parse TASK=VALUE.

    Raises:
        MtlError: one line for each text of another form, and for a task given twice.
    """
    thresholds: dict[str, float] = {}
    errors = []
    for text in texts:
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        # float() also reads "nan" and "inf".
        if not name or not math.isfinite(number):
            errors.append(f"--threshold {text}: expected TASK=VALUE, such as sst=0.5")
        elif name in thresholds:
            errors.append(f"--threshold {text}: the task {name} is named twice; give one value")
        else:
            thresholds[name] = number
    if errors:
        raise MtlError(*errors)
    return thresholds


def _show(selection: "Ensemble") -> None:
    rows = []
    for task in selection.tasks:
        first = (task.task, task.metric)
        for index, run in enumerate(selection.runs):
            if index in task.members or index in task.left_out:
                value = task.members.get(index, task.left_out.get(index))
                excluded = task.left_out.get(index)
                side = "" if excluded is None else "below" if excluded < (task.threshold or 0) else "above"
                reason = f"left out, {side} {task.threshold:g}" if side else ""
                rows.append((*first, str(run.folder), "not known" if value is None else f"{value:.4f}", reason))
                first = ("", "")
    table("", [("task", ""), ("metric", ""), ("run", ""), ("dev", "right"), ("", "")], rows)
