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
            help="Of this task, only the runs whose primary metric on dev reaches this. Repeat it. [default: all runs]",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the ensemble in --output.")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Average several runs, task by task, and use them as one.

    Probabilities are averaged by label, scores in the units of the data.

    The folder is used like a run by eval and predict. It copies nothing: the runs have to stay where they are.

    Example: mtl ensemble runs/a runs/b runs/c --threshold sst=0.5 --output runs/ensemble
    """
    thresholds = _thresholds(threshold or [])
    from mtlcli.runs.ensemble import check_place, choose, write

    check_place(output, overwrite=overwrite)
    chosen = choose(runs, thresholds)
    write(chosen, output)
    if quiet:
        return
    for note in chosen.notes:
        say(f"note: {note}", err)
    _show(chosen)
    say(f"saved in {output}; measure it with: mtl eval {output}")


def _thresholds(texts: list[str]) -> dict[str, float]:
    """Raises MtlError with everything that is no TASK=VALUE, and for a task given twice."""
    found: dict[str, float] = {}
    errors = []
    for text in texts:
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not math.isfinite(number):
            errors.append(f"--threshold {text}: expected TASK=VALUE, such as sst=0.5")
        elif name in found:
            errors.append(f"--threshold {text}: the task {name} is named twice; give one value")
        else:
            found[name] = number
    if errors:
        raise MtlError(*errors)
    return found


def _show(chosen: "Ensemble") -> None:
    rows = []
    for task in chosen.tasks:
        first = (task.task, task.metric)
        for index, run in enumerate(chosen.runs):
            if index in task.members or index in task.left_out:
                value = task.members.get(index, task.left_out.get(index))
                left = task.left_out.get(index)
                side = "" if left is None else "below" if left < (task.threshold or 0) else "above"
                said = f"left out, {side} {task.threshold:g}" if side else ""
                rows.append((*first, str(run.folder), "not known" if value is None else f"{value:.4f}", said))
                first = ("", "")
    table("", [("task", ""), ("metric", ""), ("run", ""), ("dev", "right"), ("", "")], rows)
